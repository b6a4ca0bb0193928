"""Greedy uplift + integer programming on a real randomised e-mail test, one decision per user.

    python -m experiments.one_shot --reward visit

Users are partitioned SEEDS times, and each time allocated by models and prices that saw others
(`experiments/crossfit.py`). Value is estimated in four ways (`agents/common/eom.py`). Estimates
and standard errors are medians over partitions, the latter with the spread between partitions
(Chernozhukov et al., Double/Debiased Machine Learning, Econometrics Journal 2018, section 3.4).

Beside the allocator stand every uniform arm and, at the allocator's own cost, two rules without a
model: `random dearest` gives the dearest arm to random users, `random mix` gives random users the
best mixture of arms by their means. Differences are doubly robust and paired by user.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from agents.common import eom
from agents.common.types import Array
from experiments import cli
from experiments.crossfit import CANDIDATES, CrossFit, arm_means, cross_fit
from experiments.one_shot_logs import hillstrom
from experiments.results import ROOT, provenance, write_json
from experiments.tables import print_table
from marketing_env import LoggedDataset

RIVALS = ("random dearest", "random mix")
NAMES = ("policy", "against", "budget", "estimator")  # of a row; all else in it is a number
Z = 1.96  # of a 95 % interval
ROUNDING = 1e-9  # two policies that decide alike still differ by this much

Row = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Which data, and how often its users are partitioned."""

    data: str = "hillstrom"  # hillstrom, or a file or folder of that layout
    reward: Literal["visit", "conversion", "spend"] = "visit"
    learners: tuple[str, ...] = tuple(CANDIDATES)
    seeds: int = 20  # random partitions
    folds: int = 5  # parts: one scored, one for validation, the rest for training
    # Share of the cost of the cheapest arm for all; 2 treats all with the dearest.
    budgets: tuple[float, ...] = (*(i / 10 for i in range(1, 11)), 1.25, 1.5, 1.75, 2.0)
    out: Path = ROOT / "results" / "one_shot"  # OUT/REWARD/summary.json, and runs beside it


def judge(log: LoggedDataset, fitted: CrossFit) -> dict[str, list[Row]]:
    """Estimates of every policy, and differences of the allocator to its rivals."""
    outcome = np.concatenate([log.reward, log.cost], axis=1)
    unit_cost = arm_means(log)[:, 1]
    terms, estimates = {}, []
    for (policy, budget), probs in fitted.policies.items():
        found = eom.terms(probs, log.action[:, 0], log.propensity[:, 0], outcome, fitted.model)
        terms[policy, budget] = found["doubly_robust"][:, 0]
        names = {"policy": policy, "budget": budget}
        spend = float((probs @ unit_cost).mean())
        for estimator, per_user in found.items():
            mean, error = eom.mean_and_error(per_user)
            measured = {"value": mean[0], "value_error": error[0], "cost": spend}
            measured |= {"cost_estimate": mean[1], "cost_estimate_error": error[1]}
            estimates.append({**names, "estimator": estimator, **measured})
    return {"estimates": estimates, "differences": list(_differences(terms))}


def _differences(terms: Mapping[tuple[str, float | None], Array]) -> Iterator[Row]:
    """Allocator minus rival, paired by user: at each budget, and in the mean over budgets."""
    budgets = [budget for policy, budget in terms if policy == "allocator"]
    for rival in RIVALS:
        gaps = [terms["allocator", b] - terms[rival, b] for b in budgets]
        for budget, gap in [*zip(budgets, gaps, strict=True), (None, np.mean(gaps, axis=0))]:
            mean, error = eom.mean_and_error(gap[:, None])
            measured = {"difference": mean[0], "difference_error": error[0]}
            yield {"against": rival, "budget": budget, **measured}


def run(log: LoggedDataset, learner: str, seed: int, o: Options, bar: tqdm[Any]) -> Row:
    """One partition with one learner: read from its file if that has it, else computed."""
    file = o.out / o.reward / "runs" / f"{learner}-{seed}.json"
    setting = {
        "data": o.data, "reward": o.reward, "folds": o.folds, "budgets": list(o.budgets),
        "users": log.n_users, "learner": learner, "seed": seed,
    }  # fmt: skip
    if file.exists():
        kept: Row = json.loads(file.read_text())
        if kept["setting"] == setting:
            bar.update(o.folds)
            return kept
    fitted = cross_fit(
        log, CANDIDATES[learner], o.budgets, folds=o.folds, seed=seed, on_fold=bar.update
    )
    result = {"setting": setting, "folds": fitted.folds, **judge(log, fitted), **provenance()}
    write_json(file, result)
    return result


