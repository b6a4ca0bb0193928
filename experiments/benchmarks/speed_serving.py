"""How fast saved policies answer: one user, and ten thousand, on the cores that are there.

    python -m experiments.benchmarks.speed_serving

A model of every method that serves without torch is trained briefly at its default sizes on a log
of payment_bonus: speed depends on the networks' shapes, not on how good they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from agents import Server, serve
from agents.common.types import Array
from experiments.methods import method
from experiments.reporting.tables import print_table
from marketing_env import RandomPolicy, preset, rollout

METHODS = ("mixed_policy", "greedy_uplift", "cluster", "dfcl", "end_to_end")
BRIEF = {"steps": 20, "epochs": 0.2, "outcome_epochs": 0.2, "warm_epochs": 0.2, "progress": False}
MANY, SINGLE, REPEATS = 10_000, 3_000, 20


def serving(methods: tuple[str, ...] = METHODS, users: int = 2_000) -> list[dict[str, Any]]:
    """Milliseconds of one decision (median, 99th percentile) and of 10,000 (median, least)."""
    config = preset("payment_bonus")
    log = rollout(RandomPolicy(config.n_actions), config, users, seed=1)
    rng = np.random.default_rng(0)
    obs = log.obs[rng.integers(users, size=MANY), rng.integers(log.horizon, size=MANY)]
    rows = []
    for name in methods:
        module = method(name)
        known = {f.name for f in fields(module.Config)}
        brief = module.Config(**{k: v for k, v in BRIEF.items() if k in known})
        with tempfile.TemporaryDirectory() as folder:
            module.fit(log, brief).save(Path(folder) / name)
            server = serve(Path(folder) / name, log.spend / 3)
        rows.append({"method": name, **decisions(server, obs)})
    return rows


def decisions(server: Server, obs: Array) -> dict[str, float]:
    """Milliseconds, once warm; user ids are hashed, and the money left moves all the time."""
    ids, left = [f"user-{i}" for i in range(len(obs))], server.budget / 2
    day = server.horizon // 2
    one = timed(lambda i: server.decide(obs[i], day, ids[i], left * (1 + i / SINGLE)), SINGLE)
    many = timed(lambda i: server.decide(obs, day, ids, left), REPEATS)
    return {
        "one_ms": float(np.median(one)),
        "one_ms_p99": float(np.quantile(one, 0.99)),
        "many_ms": float(np.median(many)),
        "many_ms_least": float(many.min()),
    }


def timed(work: Callable[[int], object], repeats: int) -> Array:
    """(repeats,) milliseconds of each call, after as many that nobody counts."""
    milliseconds = np.empty(repeats)
    for i in [*range(repeats), *range(repeats)]:
        start = time.perf_counter()
        work(i)
        milliseconds[i] = 1e3 * (time.perf_counter() - start)
    return milliseconds


if __name__ == "__main__":
    found = serving()
    print_table(found, tuple(found[0]))
