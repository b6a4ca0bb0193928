"""One file, one method. `agents.<method>.fit(log)` learns; `model.policy(budget)` allocates.

`serve(folder, budget)` answers for a saved model, without torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from agents.common.files import read_meta
from agents.common.knapsack import Allocation, CostCurve, cost_curve, solve_mckp
from agents.common.served.served_policies import Decision
from agents.common.served.serving import Server, serve
from agents.common.types import Forecast, Model

__all__ = [
    "Allocation",
    "CostCurve",
    "Decision",
    "Forecast",
    "Model",
    "Server",
    "cost_curve",
    "load",
    "serve",
    "solve_mckp",
]


def load(folder: str | Path) -> Model:
    """Read a saved model of any method of this package.

    Raises:
        ValueError: if the folder is no model or a damaged one, or its method is not one of this
            package's files.
    """
    method = read_meta(folder).get("method")
    known = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")
    if method not in known:
        raise ValueError(f"{folder}: method {method!r}, allowed are {', '.join(known)}")
    try:
        return cast(Model, import_module(f"agents.{method}").load(folder))
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{folder} holds no complete {method} model: {error}") from error
