"""Train a method on a log and save its model and learning curves.

    python -m experiments.train --log logs/payment_bonus --out models/mine
    python -m experiments.train --log complete_journey --method greedy_uplift --out models/grocer

`--log` is a folder that `experiments.log_data` or a company wrote (columns user_id, day, features,
action, propensity, reward, cost), one Parquet or CSV file of it, or the name of a public data set
(complete_journey, hillstrom, starbucks). The method's own settings are options too: add --help.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from agents import Model
from agents.common.values.support import silences
from experiments import cli, real_logs
from experiments.methods import method, method_names
from experiments.results import provenance, write_json
from experiments.run import train
from experiments.trials import one_shot_logs
from marketing_env import LoggedDataset

REAL: dict[str, Callable[[], LoggedDataset]] = {
    "complete_journey": real_logs.complete_journey,
    "hillstrom": one_shot_logs.hillstrom,
    "starbucks": one_shot_logs.starbucks,
}


@dataclass(frozen=True)
class Options:
    """What to train on what."""

    log: str  # folder or file of a log, or complete_journey, hillstrom, starbucks
    out: Path  # folder for model, curves and TensorBoard events
    method: str = "mixed_policy"  # file of agents/, or the dotted path of your own module
    seed: int = 0  # of initial weights, folds and batches
    sample: int | None = None  # learn from so many users drawn at random: for logs beyond memory
    held_out: float = 0.0  # share of users kept from training, for experiments.replay
    forecast_at: tuple[float, ...] = ()  # currency per user; default: shares of the log's spend


def read_log(name: str, users: int | None = None, seed: int = 0) -> LoggedDataset:
    """A log, or so many of its users, by folder, file, or the name of a public data set."""
    if name not in REAL:
        return LoggedDataset.load(name, users=users, seed=seed)
    log = REAL[name]()
    order = np.random.default_rng([seed, 9]).permutation(log.n_users)
    return log.take(np.sort(order[:users]))


def print_forecasts(model: Model, budgets: Sequence[float]) -> None:
    """What the model promises at each budget, with its certificate."""
    for budget in budgets:
        try:
            print(f"budget {budget:10.4g}: {model.forecast(budget)}")
        except ValueError as error:
            print(f"budget {budget:10.4g}: {error}")


def main(argv: Sequence[str] | None = None) -> None:
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--method", default="mixed_policy")
    module = method(chosen.parse_known_args(argv)[0].method)

    epilog = f"methods: {', '.join(method_names())}"
    parser = cli.command("train", __doc__, Options, epilog=epilog)
    cli.add_options(parser, module.Config, f"settings of {module.__name__}")
    given = parser.parse_args(argv)
    o, config = cli.from_options(Options, given), cli.from_options(module.Config, given)

    log = read_log(o.log, o.sample, o.seed)
    print(f"{o.log}: {log.n_users} users x {log.horizon} days, {log.n_actions} incentives")
    if o.held_out:
        log, _ = log.split(1 - o.held_out, seed=o.seed)
        print(f"training on {log.n_users} of them")
    model, effort = train(o.method, log, asdict(config), o.seed, o.out)
    write_json(
        o.out / "train.json",
        {
            "options": {k: str(v) for k, v in asdict(o).items()},
            **asdict(effort),
            **provenance(),
        },
    )
    print(f"{o.out}/model after {effort.seconds:.0f} s; curves: tensorboard --logdir {o.out}")
    for silence in silences(getattr(model, "support", None), log):
        print(silence)
    print_forecasts(model, o.forecast_at or tuple(log.spend * np.array([0.25, 0.5, 0.75, 1.0])))


if __name__ == "__main__":
    main()
