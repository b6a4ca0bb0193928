"""Tables of a suite's results in Markdown, and the README's copies of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.titles import main_method
from experiments.reporting.comparisons import (
    AXES,
    Line,
    Variants,
    lines,
    mean_scores,
    paired_difference,
    variants,
)
from experiments.reporting.runs import (
    REFERENCES,
    Groups,
    Run,
    by_method,
    by_suite,
    column,
    makers,
    pooled,
    setting_of,
)
from experiments.reporting.verdict import duels, said

_NOTE = (
    "Scores: 100 is the exact optimum at the budget, 0 is no incentives; ± is 1.96 standard errors"
    " over evaluation populations and, where there are several, training seeds. Where the optimum"
    " was simulated on the same populations (row *oracle*), methods' scores are less what its luck"
    " there explains."
)
_PAIRED = "Differences are paired by training seed; their ± is Student's 95 % interval over seeds."
_BLANK = "–"


def suite_table(settings: Mapping[Path, Sequence[Run]]) -> str:
    """The whole Markdown page of a suite: a table per setting or line of settings, and the makers.

    A setting that lies on two lines stands in the table of the longer one.
    """
    parts, left = [_NOTE], dict(settings)
    for line in lines(settings):
        if all(place in left for place in line.places.values()):
            parts.append(_line_table(line, [left.pop(place) for place in line.places.values()]))
    parts += [_setting_table(folder.name, runs) for folder, runs in left.items()]
    return "\n\n".join([*parts, made_by(settings)]) + "\n"


def summary_table(settings: Mapping[Path, Sequence[Run]], whole: str) -> str:
    """Mean score and spend over the budgets of each method (rows) in each setting (columns).

    Args:
        whole: where the suite's whole page lies, with the command of every run.
    """
    groups = {folder.name: by_method(runs) for folder, runs in settings.items()}
    every = by_method(run for runs in settings.values() for run in runs)
    rows = [
        [_name(method), *(_score_and_spend(g.get(method, [])) for g in groups.values())]
        for method in every
    ]
    heads = ["method", *(name.replace("-", "<br>") for name in groups)]
    commits = ", ".join(sorted({f"`{maker['commit']}`" for maker in _makers(settings)}))
    made = f"Tabulated by `python -m experiments.plot` from runs at {commits}; [commands]({whole})."
    main = main_method(every)
    found = duels(settings, main)
    told = [said(f"`{main}`", found)] if found else []
    return "\n\n".join([_markdown(heads, rows), *told, f"{_NOTE} {made}"])


def readme_table(text: str, name: str, table: str) -> str:
    """The text with the table between its markers replaced; unchanged if there are none.

    Raises:
        ValueError: if a table's marker is never closed.
    """
    start, end = f"<!-- table:{name} -->", "<!-- /table -->"
    head, found, rest = text.partition(start)
    if not found:
        return text
    _, closed, tail = rest.partition(end)
    if not closed or "<!-- table:" in rest[: rest.index(end)]:
        raise ValueError(f"marker {start} is never closed: allowed is {end} behind the table")
    return f"{head}{start}\n{table}\n{end}{tail}"


def documents(folder: str | Path, settings: Mapping[Path, list[Run]]) -> dict[Path, str]:
    """What every generated text should say: each suite's table.md, and the README beside `folder`.

    Raises:
        ValueError: if the README has a table of a suite without results.
    """
    suites = by_suite(dict(settings))
    texts = {suite / "table.md": suite_table(found) for suite, found in suites.items()}
    readme = Path(folder).resolve().parent / "README.md"
    if readme.exists():
        text = readme.read_text()
        for suite, found in suites.items():
            whole = (suite / "table.md").resolve().relative_to(readme.parent).as_posix()
            text = readme_table(text, suite.name, summary_table(found, whole))
        _check_made(text, readme, {suite.name for suite in suites})
        texts[readme] = text
    return texts


def stale(texts: Mapping[Path, str]) -> list[Path]:
    """Files that do not say what the results give."""
    return [p for p, text in texts.items() if not p.exists() or p.read_text() != text]


def _check_made(text: str, readme: Path, made: set[str]) -> None:
    missing = set(re.findall(r"<!-- table:(\S+) -->", text)) - made
    if missing:
        raise ValueError(f"{readme}: no results for the tables {', '.join(sorted(missing))}")


def _setting_table(name: str, runs: Sequence[Run]) -> str:
    groups = by_method(runs)
    family = variants(groups)
    rows = [
        {"method": _name(method), **_changed(family, groups, method), **measured(method, found)}
        for method, found in groups.items()
    ]
    about = about_setting(setting_of(runs)) + (f" {_PAIRED}" if family else "")
    return f"## {name}\n\n{about}\n\n{as_markdown(rows)}"


def _line_table(line: Line, runs: Sequence[Sequence[Run]]) -> str:
    """One table for all settings of a line: every method from its first setting to its last."""
    groups = [by_method(found) for found in runs]
    methods = dict.fromkeys(method for found in reversed(groups) for method in found)
    head = AXES[line.axis]
    rows = [
        {"method": _name(method), head: line.name(value), **measured(method, found[method])}
        for method in methods
        for value, found in zip(line.places, groups, strict=True)
        if method in found
    ]
    places = list(line.places.values())
    title = f"{places[0].name} to {places[-1].name}: by {head}"
    about = about_setting(setting_of(runs[0]), varies=line.axis)
    return f"## {title}\n\n{about}\n\n{as_markdown(rows)}"


def _changed(family: Variants | None, groups: Groups, method: str) -> dict[str, str]:
    """Of a variant: the options that are not the base's, and the paired difference in score."""
    if family is None or method not in family.changes:
        return {}
    options = ", ".join(f"`{key}={value}`" for key, value in family.changes[method].items())
    mean, half = paired_difference(groups[method], groups[family.base])
    said = _number(mean) if np.isnan(half) else f"{mean:+.1f} ± {half:.1f}"
    is_base = method == family.base
    return {
        "options": options or _BLANK,
        f"minus {family.base}, same seeds": _BLANK if is_base else said,
    }


