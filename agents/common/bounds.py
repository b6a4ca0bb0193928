"""What the settings of methods may be: a name means the same in all, within the same bounds."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin, get_type_hints

# As intervals are written: [ and ] hold the end, ( and ) do not.
_BOUNDS = {
    "[1, inf)": "arms batch budgets campaigns folds heads inner layers measured_on min_leaf rounds"
    " solver_steps steps tokens trees updates users width",
    "[2, inf)": "judged leaves prices samples",
    "[0, inf)": "alpha clusters damping epochs guidance leeway pessimism pooled tolerance"
    " warm_epochs workers",
    "(0, inf)": "bridge_rate dual_rate learning_rate outcome_epochs pace rate reach tau"
    " temperature",
    "(0, 1)": "cheapest expectile flexibility judge_share risk trial_share",
    "[0, 1)": "least_support",
    "[0, 1]": "gae",
}
BOUNDS = {name: bounds for bounds, names in _BOUNDS.items() for name in names.split()}


def check(config: Any) -> None:
    """Refuse settings that no method can work with; a `Config` asks it when it is made.

    Raises:
        ValueError: if a number is out of bounds, or a choice is not one of its `Literal`.
    """
    hints = get_type_hints(type(config))
    for name, value in vars(config).items():
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else (value,)
        if value not in choices:
            raise ValueError(f"{name} = {value!r}: allowed are {', '.join(map(str, choices))}")
        # Settings that may also be a list, or nothing, are the method's own affair.
        numbers = {int: "whole numbers", float: "numbers"}.get(hints[name])
        if name in BOUNDS and numbers and not _within(BOUNDS[name], value, hints[name] is int):
            raise ValueError(f"{name} = {value!r}: allowed are {numbers} in {BOUNDS[name]}")


def _within(bounds: str, value: Any, whole: bool) -> bool:
    low, high = (float(end) for end in bounds[1:-1].split(","))
    if not isinstance(value, (int, float)) or not low <= value <= high:
        return False
    if (value == low and bounds[0] == "(") or (value == high and bounds[-1] == ")"):
        return False
    return not whole or value == int(value)
