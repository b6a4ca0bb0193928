"""Summary of the one-shot runs in a folder: JSON, Markdown, figures, from the runs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.plots import one_shot_figures
from experiments.reporting.table import as_markdown
from experiments.results import write_json
from experiments.trials.one_shot_summary import failures, read_runs, summarise
from experiments.trials.one_shot_verdict import verdict

Row = dict[str, Any]
TITLES = {
    "lbcf": "One-shot allocation with all counterfactuals known",
    "lbcf-linear": "One-shot allocation with all counterfactuals known, by linear predictions",
    "hillstrom": "E-mail test with three arms",
    "starbucks": "A promotion that loses money if everyone gets it",
    "criteo": "CRITEO-UPLIFT v2, published protocol",
}


def write(folder: Path, made_by: Mapping[str, Any]) -> str:
    """Summarise `folder/runs` into `folder`, and return the Markdown."""
    runs = read_runs(folder)
    data = folder.name.partition("-")[0]
    tables = summarise(data, runs)
    says = verdict(data, tables)
    failed = failures(runs)
    write_json(folder / "one_shot.json", {"verdict": says, **tables, "failures": failed, **made_by})
    title = TITLES[folder.name]
    text = "\n".join([f"# {title}\n", *_document(data, tables, says, failed, len(runs), made_by)])
    (folder / "one_shot.md").write_text(text)
    one_shot_figures.draw(tables, folder)
    return text


def _document(
    data: str,
    tables: Mapping[str, Any],
    says: Sequence[str],
    failed: Sequence[Row],
    runs: int,
    made_by: Mapping[str, Any],
) -> Iterator[str]:
    yield from (f"- {line}" for line in says)
    if "regrets" in tables:
        yield (
            "- Numbers are inter-quartile means over seeds, so that a world where hardly anybody is"
            " worth an incentive does not decide alone; the last column is the plain mean."
        )
    yield ""
    for heading, rows in _tables(data, tables):
        if rows:
            yield f"## {heading}\n\n{as_markdown(rows)}\n"
    if failed:
        yield "## Not possible\n"
        yield from (f"- {f['setting']}, `{f['method']}`: {f['error']}" for f in failed)
        yield ""
    yield f"{runs} runs; summarised by `{made_by['command']}` at commit `{made_by['commit']}`.\n"


def _tables(data: str, tables: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    if data == "lbcf":
        for key, rows in groupby(
            tables["regrets"], key=lambda r: (r["noise"], r["users_per_arm"], r["shift"])
        ):
            noise, users, shift = key
            where = "another world" if shift else "the same world"
            heading = f"Noise {noise:g}, {users:,} users an arm, tested in {where}: regret, %"
            yield heading, [_regret_row(r) for r in rows]
        return
    yield "Value by policy", _estimate_rows(tables["estimates"])
    yield "Difference at the same budget, doubly robust", _difference_rows(tables["differences"])
    yield "Net revenue of held-out users", _revenue_rows(tables["revenue"])
    yield "Ranking", _metric_rows(tables["metrics"])


def _regret_row(r: Row) -> dict[str, str]:
    by_budget = {
        f"{100 * share:g} %": f"{value:.1f}"
        for share, value in zip(r["shares"], r["regret"], strict=True)
    }
    return {
        "method": f"`{r['method']}`", "kind": r["kind"], "seeds": str(r["seeds"]), **by_budget,
        "all budgets": _between(r, "centre", ".1f"),
        "over two_stage": _between(r, "difference", "+.1f"),
        "budget met exactly": f"{r['regret_equal_centre']:.1f}",
        "to hindsight": f"{r['regret_hindsight_centre']:.1f}",
        "spend": f"{r['spend_centre']:.2f}", "MT-AUCC": f"{r['mt_aucc_centre']:.3f}",
        "mean over seeds": f"{r['mean']:.1f}",
    }  # fmt: skip


def _estimate_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A row for each policy and share, an estimator a column."""
    wide: dict[tuple[Any, ...], dict[str, str]] = {}
    for r in rows:
        own = r["share"] is not None
        key = (r["name"], r["method"] if own else r["policy"], r["share"])
        start = {"policy": f"`{key[1]}`" if own else r["policy"], "value": r["name"]}
        start |= {"share": f"{r['share']:g}" if own else "–", "cost": f"{r['cost']:.3f}"}
        row = wide.setdefault(key, start)
        row[r["estimator"].replace("_", " ")] = f"{r['value']:.4f} ± {1.96 * r['value_error']:.4f}"
    return list(wide.values())


def _difference_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A row for each method and rival, a budget a column."""
    wide: dict[tuple[str, ...], dict[str, str]] = {}
    for r in rows:
        if r["method"] != r["against"]:
            start = {"method": f"`{r['method']}`", "value": r["name"], "against": r["against"]}
            row = wide.setdefault((r["name"], r["against"], r["method"]), start)
            head = "mean" if r["share"] is None else f"{r['share']:g}"
            row[head] = f"{r['difference']:+.4f} ± {1.96 * r['difference_error']:.4f}"
    return [wide[key] for key in sorted(wide)]


def _revenue_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    wide: dict[str, dict[str, str]] = {}
    for r in rows:
        name = f"`{r['method']}`" if r["policy"] == "allocator" else r["policy"]
        row = wide.setdefault(name, {"policy": name, "sent": f"{r['sent']:.1%}"})
        unit = "$, task's sum" if r["estimator"] == "task" else f"$ per 1,000, {r['estimator']}"
        row[unit.replace("_", " ")] = f"{r['net']:+,.1f} [{r['low']:+,.1f}, {r['high']:+,.1f}]"
    return list(wide.values())


def _metric_rows(rows: Sequence[Row]) -> list[dict[str, str]]:
    wide: dict[tuple[str, str], dict[str, str]] = {}
    for r in rows:
        start = {"method": f"`{r['method']}`", "data": r["name"], "seeds": str(r["seeds"])}
        row = wide.setdefault((r["name"], r["method"]), start)
        row[r["metric"]] = _between(r, "value", ".4f")
        row[f"{r['metric']} over two_stage"] = _between(r, "difference", "+.4f")
    return [wide[key] for key in sorted(wide)]


def _between(r: Row, name: str, form: str) -> str:
    """A number with its interval, if it has one."""
    if name not in r or r[name] != r[name]:
        return "–"
    low, high = r[f"{name}_low"], r[f"{name}_high"]
    ends = "" if low != low else f" [{low:{form}}, {high:{form}}]"
    return f"{r[name]:{form}}{ends}"
