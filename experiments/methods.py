"""Methods by name: the folder `agents/` is the list, and a module path adds a colleague's."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import agents


def method_names() -> list[str]:
    """Learners of this package, by file name."""
    folder = Path(agents.__file__).parent
    names = sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")
    return [name for name in names if not _needs_simulator(folder / f"{name}.py")]


def method(name: str) -> ModuleType:
    """The module of a method: a file of `agents/`, or a dotted path such as `my_lab.thrifty`.

    Raises:
        ValueError: if there is no such module, or it has no `Config` and `fit`.
    """
    path = name if "." in name else f"agents.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise ValueError(
            f"no method {name!r}: there are {', '.join(method_names())},"
            " or the dotted path of a module of yours"
        ) from error
    for part in ("Config", "fit"):
        if not hasattr(module, part):
            raise ValueError(f"{path} is no method: it has no {part}")
    return module


def _needs_simulator(path: Path) -> bool:
    return "NEEDS_SIMULATOR = True" in path.read_text()
