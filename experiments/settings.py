"""Experiments as Python literals: which campaign, which log, which budgets, which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Behaviour = Literal["random", "production", "mixture"]


@dataclass(frozen=True)
class Setting:
    """One campaign with its log, and how policies learned from it are judged."""

    name: str
    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    behaviour: Behaviour = "random"
    epsilon: float = 0.2  # exploration of the production-like policy
    log_users: int = 50_000
    # Shares of what the unconstrained optimum would spend.
    budget_shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.6)
    test_users: int = 1_000  # fresh users per evaluation seed
    test_seeds: tuple[int, ...] = tuple(range(1_000, 1_010))
    repeats: int = 4  # campaigns of the same users with other luck
    hard_limit: bool = True  # judge under an enforced budget too


@dataclass(frozen=True)
class Suite:
    """A table: every method on every setting with every training seed."""

    settings: tuple[Setting, ...]
    methods: tuple[str, ...]  # rows of the table
    seeds: tuple[int, ...] = (0,)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by row
    variants: Mapping[str, str] = field(default_factory=dict)  # row -> method, where they differ
    references: bool = True  # simulate the exact optimum and the perfect myopic policy too


PRESETS = ("payment_bonus", "short_video_coins", "food_coupons", "grocery")
METHODS = ("mixed_policy", "greedy_uplift")
# Published systems for marketing budgets.
PUBLISHED = (
    "greedy_uplift", "end_to_end", "dfcl", "bi_dfcl", "cluster", "bcorle", "bcrlsp",
    "decision_transformer",
)  # fmt: skip
# Other players of the game between prices and policies.
GAMES = (
    "price_bisection", "exponentiated_gradient", "approachability", "conditional_gradient",
    "price_bandit", "policy_switching",
)  # fmt: skip
# Every learner that needs a log alone and no further library.
OFFLINE = ("mixed_policy", *PUBLISHED, *GAMES, "budgeted_fitted_q", "behaviour_cloning")
# Settings for small logs, which fewer gradient steps exhaust.
_BRIEF: dict[str, dict[str, Any]] = {
    "mixed_policy": {"steps": 300},
    "bcorle": {"steps": 3_000},
    "bcrlsp": {"steps": 300},
    "decision_transformer": {"steps": 300, "updates": 600, "users": 5_000},
    **{name: {"steps": 300} for name in GAMES},
    "conditional_gradient": {"steps": 300, "solver": "conditional_gradient"},
}
_VARIANTS = {"conditional_gradient": "approachability"}
_CONFIGS = {"conditional_gradient": {"solver": "conditional_gradient"}}

# One preset, for `make demo`.
DEMO = Suite(
    settings=(
        Setting(
            "demo", "payment_bonus", log_users=20_000, test_users=500,
            test_seeds=tuple(range(1_000, 1_008)), repeats=3,
        ),
    ),
    methods=METHODS,
    configs={"mixed_policy": {"steps": 300}},  # for minutes, not a quarter of an hour
)  # fmt: skip

# Which log of which campaign; the first four are those of `small`.
_LOGS: tuple[tuple[Behaviour, str], ...] = (
    ("random", "payment_bonus"),
    ("random", "short_video_coins"),
    ("random", "food_coupons"),
    ("production", "payment_bonus"),
    ("production", "food_coupons"),
    ("mixture", "payment_bonus"),
    ("random", "grocery"),
)


def _judged(name: str, preset: str, **changes: Any) -> Setting:
    """A setting on 20 fresh populations of 1,000 users: users differ more than campaigns do."""
    return Setting(
        name, preset, test_users=1_000, test_seeds=tuple(range(1_000, 1_020)), repeats=1,
        hard_limit=False, **changes,
    )  # fmt: skip


_SMALL = tuple(
    replace(
        _judged(f"{name}-{behaviour}", name, behaviour=behaviour, log_users=5_000), test_users=250
    )
    for behaviour, name in _LOGS[:4]
)

# Parts of the main method, each switched off (or on) alone; trained as briefly as in `small`.
_PARTS: dict[str, dict[str, Any]] = {
    "mixed_policy": {},
    "plain oracle": {"oracle": "plain"},
    "no cross-fitting": {"folds": 1},
    "two members": {"folds": 2},
    "no pooling of days": {"pooled": 0},
    "seven prices": {"prices": 7},
    "no margin": {"risk": 0.5},
    "no leeway": {"leeway": 0.0},
    "pessimism 1": {"pessimism": 1.0},
    "pacing": {"pacing": True},
}

SUITES = {
    "toy": Suite(
        settings=(
            Setting(
                "toy", "toy", log_users=2_000, budget_shares=(0.1, 0.4), test_users=300,
                test_seeds=(1_000, 1_001), repeats=1,
            ),
        ),
        methods=METHODS,
        configs={
            "mixed_policy": {
                "folds": 2, "steps": 40, "width": 32, "prices": 8, "outcome_epochs": 2,
            },
            "greedy_uplift": {"width": 32},
        },
    ),
    "demo": DEMO,
    # Every learner on small logs of 5,000 users, trained briefly: less than half an hour.
    "small": Suite(
        settings=_SMALL, methods=OFFLINE, seeds=(10,), configs=_BRIEF, variants=_VARIANTS
    ),
    # ... by ten training seeds, on the random logs.
    "seeds": Suite(
        settings=_SMALL[:3], methods=OFFLINE, seeds=tuple(range(10, 20)), configs=_BRIEF,
        variants=_VARIANTS,
    ),
    # Every learner on every kind of log, by 20 seeds: days of computing, resumed at any time.
    "full": Suite(
        settings=tuple(
            _judged(f"{name}-{behaviour}", name, behaviour=behaviour) for behaviour, name in _LOGS
        ),
        methods=OFFLINE,
        seeds=tuple(range(10, 30)),
        configs=_CONFIGS,
        variants=_VARIANTS,
    ),
    # The main method by the number of logged users.
    "size": Suite(
        settings=tuple(
            _judged(f"payment_bonus-{n // 1000}k", "payment_bonus", log_users=n)
            for n in (10_000, 25_000, 50_000, 100_000, 200_000, 400_000)
        ),
        methods=("mixed_policy",),
        seeds=tuple(range(10, 20)),
        references=False,
    ),
    # ... and, on small logs, by the share of users' differences that nothing observed explains.
    "hidden": Suite(
        settings=tuple(
            replace(
                _SMALL[0], name=f"payment_bonus-{share}%", overrides={"unobserved": share / 100}
            )
            for share in (0, 20, 50)
        ),
        methods=METHODS,
        seeds=tuple(range(10, 20)),
        configs=_BRIEF,
    ),
    "ablation": Suite(
        settings=(
            _judged("payment_bonus-random", "payment_bonus", log_users=5_000),
            _judged(
                "payment_bonus-production", "payment_bonus", behaviour="production",
                log_users=5_000,
            ),
        ),
        methods=tuple(_PARTS),
        configs={row: _BRIEF["mixed_policy"] | part for row, part in _PARTS.items()},
        variants=dict.fromkeys(_PARTS, "mixed_policy"),
        seeds=tuple(range(10, 20)),
        references=False,
    ),
}  # fmt: skip
