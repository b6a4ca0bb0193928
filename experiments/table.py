"""Tables of a suite's results in Markdown, and the README's copies of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marketing_env.config import Array

Run = dict[str, Any]
REFERENCES = ("oracle", "perfect_myopic")  # know the simulator; held against, not compared
_NOTE = (
    "Scores: 100 is the exact optimum at the budget, 0 is no incentives; ± is 1.96 standard errors"
    " over evaluation populations and, where there are several, training seeds."
)


def find_runs(folder: str | Path) -> dict[Path, list[Run]]:
    """Runs below a folder by the folder they lie in; what is no run is left out.

    Broken files, and runs whose budgets differ from those of their neighbours, are named on the
    terminal and left out.
    """
    found: dict[Path, list[Run]] = {}
    for path in sorted(Path(folder).rglob("*.json")):
        run = _read(path)
        if run is None:
            continue
        beside = found.setdefault(path.parent, [])
        if beside and not np.allclose(_shares(beside[0]), _shares(run)):
            print(f"{path}: left out, its budgets are not those of {beside[0]['method']}")
            continue
        beside.append(run)
    return found


def by_method(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of each method by training seed; references first, then the best mean score first."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: int(r["seed"])):
        groups.setdefault(run["method"], []).append(run)
    return dict(sorted(groups.items(), key=lambda g: _rank(g[0], g[1])))


def pooled(runs: Sequence[Run], key: str) -> tuple[Array, Array]:
    """Mean over training seeds at each budget, and its standard error.

    All seeds are judged on the same populations, so that error is not divided by their number:

        error^2 = (mean evaluation error)^2 + variance over seeds / seeds
    """
    values = column(runs, key)
    error = column(runs, f"{key}_error").mean(axis=0)
    if len(runs) > 1:
        error = np.sqrt(error**2 + values.var(axis=0, ddof=1) / len(runs))
    return values.mean(axis=0), error


def column(runs: Sequence[Run], key: str) -> Array:
    """(seeds, budgets) numbers of a key; NaN where a run has none."""
    return np.array([[row.get(key, np.nan) for row in run["rows"]] for run in runs], dtype=float)


def suite_table(settings: Mapping[Path, Sequence[Run]]) -> str:
    """The whole Markdown page of a suite: one table per setting, and what made them."""
    parts = [_NOTE, *(_setting_table(folder.name, runs) for folder, runs in settings.items())]
    return "\n\n".join([*parts, _made_by(settings)]) + "\n"


def summary_table(settings: Mapping[Path, Sequence[Run]]) -> str:
    """Mean score and spend over the budgets of each method (rows) in each setting (columns)."""
    groups = {folder.name: by_method(runs) for folder, runs in settings.items()}
    every = by_method(run for runs in settings.values() for run in runs)
    rows = [
        [_name(method), *(_score_and_spend(g.get(method, [])) for g in groups.values())]
        for method in every
    ]
    heads = ["method", *(name.replace("-", "<br>") for name in groups)]
    return "\n\n".join([_markdown(heads, rows), f"{_NOTE} {_made_by(settings)}"])


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
    suites: dict[Path, dict[Path, list[Run]]] = {}
    for path, runs in settings.items():
        suites.setdefault(path.parent, {})[path] = runs
    texts = {suite / "table.md": suite_table(found) for suite, found in suites.items()}
    readme = Path(folder).resolve().parent / "README.md"
    if readme.exists():
        text = readme.read_text()
        for suite, found in suites.items():
            text = readme_table(text, suite.name, summary_table(found))
        _check_made(text, readme, {suite.name for suite in suites})
        texts[readme] = text
    return texts


def stale(texts: Mapping[Path, str]) -> list[Path]:
    """Files that do not say what the results give."""
    return [p for p, text in texts.items() if not p.exists() or p.read_text() != text]


def _read(path: Path) -> Run | None:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        print(f"{path}: left out, no JSON ({error})")
        return None
    is_run = isinstance(content, dict) and {"setting", "method", "seed", "rows"} <= set(content)
    return content if is_run and content["rows"] else None


def _shares(run: Run) -> tuple[float, ...]:
    # Padded, so that lists of different lengths compare as different.
    shares = [row["budget_share"] for row in run["rows"]]
    return tuple(shares + [0.0] * (32 - len(shares)))


def _rank(method: str, runs: Sequence[Run]) -> tuple[int, float, str]:
    if method in REFERENCES:
        return REFERENCES.index(method), 0.0, method
    score = np.mean([np.mean([row["score"] for row in run["rows"]]) for run in runs])
    return len(REFERENCES), -float(score), method


def _check_made(text: str, readme: Path, made: set[str]) -> None:
    missing = set(re.findall(r"<!-- table:(\S+) -->", text)) - made
    if missing:
        raise ValueError(f"{readme}: no results for the tables {', '.join(sorted(missing))}")


def _setting_table(name: str, runs: Sequence[Run]) -> str:
    groups = by_method(runs)
    shares = [f"{100 * r['budget_share']:g} %" for r in runs[0]["rows"]]
    heads = [
        "method", *(f"score at {s}" for s in shares), "mean score", "training seeds (sd)",
        f"spend, % of budget at {' / '.join(s.removesuffix(' %') for s in shares)} %",
        "score under hard limit", "refused, % of offers", "policies stored", "seconds",
    ]  # fmt: skip
    rows = [_method_row(method, group) for method, group in groups.items()]
    return f"## {name}\n\n{_about(runs[0]['setting'])}\n\n{_markdown(heads, rows)}"


def _method_row(method: str, runs: Sequence[Run]) -> list[str]:
    score, error = pooled(runs, "score")
    means = column(runs, "score").mean(axis=1)
    spread = f" ({means.std(ddof=1):.1f})" if len(runs) > 1 else ""
    is_reference = method in REFERENCES
    return [
        _name(method),
        *(_plus_minus(v, e) for v, e in zip(score, error, strict=True)),
        f"{means.mean():.1f}",
        "–" if is_reference else f"{len(runs)}{spread}",
        " / ".join(f"{100 * v:.0f}" for v in column(runs, "spend_share").mean(axis=0)),
        _plus_minus(*(part.mean() for part in pooled(runs, "score_hard_limit"))),
        _number(100 * column(runs, "refused_share").mean()),
        "–" if is_reference else f"{np.nanmax(column(runs, 'policies')):.0f}",
        "–" if is_reference else f"{np.mean([run['seconds'] for run in runs]):.0f}",
    ]


def _about(s: Mapping[str, Any]) -> str:
    return (
        f"Campaign `{s['preset']}`; log of {s['log_users']:,} users under the {s['behaviour']}"
        f" policy; judged on {len(s['test_seeds'])} populations of {s['test_users']:,} fresh users,"
        f" {s['repeats']} campaign(s) each. Budgets: shares of the unconstrained optimum's spend."
    )


def _mean_score(runs: Sequence[Run]) -> str:
    # Budgets share users: the mean of their errors bounds the error of their mean.
    return _plus_minus(*(part.mean() for part in pooled(runs, "score"))) if runs else "–"


def _score_and_spend(runs: Sequence[Run]) -> str:
    if not runs:
        return "–"
    return f"{_mean_score(runs)}<br>spends {100 * column(runs, 'spend_share').mean():.0f} %"


def _made_by(settings: Mapping[Path, Sequence[Run]]) -> str:
    runs = [run for found in settings.values() for run in found]
    makers = sorted({(run.get("command", "?"), run.get("commit", "?")) for run in runs})
    names = (f"`{command}` at commit `{commit or 'none'}`" for command, commit in makers)
    return f"Made by {'; '.join(names)}; tabulated by `python -m experiments.plot`."


def _plus_minus(value: float, error: float) -> str:
    return _number(value) if np.isnan(error) else f"{value:.1f} ± {1.96 * error:.1f}"


def _number(value: float) -> str:
    """A dash where nothing was measured."""
    return "–" if np.isnan(value) else f"{value:.1f}"


def _name(method: str) -> str:
    return f"*{method}*" if method in REFERENCES else method


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