def measured(method: str, runs: Sequence[Run]) -> dict[str, str]:
    """Cells of a row by their heads."""
    score, error = pooled(runs, "score")
    means = mean_scores(runs)
    shares = [f"{100 * r['budget_share']:g}" for r in runs[0]["rows"]]
    spread = f" ({means.std(ddof=1):.1f})" if len(runs) > 1 else ""
    heads = [f"score at {share} %" for share in shares]
    cells = {
        **{h: _plus_minus(v, e) for h, v, e in zip(heads, score, error, strict=True)},
        "mean score": f"{means.mean():.1f}",
        "training seeds (sd)": f"{len(runs)}{spread}",
        f"spend, % of budget at {' / '.join(shares)} %": " / ".join(
            f"{100 * v:.0f}" for v in column(runs, "spend_share").mean(axis=0)
        ),
        "score under hard limit": _plus_minus(
            *(part.mean() for part in pooled(runs, "score_hard_limit"))
        ),
        "refused, % of offers": _number(100 * column(runs, "refused_share").mean()),
    }
    if method in REFERENCES:
        return cells | {"training seeds (sd)": _BLANK}
    return cells | {
        "policies stored": f"{np.nanmax(column(runs, 'policies')):.0f}",
        "seconds": f"{np.mean([run['seconds'] for run in runs]):.0f}",
        "processor seconds": _number(np.mean([run.get("cpu_seconds", np.nan) for run in runs]), 0),
    }


def about_setting(s: Mapping[str, Any], varies: str = "") -> str:
    users = "logs" if varies == "log_users" else f"log of {s['log_users']:,} users"
    other = {key: value for key, value in s["overrides"].items() if key != varies}
    options = "".join(f", `{key}={value}`" for key, value in other.items())
    return (
        f"Campaign `{s['preset']}`{options}; {users} under the {s['behaviour']}"
        f" policy; judged on {len(s['test_seeds'])} populations of {s['test_users']:,} fresh users,"
        f" {s['repeats']} campaign(s) each. Budgets: shares of the unconstrained optimum's spend."
    )


def _mean_score(runs: Sequence[Run]) -> str:
    # Budgets share users: the mean of their errors bounds the error of their mean.
    return _plus_minus(*(part.mean() for part in pooled(runs, "score"))) if runs else _BLANK


def _score_and_spend(runs: Sequence[Run]) -> str:
    if not runs:
        return _BLANK
    return f"{_mean_score(runs)}<br>spends {100 * column(runs, 'spend_share').mean():.0f} %"


def made_by(settings: Mapping[Path, Sequence[Run]]) -> str:
    """Every command with its commit, as a list that ends a page."""
    names = (
        f"- {m['runs']} x `{m['command']}` at commit `{m['commit']}`" for m in _makers(settings)
    )
    return "\n".join(["Tabulated by `python -m experiments.plot` from the runs of", "", *names])


def _makers(settings: Mapping[Path, Sequence[Run]]) -> list[dict[str, Any]]:
    return makers(run for found in settings.values() for run in found)


def _plus_minus(value: float, error: float) -> str:
    return _number(value) if np.isnan(error) else f"{value:.1f} ± {1.96 * error:.1f}"


def _number(value: Any, digits: int = 1) -> str:
    """A dash where nothing was measured."""
    return _BLANK if np.isnan(value) else f"{value:.{digits}f}"


def _name(method: str) -> str:
    return f"*{method}*" if method in REFERENCES else method


def as_markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Rows by their heads; a column that says nothing in any row is left out."""
    heads = dict.fromkeys(head for row in rows for head in row)
    shown = [h for h in heads if any(row.get(h, _BLANK) != _BLANK for row in rows)]
    return _markdown(shown, [[row.get(h, _BLANK) for h in shown] for row in rows])


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
