"""Experiments as Python literals: which campaign, which log, which budgets, which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Suite:
    """A table: every method on every setting with every training seed."""

    settings: tuple[Setting, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PRESETS = ("payment_bonus", "short_video_coins", "food_coupons", "grocery")
METHODS = ("mixed_policy", "greedy_uplift")

# One preset, for `make demo`.
DEMO = Suite(
    settings=(
        Setting(
            "demo", "payment_bonus", log_users=30_000, test_users=500,
            test_seeds=tuple(range(1_000, 1_008)), repeats=3,
        ),
    ),
    methods=METHODS,
)  # fmt: skip

_FIRST: tuple[tuple[Behaviour, str], ...] = (
    *(("random", name) for name in PRESETS),
    ("production", "payment_bonus"),
    ("production", "food_coupons"),
)

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
            "mixed_policy": {"steps": 40, "width": 32, "prices": 8},
            "greedy_uplift": {"width": 32},
        },
    ),
    "demo": DEMO,
    # The first table: every preset under random logs, two under production-like ones.
    "first": Suite(
        settings=tuple(
            Setting(
                f"{name}-{behaviour}", name, behaviour=behaviour,
                test_users=500,
                test_seeds=tuple(range(1_000, 1_020)), repeats=2,
            )
            for behaviour, name in _FIRST
        ),
        methods=METHODS,
    ),
}  # fmt: skip
