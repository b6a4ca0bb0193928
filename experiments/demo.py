"""The main job, end to end: simulate, log, learn from the log alone, replay, plot.

    python -m experiments.demo

A 30-day bonus campaign is simulated under a random policy and its log written to disk. The
mixed-policy learner and greedy uplift + integer programming are trained from that log alone. Both
are replayed against the simulator beside the exact optimum, and on a held-out log by off-policy
estimators; tables and figures land in OUT.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agents.common.values.ope import fitted_q_evaluation
from experiments import cli, plot
from experiments.campaigns import behaviour, collect
from experiments.judging import Judge
from experiments.reporting.luck import without_luck
from experiments.reporting.tables import print_table
from experiments.results import ROOT, provenance, write_json
from experiments.run import references, run
from experiments.settings import SUITES
from marketing_env import LoggedDataset, replay, rollout

SHOWN = ("method", "budget", "score", "score_error", "spend_share", "policies", "seconds")


@dataclass(frozen=True)
class Options:
    """Where the demonstration writes."""

    out: Path = ROOT / "results"  # the demo writes OUT/demo
    suite: str = "demo"  # demo, or toy for a run of seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("demo", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    torch.set_num_threads(1)
    suite = SUITES[o.suite]
    setting, seed, folder = suite.settings[0], suite.seeds[0], o.out / o.suite
    results = folder / setting.name

    print(f"1/5 simulating {setting.log_users} users of {setting.preset} and logging them")
    collect(setting, seed).save(folder / "log", progress=True)
    log = LoggedDataset.load(folder / "log")
    print(f"    {folder / 'log'}: {log.n_users} users x {log.horizon} days, one Parquet a day")

    print("2/5 the exact optimum, and the myopic policy with perfect knowledge")
    found = references(setting, results)
    judge = Judge(setting, truth=results / "truth.json")

    print("3/5 learning from the log alone, judged against the simulator")
    for name in suite.methods:
        out = results / f"{name}-{seed}.json"
        found.append(
            run(setting, name, seed, out, config=suite.configs.get(name), log=log, judge=judge)
        )
    judge.bar.close()

    print("4/5 the learned policy on a held-out log, by off-policy estimators")
    rows = held_out(o, judge)
    write_json(results / "replay.json", {"rows": rows, **provenance()})

    print("5/5 table and figures")
    written = [*plot.tabulate(folder), *plot.draw(folder)]
    print_table(
        [{**r, **row} for r in without_luck({results: found})[results] for row in r["rows"]],
        SHOWN,
        f"score: 100 = the exact optimum ({setting.preset}, {len(setting.test_seeds)} populations)",
    )
    print_table(rows, list(rows[0]), "off-policy estimates of the learned policy, and the truth")
    print("\n".join(["written:", *(f"  {path}" for path in written)]))


def held_out(o: Options, judge: Judge) -> list[dict[str, Any]]:
    """Estimates of the mixed policy at the middle budget from a fresh log, and the truth."""
    from agents import load

    setting, config = judge.setting, judge.config
    folder = o.out / o.suite / setting.name
    model = load(folder / f"mixed_policy-{SUITES[o.suite].seeds[0]}" / "model")
    i = len(judge.budgets) // 2
    policy = model.policy(judge.budgets[i])
    log = rollout(behaviour(setting), config, max(setting.log_users // 5, 200), seed=777)
    q = fitted_q_evaluation(policy, log, steps=60, progress=True)
    rows = [asdict(e) for e in replay(policy, log, q).values()]
    truth, campaigns = judge.evaluate(policy), len(setting.test_seeds) * setting.repeats
    return [
        *rows,
        {
            "estimator": "truth (simulator)",
            "reward": float(truth.reward.mean()),
            "reward_error": truth.reward_error,
            "cost": float(truth.cost.mean()),
            "cost_error": truth.cost_error,
            "effective_users": float(setting.test_users * campaigns),
        },
    ]


if __name__ == "__main__":
    main()
