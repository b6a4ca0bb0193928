"""What is tried for each method: as many settings for everyone, beside those it has now.

Trials change the settings of the suite `small`, whose logs are as large as those of the trials.
What plays the game with shared best responses (`sharing.py`) tries moves of its own that need no
further pass over the log, and one oracle that others try too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.settings import SUITES, Setting, Suite
from marketing_env import preset

Trial = Mapping[str, Any]  # settings that differ from the present ones

BASE = SUITES["small"]
# None is a seed of the logs (10 and more) or populations (1,000 to 1,019) that results are made of.
LOG_SEEDS = (0, 1)
POPULATIONS = tuple(range(800, 810))

_AS_IT_IS: Trial = {}
_BOLD: Trial = {"risk": 0.2}  # a plan with less margin
_FAST: Trial = {"learning_rate": 1e-2}  # twice the present rate of the values
_FINE: Trial = {"prices": 40}  # many more best responses

TRIALS: dict[str, tuple[Trial, ...]] = {
    "mixed_policy": (_AS_IT_IS, _BOLD, _FINE, _FAST),
    "price_bisection": (_AS_IT_IS, _BOLD, _FINE, _FAST),
    "exponentiated_gradient": (_AS_IT_IS, _BOLD, {"pace": 3.0}, {"rounds": 300}),
    "approachability": (_AS_IT_IS, _BOLD, {"pace": 1.0}, {"rounds": 300}),
    "conditional_gradient": (_AS_IT_IS, _BOLD, {"tolerance": 0.003}, {"rounds": 300}),
    "price_bandit": (_AS_IT_IS, _BOLD, {"arms": 8}, {"rounds": 1_000}),
    "policy_switching": (_AS_IT_IS, _BOLD, {"heads": 8}, {"limit": "each"}),
    "budgeted_fitted_q": (_AS_IT_IS, _BOLD, {"budgets": 20}, _FAST),
    "bcrlsp": (_AS_IT_IS, _BOLD, {"judge_share": 0.15}, _FAST),
    "bcorle": (_AS_IT_IS, {"steps": 9_000}, {"tau": 0.05}, {"learning_rate": 5e-3}),
    "decision_transformer": (_AS_IT_IS, {"updates": 1_200}, {"guidance": 10.0}, {"expectile": 0.9}),
    "greedy_uplift": (_AS_IT_IS, {"epochs": 12.0}, {"folds": 4}, {"learner": "t"}),
    "end_to_end": (_AS_IT_IS, {"warm_epochs": 12.0}, {"alpha": 0.3}, {"alpha": 3.0}),
    "dfcl": (_AS_IT_IS, {"warm_epochs": 12.0}, {"alpha": 0.3}, {"loss": "merl"}),
    "bi_dfcl": (_AS_IT_IS, {"warm_epochs": 12.0}, {"epochs": 6.0}, {"primal": True}),
    "cluster": (_AS_IT_IS, {"epochs": 12.0}, {"clusters": 50}, {"risk": 0.1}),
    "behaviour_cloning": (_AS_IT_IS, _BOLD, {"epochs": 4.0}, {"epochs": 16.0}),
}
MOST = min(len(trials) for trials in TRIALS.values())


def trial_suite(
    methods: tuple[str, ...], presets: tuple[str, ...], trials: int, seeds: tuple[int, ...]
) -> Suite:
    """A row `METHOD-NUMBER` for each of the first trials of the methods.

    Raises:
        ValueError: for a method without trials, more trials than there are, or an unknown preset.
    """
    for name in methods:
        if name not in TRIALS:
            raise ValueError(f"no trials of {name!r}: there are {', '.join(TRIALS)}")
    if not 1 <= trials <= MOST:
        raise ValueError(f"trials = {trials}: allowed is 1 to {MOST}")
    rows = {f"{m}-{i + 1}": (m, TRIALS[m][i]) for i in range(trials) for m in methods}
    return Suite(
        settings=tuple(_validated(name) for name in presets),
        methods=tuple(rows),
        seeds=seeds,
        configs={
            row: {**BASE.configs.get(name, {}), **trial} for row, (name, trial) in rows.items()
        },
        variants={row: BASE.variants.get(name, name) for row, (name, _) in rows.items()},
        references=False,
    )


def _validated(name: str) -> Setting:
    preset(name)  # complains if there is none
    return Setting(
        f"{name}-random", name, log_users=5_000, test_users=250, test_seeds=POPULATIONS,
        repeats=1, hard_limit=False,
    )  # fmt: skip
