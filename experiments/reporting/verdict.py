"""The verdict: the main method against every offline baseline, at each budget of each setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import agents
from experiments.methods import method_names
from experiments.plots.titles import shown_name
from experiments.reporting.comparisons import variants_of
from experiments.reporting.runs import REFERENCES, Groups, Run, by_method
from experiments.reporting.statistics import Difference, difference

AHEAD, OPEN, BEHIND = "ahead", "not clear", "behind"


class Duel(NamedTuple):
    """The main method against one baseline in one setting."""

    setting: str
    baseline: str
    shares: tuple[float, ...]  # budgets, as shares of the unconstrained optimum's spend
    difference: Difference

    def outcome(self, budget: int) -> str:
        """AHEAD or BEHIND where the 95 % interval leaves no other sign, else OPEN."""
        d = self.difference
        if d.low[budget] > 0:
            return AHEAD
        return BEHIND if d.high[budget] < 0 else OPEN

    @property
    def wins(self) -> bool:
        return all(self.outcome(b) == AHEAD for b in range(len(self.shares)))


def baselines(groups: Groups, main: str) -> list[str]:
    """Methods that learn from the log alone: no references, no variants of the main method."""
    others = {main, *REFERENCES, *variants_of(groups, main)}
    return [m for m in groups if m not in others and _is_offline(m)]


def _is_offline(method: str) -> bool:
    """Files of agents/ that are no learner from logs need the simulator."""
    return method in method_names() or not (Path(agents.__path__[0]) / f"{method}.py").exists()


def duels(settings: Mapping[Path, Sequence[Run]], main: str) -> list[Duel]:
    """Every comparison that the results allow, in their order."""
    found = []
    for place, runs in settings.items():
        groups = by_method(runs)
        for other in baselines(groups, main) if main in groups else ():
            shares = tuple(row["budget_share"] for row in groups[main][0]["rows"])
            gap = difference(groups[main], groups[other])
            found.append(Duel(place.name, other, shares, gap))
    return found


def hardest(found: Iterable[Duel], budget: int) -> Duel:
    """The duel whose interval reaches lowest at a budget: the baseline that comes closest."""

    def reach(duel: Duel) -> float:
        low = duel.difference.low[budget]
        return float(duel.difference.value[budget] if np.isnan(low) else low)

    return min(found, key=reach)


def by_setting(found: Iterable[Duel]) -> dict[str, list[Duel]]:
    groups: dict[str, list[Duel]] = {}
    for duel in found:
        groups.setdefault(duel.setting, []).append(duel)
    return groups


def said(name: str, found: Sequence[Duel]) -> str:
    """The outcome of all duels in two sentences, and a third where intervals say little."""
    groups = by_setting(found)
    won = sum(all(duel.wins for duel in group) for group in groups.values())
    where = f"all {len(groups)}" if won == len(groups) else f"{won} of {len(groups)}"
    outcomes = Counter(duel.outcome(b) for duel in found for b in range(len(duel.shares)))
    lost = Counter(
        d.baseline for d in found for b in range(len(d.shares)) if d.outcome(b) == BEHIND
    )
    to = ", ".join(f"{shown_name(other)} {times}" for other, times in lost.most_common())
    others = len({duel.baseline for duel in found})
    single = sum(duel.difference.seeds == 1 for duel in found)
    limit = (
        f" {single} of the {len(found)} pairs of a setting and a baseline have one training seed:"
        " their intervals tell of other users, not of another log."
    )
    return (
        f"{name} beats every offline baseline at every budget in {where} compared settings, with"
        f" the 95 % interval of the difference clear of zero. Against {others}"
        f" baseline{'s' * (others > 1)}, setting by setting and budget by budget, it is clearly"
        f" ahead {outcomes[AHEAD]} times, not clearly different {outcomes[OPEN]} times, clearly"
        f" behind {outcomes[BEHIND]} times{f' ({to})' * bool(to)}."
        f"{limit * bool(single)}"
    )


def points(d: Difference, budget: int) -> str:
    """A difference in words: `+3.1 ± 1.2`."""
    half = d.half[budget]
    return f"{d.value[budget]:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")
