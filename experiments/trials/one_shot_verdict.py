"""What the one-shot tables say, in sentences made from their numbers.

An interval that is all on one side of 0 shows a difference; else none is shown. Several are looked
at, each on its own, without a correction for their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from experiments.trials.one_shot_methods import DECISION, REFERENCE

Row = dict[str, Any]
AXES = {"noise": "noise {:g}", "users_per_arm": "{:,} users an arm"}
ROUNDING = 1e-9  # two policies that decide alike still differ by this much


def verdict(data: str, tables: Mapping[str, Any]) -> list[str]:
    """One sentence or more for each question; nothing where there are no numbers."""
    says = {"lbcf": of_regrets, "hillstrom": of_mails, "starbucks": of_promotion}
    return list(says.get(data, of_rankings)(tables))


def of_regrets(tables: Mapping[str, Any]) -> Iterator[str]:
    """Do decision-focused methods beat the two-stage one, where, and why."""
    compared = [c for c in tables["contrasts"] if c["measure"] == "regret"]
    if not compared:
        return
    whole = compared[0]
    yield (
        f"Decision-focused methods, in the mean over settings and budgets, against `{REFERENCE}`,"
        f" the same network without a decision loss: {_gap(whole)} points of regret over"
        f" {whole['seeds']} seeds; {_decided(whole, 'they beat it', 'it beats them')}."
    )
    for by in ("noise", "shift", "share", "users_per_arm"):
        found = [c for c in compared if c["by"] == by]
        if len(found) > 1:
            yield (
                f"By {by.replace('_', ' ')}: "
                + "; ".join(f"{_value(by, c['value'])} {_gap(c)}" for c in found)
                + f". {_extremes(found, by)}"
            )
    equal = next(c for c in tables["contrasts"] if c["measure"] == "regret_equal")
    yield (
        f"With every policy's real spend brought to the budget the difference is {_gap(equal)}: so"
        f" much is due to whom they choose, the rest to how well they keep the budget."
    )
    yield from _each_method(tables["regrets"])
    if best := tables["best"]:
        yield (
            f"The best decision-focused method, `{best['method']}`, against the best two-stage one,"
            f" `{best['against']}` (both chosen by these numbers): {_gap(best)} points of regret;"
            f" {_decided(best, 'the first is better', 'the second is better')}."
        )
    yield from _unknowable(tables["regrets"])


def _each_method(rows: Sequence[Row]) -> Iterator[str]:
    """In how many settings each decision-focused method is better than the reference."""
    focused = sorted((r for r in rows if r["kind"] == DECISION), key=lambda r: str(r["method"]))
    for method, found in groupby(focused, key=lambda r: str(r["method"])):
        part = list(found)
        better = [_cell(r) for r in part if r["difference_high"] < 0]
        worse = [_cell(r) for r in part if r["difference_low"] > 0]
        yield (
            f"`{method}` has less regret than `{REFERENCE}` in {len(better)} of {len(part)}"
            f" settings{_list(better)}, more in {len(worse)}{_list(worse)}."
        )


def _unknowable(rows: Sequence[Row]) -> Iterator[str]:
    """The part of hindsight's gain that no features tell."""
    best: dict[float, Row] = {}
    for r in rows:
        if not r["shift"]:
            best.setdefault(r["noise"], r)  # rows come with the least regret first
    parts = [
        f"noise {n:g}: {r['centre']:.1f} and {r['regret_hindsight_centre']:.1f}"
        for n, r in best.items()
    ]
    yield (
        "Regret of the best method without shift, to the best that features can tell and to"
        f" hindsight: {'; '.join(parts)}."
    )


def of_mails(tables: Mapping[str, Any]) -> Iterator[str]:
    """Who earns more than random users with the best mixture of arms, and than the reference."""
    rows = tables["differences"]
    for rival in dict.fromkeys(r["against"] for r in rows):
        for r in rows:
            if r["against"] != rival or r["share"] is not None or r["method"] == rival:
                continue
            beside = [
                x for x in rows
                if (x["against"], x["method"], x["name"]) == (rival, r["method"], r["name"])
                and x["share"] is not None
            ]  # fmt: skip
            better = [f"{x['share']:g}" for x in beside if x["low"] > ROUNDING]
            worse = [f"{x['share']:g}" for x in beside if x["high"] < -ROUNDING]
            yield (
                f"`{r['method']}` against {rival}, {r['name']} per user:"
                f" {r['difference']:+.4g} [{r['low']:+.4g}, {r['high']:+.4g}] over budgets; better"
                f" at {', '.join(better) or 'none'}, worse at {', '.join(worse) or 'none'} of"
                f" {len(beside)}."
            )


def of_promotion(tables: Mapping[str, Any]) -> Iterator[str]:
    """Does a budget that training users chose earn money on held-out ones."""
    rows = {(r["policy"], r["method"], r["estimator"]): r for r in tables["revenue"]}
    everyone = next(
        (r for (policy, _, e), r in rows.items() if (policy, e) == ("everyone", "task")), None
    )
    if everyone:
        yield f"Sending to everyone: net incremental revenue {_dollars(everyone)}."
    for (policy, method, estimator), r in rows.items():
        if policy == "allocator" and estimator == "task":
            robust = rows[policy, method, "doubly_robust"]
            yield (
                f"`{method}` sends to {r['sent']:.0%} of the held-out users: {_dollars(r)};"
                f" doubly robust, ${robust['net']:+.2f} [{robust['low']:+.2f},"
                f" {robust['high']:+.2f}] per 1,000 users over sending nothing:"
                f" {_decided(r, 'a loss', 'a gain')}."
            )


def of_rankings(tables: Mapping[str, Any]) -> Iterator[str]:
    """AUCC of each method, and its difference to the reference."""
    rows = [r for r in tables["metrics"] if r["metric"] == "aucc"]
    for r in sorted(rows, key=lambda r: (str(r["name"]), -r["value"])):
        yield (
            f"{r['name']}: `{r['method']}` AUCC {r['value']:.4f} ± {r['sd']:.4f} over {r['seeds']}"
            f" seeds, {r['difference']:+.4f} [{r['difference_low']:+.4f},"
            f" {r['difference_high']:+.4f}] against `{REFERENCE}`."
        )


def _gap(c: Row) -> str:
    ends = f"[{c['low']:+.1f}, {c['high']:+.1f}]" if c["low"] == c["low"] else "[too few seeds]"
    return f"{c['difference']:+.1f} {ends}"


def _decided(c: Row, below: str, above: str) -> str:
    return below if c["high"] < 0 else above if c["low"] > 0 else "neither is shown"


def _extremes(found: Sequence[Row], by: str) -> str:
    """Where the methods are better, and where worse."""
    better = [_value(by, c["value"]) for c in found if c["high"] < 0]
    worse = [_value(by, c["value"]) for c in found if c["low"] > 0]
    return (
        f"Less regret shown at {', '.join(better) or 'none'}; more at {', '.join(worse) or 'none'}."
    )


def _value(by: str, value: Any) -> str:
    if by == "shift":
        return "with shift" if value else "without shift"
    if by == "share":
        return f"{100 * value:g} % of the money"
    return AXES[by].format(value)


def _cell(r: Row) -> str:
    return f"noise {r['noise']:g}, {r['users_per_arm']:,} users{', shift' if r['shift'] else ''}"


def _list(names: Sequence[str]) -> str:
    return f" ({'; '.join(names)})" if names else ""


def _dollars(r: Row) -> str:
    return f"${r['net']:+,.0f} [{r['low']:+,.0f}, {r['high']:+,.0f}]"
