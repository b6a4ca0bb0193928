"""Tables of the report: cells with what they mean, rows by method or by setting."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.plots.profile_figures import said
from experiments.plots.titles import shown_name
from experiments.reporting import replayed, statistics, table, tuned
from experiments.reporting.runs import (
    REFERENCES,
    TUNING,
    Groups,
    Run,
    by_method,
    column,
    find_runs,
    setting_of,
)
from experiments.reporting.verdict import AHEAD, BEHIND, Duel, by_setting, hardest, points

BLANK = "–"
_TONES = {AHEAD: ("ahead", "clear"), BEHIND: ("behind", "behind")}


class Cell(NamedTuple):
    text: str
    note: str = ""  # below the text, small
    tone: str = ""  # ahead, open or behind; the note says it in words


class Table(NamedTuple):
    name: str  # unique on the page
    caption: str
    heads: list[str]
    rows: list[list[Cell]]


def make(name: str, caption: str, rows: Sequence[Mapping[str, Cell | str]]) -> Table:
    """Rows by their heads; a column that says nothing in any row is left out."""
    cells = [{h: c if isinstance(c, Cell) else Cell(c) for h, c in row.items()} for row in rows]
    heads = dict.fromkeys(head for row in cells for head in row)
    shown = [h for h in heads if any(row.get(h, Cell(BLANK)).text != BLANK for row in cells)]
    filled = [[row.get(h, Cell(BLANK)) for h in shown] for row in cells]
    return Table(slug(name), caption, shown, filled)


def slug(text: str) -> str:
    """Letters, digits and dashes of a name: an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def closest(suite: str, duels: Sequence[Duel], main: str) -> Table:
    """For every setting and budget: the lead over the baseline that comes closest."""
    rows = []
    for setting, found in by_setting(duels).items():
        row: dict[str, Cell | str] = {"setting": setting}
        for b, share in enumerate(found[0].shares):
            duel = hardest(found, b)
            tone, word = _TONES.get(duel.outcome(b), ("open", "not clear"))
            over = f"over {shown_name(duel.baseline)}: {word}"
            row[f"at {100 * share:g} %"] = Cell(points(duel.difference, b), over, tone)
        wins = sum(duel.wins for duel in found)
        row["beaten everywhere"] = f"{wins} of {len(found)}"
        rows.append(row)
    caption = (
        f"Score of {shown_name(main)} minus that of the baseline that comes closest, by budget in %"
        " of unconstrained spend, with 95 % intervals. clear: the interval leaves out zero; beaten"
        " everywhere: baselines that are clearly behind at every budget."
    )
    return make(f"closest-{suite}", caption, rows)


def every_duel(suite: str, duels: Sequence[Duel], main: str) -> Table:
    rows = []
    for duel in duels:
        row: dict[str, Cell | str] = {
            "setting": duel.setting, "baseline": shown_name(duel.baseline),
        }  # fmt: skip
        for b, share in enumerate((*duel.shares, None)):
            tone, word = _TONES.get(duel.outcome(b), ("open", "not clear"))
            head = "mean" if share is None else f"at {100 * share:g} %"
            row[head] = Cell(points(duel.difference, b), word, tone)
        row["common seeds"] = str(duel.difference.seeds or "0: not paired")
        rows.append(row)
    caption = f"Score of {shown_name(main)} minus that of each baseline, with 95 % intervals."
    return make(f"duels-{suite}", caption, rows)


def methods(suite: str, settings: Mapping[Path, Sequence[Run]], main: str) -> Table:
    """Every method over all settings: score, rank, spend, forecasts, effort."""
    groups = by_method(run for runs in settings.values() for run in runs)
    learners = {m: runs for m, runs in groups.items() if m not in REFERENCES}
    scores = statistics.strata(settings.values(), main)
    every = list(scores)
    ranks = statistics.ranks([scores[m] for m in every]).mean(axis=1) if scores else []
    mean_rank = dict(zip(every, ranks, strict=True))
    order = [*every, *(m for m in learners if m not in scores)]
    rows = []
    for method in order:
        runs = learners[method]
        center, rank = BLANK, BLANK
        if method in scores:
            center = said(statistics.bootstrap(scores[method], statistics.interquartile_mean))
            rank = f"{mean_rank[method]:.1f}"
        there = sum(any(run["method"] == method for run in found) for found in settings.values())
        rows.append({
            "method": shown_name(method), "score, interquartile mean": center, "mean rank": rank,
            "settings": f"{there} of {len(settings)}", **_conduct(runs), **_effort(runs),
        })  # fmt: skip
    caption = (
        "Methods over all settings and budgets; scores: 100 is the exact optimum, 0 is no"
        " incentives, in brackets 95 % bootstrap intervals over training seeds. A method that"
        f" misses a setting of {shown_name(main)} has no mean over settings."
    )
    return make(f"methods-{suite}", caption, rows)


