"""Judge a saved model: in the simulator beside the exact optimum, or on a log by replay.

python -m experiments.replay --model models/mine --preset payment_bonus --out results/mine.json
python -m experiments.replay --model models/mine --log logs/held_out
python -m experiments.replay --model models/grocer --log complete_journey --held-out 0.3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import Model, load
from agents.common.files import learned_columns
from agents.common.values.ope import FittedQEvaluation
from experiments import cli
from experiments.judging import Judge
from experiments.reporting.tables import print_table
from experiments.results import provenance, write_json
from experiments.settings import Setting
from experiments.train import read_log
from marketing_env import LoggedDataset, replay

SIMULATED = ("budget", "score", "score_error", "spend_share", "score_hard_limit", "refused_share")
REPLAYED = (
    "budget",
    "estimator",
    "reward",
    "reward_error",
    "cost",
    "cost_error",
    "effective_users",
)
FEW = 100  # effective users below which an importance-weighted estimate says next to nothing


@dataclass(frozen=True)
class Options:
    """Which model, and what to hold it against."""

    model: Path  # folder `model` that experiments.train wrote
    preset: str = ""  # campaign to simulate, or
    log: str = ""  # log to replay
    held_out: float = 0.0  # judge on this share of the log's users: that which train left out
    seed: int = 0  # of that split: the seed of training
    budgets: tuple[float, ...] = ()  # currency per user; default: shares of optimum or log
    users: int = 1_000  # simulated users per seed
    seeds: int = 10  # simulated populations
    out: Path | None = None  # JSON file


def in_simulator(model: Model, o: Options) -> list[dict[str, Any]]:
    """Rows of `experiments.judging.Judge`, one per budget."""
    seeds = tuple(range(1_000, 1_000 + o.seeds))
    judge = Judge(Setting("replay", o.preset, test_users=o.users, test_seeds=seeds))
    planned = judge.planned(model)
    return [judge.row(i, planned.policy(b)) for i, b in enumerate(judge.budgets)]


def on_log(model: Model, log: LoggedDataset, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """Every estimator at every budget, each with its effective number of users."""
    policies = {}
    for budget in budgets:
        try:
            policies[budget] = model.policy(budget)
        except ValueError as error:
            print(f"budget {budget:.4g} left out: {error}")
    if not policies:
        return []
    values = FittedQEvaluation(log, progress=True).values(list(policies.values()))
    return [
        {"budget": budget, **asdict(estimate)}
        for (budget, policy), q in zip(policies.items(), values, strict=True)
        for estimate in replay(policy, log, q).values()
    ]


def verdict(rows: Sequence[dict[str, Any]], log: LoggedDataset) -> str:
    """What the log can and cannot say about these policies."""
    weighted = [r["effective_users"] for r in rows if r["estimator"] == "importance"]
    estimated = log.meta.get("propensity") == "estimated"
    lines = [
        f"{log.n_users} users; importance weights leave the information of"
        f" {min(weighted, default=0):.1f} to {max(weighted, default=0):.1f} of them."
    ]
    if min(weighted, default=0) < FEW:
        lines.append(
            "That is too few: importance, self-normalised and doubly robust estimates are not to be"
            " relied upon here, and the fitted values rest on the model alone."
        )
    if estimated:
        lines.append(
            "The propensities are estimated from a targeted campaign: whatever drove the targeting"
            " and is not in the features biases every estimate. No causal claim is made."
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("replay", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if bool(o.preset) == bool(o.log):
        parser.error("give either --preset (simulate) or --log (replay)")
    model, said = load(o.model), ""
    if o.preset:
        rows = in_simulator(model, o)
        shown: tuple[str, ...] = SIMULATED
    else:
        log = read_log(o.log)
        learned = learned_columns(o.model)
        if learned not in (None, log.columns):
            parser.error(f"{o.log} has columns {log.columns}: {o.model} learned from {learned}")
        if o.held_out:
            log = log.split(1 - o.held_out, seed=o.seed)[1]
        rows = on_log(model, log, o.budgets or tuple(log.spend * np.array([0.5, 0.75, 1.0, 1.25])))
        shown = REPLAYED
        said = verdict(rows, log)
    print_table(rows, shown)
    print(said)
    if o.out:
        write_json(o.out, {"model": str(o.model), "rows": rows, "verdict": said, **provenance()})


if __name__ == "__main__":
    main()