def over_partitions(runs: Sequence[Row], table: str, measure: str) -> list[Row]:
    """Each row's median over the partitions, by learner, with a 95 % interval of `measure`."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for result in runs:
        for row in result[table]:
            names = {"learner": result["setting"]["learner"]}
            names |= {name: row[name] for name in NAMES if name in row}
            groups[tuple(names.items())].append(row)
    summary = []
    for key, rows in groups.items():
        numbers = {k: np.array([r[k] for r in rows]) for k in rows[0] if k not in NAMES}
        row = {**dict(key), **{k: float(np.median(x)) for k, x in numbers.items()}}
        spread = numbers[measure] - row[measure]
        error = float(np.sqrt(np.median(numbers[f"{measure}_error"] ** 2 + spread**2)))
        low, high = row[measure] - Z * error, row[measure] + Z * error
        summary.append({**row, f"{measure}_error": error, "low": low, "high": high})
    return summary


def verdict(differences: Sequence[Row], reward: str) -> list[str]:
    """Where the allocator beats a rule without a model at the same cost, and where it does not."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in differences:
        groups[row["learner"], row["against"]].append(row)
    lines = ["Intervals are pointwise 95 %; budgets share users, so they are not independent."]
    for (learner, rival), rows in groups.items():
        mean = next(r for r in rows if r["budget"] is None)
        by_budget = [r for r in rows if r["budget"] is not None]
        better = [r["budget"] for r in by_budget if r["low"] > ROUNDING]
        worse = [r["budget"] for r in by_budget if r["high"] < -ROUNDING]
        unclear = [b for b in (r["budget"] for r in by_budget) if b not in (*better, *worse)]
        lines.append(
            f"{learner} against {rival} at the same cost, {reward} per user: mean over budgets"
            f" {mean['difference']:+.4g} [{mean['low']:+.4g}, {mean['high']:+.4g}];"
            f" better at {_listed(better)}; no difference shown at {_listed(unclear)};"
            f" worse at {_listed(worse)}."
        )
    return lines


def _listed(budgets: Sequence[float]) -> str:
    return ", ".join(f"{b:g}" for b in budgets) or "none"


def most(estimates: Sequence[Row]) -> list[str]:
    """The most that the allocator and a uniform rule earn, each at a cost of its own."""
    robust = [e for e in estimates if e["estimator"] == "doubly_robust"]
    lines = []
    for learner in dict.fromkeys(e["learner"] for e in robust):
        mine = [e for e in robust if e["learner"] == learner]
        allocated = [e for e in mine if e["policy"] == "allocator"]
        uniform = [e for e in mine if e["budget"] is None]
        for e in (max(rows, key=lambda e: float(e["value"])) for rows in (allocated, uniform)):
            lines.append(
                f"{learner}, most at any cost: {e['policy']} {e['value']:.4g}"
                f" [{e['low']:.4g}, {e['high']:.4g}] at cost {e['cost']:.4g}."
            )
    return lines


def estimate_table(estimates: Sequence[Row], learner: str) -> list[Row]:
    """One row per policy and budget, an estimator a column."""
    wide: dict[tuple[Any, ...], Row] = {}
    for e in estimates:
        if e["learner"] == learner and e["policy"] not in RIVALS:
            start = {"policy": e["policy"], "budget": e["budget"] or "", "cost": e["cost"]}
            row = wide.setdefault((e["policy"], e["budget"]), start)
            row[e["estimator"]] = f"{e['value']:.4f} ± {Z * e['value_error']:.4f}"
    return list(wide.values())


def difference_table(differences: Sequence[Row], learner: str) -> list[Row]:
    """One row per budget, a rival a column."""
    wide: dict[float | None, Row] = {}
    for d in differences:
        if d["learner"] == learner:
            row = wide.setdefault(d["budget"], {"budget": d["budget"] or "mean"})
            row[f"over {d['against']}"] = (
                f"{d['difference']:+.4f} ± {Z * d['difference_error']:.4f}"
            )
    return list(wide.values())


def show(summary: Row) -> None:
    """Print the tables and the verdict."""
    about = f"{summary['reward']} per user, {summary['partitions']} partitions, ± 95 % interval"
    for learner in dict.fromkeys(e["learner"] for e in summary["estimates"]):
        rows = estimate_table(summary["estimates"], learner)
        print_table(rows, list(rows[0]), f"{learner}: {about}")
        rows = difference_table(summary["differences"], learner)
        print_table(rows, list(rows[0]), f"{learner}: gain over rivals at the same cost")
    print("\n".join(summary["verdict"]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="experiments.one_shot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_options(parser, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if unknown := set(o.learners) - set(CANDIDATES):
        parser.error(f"--learners {' '.join(unknown)}: allowed are {', '.join(CANDIDATES)}")
    torch.set_num_threads(1)
    log = hillstrom(None if o.data == "hillstrom" else o.data, o.reward)
    jobs = [(learner, seed) for learner in o.learners for seed in range(o.seeds)]
    with tqdm(total=len(jobs) * o.folds, desc="parts", disable=None) as bar:
        runs = [run(log, learner, seed, o, bar) for learner, seed in jobs]
    estimates = over_partitions(runs, "estimates", "value")
    differences = over_partitions(runs, "differences", "difference")
    summary = {
        "reward": o.reward, "users": log.n_users, "partitions": o.seeds,
        "verdict": verdict(differences, o.reward) + most(estimates),
        "estimates": estimates, "differences": differences, **provenance(),
    }  # fmt: skip
    write_json(o.out / o.reward / "summary.json", summary)
    show(summary)


if __name__ == "__main__":
    main()
