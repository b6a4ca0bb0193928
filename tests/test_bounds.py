"""Settings that no method can work with are refused when they are made, by their names."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import Any, get_type_hints

import pytest

from agents.common.bounds import BOUNDS
from experiments.methods import method_names
from experiments.train import main

METHODS = (*method_names(), "ppo_lagrangian", "sb3_price")
CONFIGS = {name: import_module(f"agents.{name}").Config for name in METHODS}
NUMBERS = [
    (name, field.name)
    for name, config in CONFIGS.items()
    for field in dataclasses.fields(config)
    if get_type_hints(config)[field.name] in (int, float)
]


def outside(bounds: str) -> list[Any]:
    """Numbers and others that an interval does not hold."""
    low, high = (float(end) for end in bounds[1:-1].split(","))
    ends = [end for end, bracket in ((low, bounds[0]), (high, bounds[-1])) if bracket in "()"]
    return [low - 1, high + 1, float("nan"), "2", None, *ends]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_every_number_has_bounds(name: str, field: str) -> None:
    assert field in BOUNDS
    for value in outside(BOUNDS[field]):
        with pytest.raises(ValueError, match=f"{field} = .*: allowed are .*numbers in "):
            CONFIGS[name](**{field: value})


def test_counts_are_whole() -> None:
    with pytest.raises(ValueError, match=r"folds = 2\.5: allowed are whole numbers in"):
        CONFIGS["mixed_policy"](folds=2.5)


@pytest.mark.parametrize("bounds", sorted(set(BOUNDS.values())))
def test_ends_that_belong_to_an_interval_are_allowed(bounds: str) -> None:
    name, field = next((n, f) for n, f in NUMBERS if BOUNDS[f] == bounds)
    low, high = bounds[1:-1].split(",")
    for end, bracket in ((low, bounds[0]), (high, bounds[-1])):
        if bracket in "[]":
            assert getattr(CONFIGS[name](**{field: float(end)}), field) == float(end)


def test_choices_are_listed() -> None:
    with pytest.raises(ValueError, match="oracle = 'delphi': allowed are factored, plain"):
        CONFIGS["mixed_policy"](oracle="delphi")


def test_the_command_line_says_so() -> None:
    with pytest.raises(SystemExit, match="error: --folds = 0: allowed are whole numbers in"):
        main(["--log", "nowhere", "--out", "nowhere", "--folds", "0"])