def _conduct(runs: Sequence[Run]) -> dict[str, str]:
    """Does it keep the budget, does it come as forecast, does it keep promises."""
    over, of = statistics.violation_rate(runs)
    gain, cost = (statistics.foresight(runs, what) for what in ("gain", "cost"))
    kept, broken, *_ = promise = statistics.promises(runs)
    return {
        "spend, % of budget": f"{100 * column(runs, 'spend_share').mean():.1f}",
        "spends over 103 %": f"{100 * over / of:.0f} % ({over} of {of})",
        "forecast gain, bias": _percent(gain and gain.bias, "+.1f"),
        "95 % interval holds gain": _percent(gain and 100 * gain.coverage, ".0f"),
        "forecast cost, bias": _percent(cost and cost.bias, "+.1f"),
        "promises to beat the log kept": f"{kept} of {kept + broken}" if any(promise) else BLANK,
    }


def _percent(value: float | None, form: str) -> str:
    return BLANK if value is None or np.isnan(value) else f"{value:{form}} %"


def _effort(runs: Sequence[Run]) -> dict[str, str]:
    memory = [run["memory"] for run in runs if run.get("memory", np.nan) > 0]
    return {
        "training runs": str(len(runs)),
        "seconds to train": f"{np.mean([run['seconds'] for run in runs]):.0f}",
        "peak memory, MB": f"{max(memory) / 1e6:.0f}" if memory else BLANK,
    }


def of_setting(suite: str, setting: str, groups: Groups) -> Table:
    """What the suite's Markdown table says, to be sorted."""
    rows = [{"method": shown_name(m), **table.measured(m, runs)} for m, runs in groups.items()]
    caption = "±: 95 % intervals over populations and, where there are several, training seeds."
    return make(f"setting-{suite}-{setting}", f"Methods in {setting}. {caption}", rows)


class Replay(NamedTuple):
    """How well a log alone predicted what policies are worth."""

    name: str  # anchor
    reading: str
    estimators: Table
    methods: Table


def replay(suite: str, settings: Mapping[Path, Sequence[Run]]) -> Replay | None:
    """By estimator, and by method; None if nothing was estimated."""
    runs = replayed.replayed([run for some in settings.values() for run in some])
    if not runs:
        return None
    rows = [{**row, "method": shown_name(row["method"])} for row in replayed.rows(runs)]
    first = len(replayed.ESTIMATORS)
    over_all = [{k: v for k, v in row.items() if k != "method"} for row in rows[:first]]
    caption = f"Off-policy estimates of {len(runs)} runs beside the truth"
    return Replay(
        slug(f"replay-{suite}"), replayed.READING,
        make(f"replay-all-{suite}", f"{caption}, all methods.", over_all),
        make(f"replay-methods-{suite}", f"{caption}, by method.", rows[first:]),
    )  # fmt: skip


def ran(suites: Mapping[Path, Mapping[Path, Sequence[Run]]]) -> Table:
    rows = []
    for suite, settings in suites.items():
        for place, runs in settings.items():
            learned = [run for run in runs if run["method"] not in REFERENCES]
            seeds = {run["seed"] for run in learned}
            s = setting_of(runs)
            hours = sum(r["seconds"] + r.get("judge_seconds", 0) for r in runs) / 3600
            rows.append({
                "setting": place.name, "suite": suite.name, "log": s["behaviour"],
                "logged users": f"{s['log_users']:,}", "runs": str(len(learned)),
                "methods": str(len({run["method"] for run in learned})), "seeds": str(len(seeds)),
                "judged on": f"{len(s['test_seeds'])} x {s['test_users']:,} users",
                "core hours": f"{hours:.1f}",
            })  # fmt: skip
    return make("what-was-run", "Settings with results.", rows)


def trials(folder: Path) -> Table | None:
    """Every trial of settings; None if there are none."""
    rows = tuned.rows(find_runs(folder / TUNING))
    shown = [{**row, "method": shown_name(row["method"])} for row in rows]
    return make("trials", "Trials of settings on validation logs.", shown) if rows else None


def own_logs(folder: Path) -> list[Table]:
    """A table for each log of one's own: what models told, and what replay estimates."""
    runs: dict[str, list[Run]] = {}
    for path in sorted(folder.rglob("own_logs/*/*.json")):
        run = json.loads(path.read_text())
        if "own_log" in run:
            runs.setdefault(path.parent.name, []).append(run)
    caption = (
        "Reward and cost per user, with 95 % intervals. Nobody knows the truth; estimates with few"
        " effective users say next to nothing."
    )
    return [
        make(f"own-{name}", f"{name}. {caption}", [row for run in found for row in _told(run)])
        for name, found in runs.items()
    ]


def _told(run: Run) -> Iterator[dict[str, str]]:
    for told in run["forecasts"]:
        found = {e["estimator"]: e for e in run["estimates"] if e["budget"] == told["budget"]}
        rewards = {f"{n.replace('_', ' ')} reward": _between(e, "reward") for n, e in found.items()}
        yield {
            "method": shown_name(run["method"]), "seed": str(run["seed"]),
            "budget": f"{told['budget']:.4g}", "forecast reward": _between(told, "reward"),
            "forecast cost": _between(told, "cost"),
            **rewards,
            "effective users": f"{found['importance']['effective_users']:.1f}",
        }  # fmt: skip


def _between(told: Mapping[str, float], what: str) -> str:
    return f"{told[what]:.4g} ± {1.96 * told[f'{what}_error']:.2g}"
