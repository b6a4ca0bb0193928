"""The simulator beside Gymnasium's own: environments, the exact planner, and logging to Parquet.

SCOPE-RL's `RTBEnv`, the nearest to ours among marketing environments, stands beside them where it
is there (`pip install --no-deps scope-rl`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

import marketing_env
from experiments.benchmarks.stopwatch import timed

_CAMPAIGN = "marketing_env/Campaign-v0"
_STEPS, _BIDS = 3_000, 300  # of a single environment, of ours and of the slow one
_PRICES = tuple(np.geomspace(0.05, 5.0, 20))


class Task(NamedTuple):
    name: str
    amount: int  # what one run of it does
    unit: str
    run: Callable[[], Any]


def simulator(users: tuple[int, ...], repeats: int) -> Iterator[dict[str, Any]]:
    """Rates of everything that simulates, one row a task and size."""
    for task in tasks(users):
        found = timed(task.run, repeats=repeats)
        rate = task.amount / found.seconds
        yield {
            "task": task.name, "unit": task.unit, "per_second": rate, "seconds": found.seconds,
            "memory": found.memory,
        }  # fmt: skip


def tasks(users: tuple[int, ...]) -> Iterator[Task]:
    steps = "user-days"
    yield Task("Campaign-v0, one environment", _STEPS, steps, partial(alone, _CAMPAIGN))
    yield Task("CartPole-v1, one environment", _STEPS, "steps", partial(alone, "CartPole-v1"))
    if find_spec("rtbgym"):
        name, env = "RTBEnv of SCOPE-RL, one environment", rtb()
        yield Task(name, _BIDS, "steps", lambda: stepped(env, [0.1, 1.0], _BIDS))
    for n in (n for n in users if 1_000 <= n <= 100_000):
        days = 30 * n
        yield Task(f"Campaign-v0, vector of {n:,}", days, steps, partial(vector, _CAMPAIGN, n))
        yield Task(
            f"CartPole-v1, vector of {n:,}", days, "steps", partial(vector, "CartPole-v1", n)
        )
        yield Task(f"log of {n:,} users to Parquet", days, steps, partial(log, n))
    for n in (n for n in users if 1_000 <= n <= 10_000):
        amount = n * 30 * len(_PRICES)
        yield Task(
            f"exact plans, {n:,} users x 30 days x 20 prices", amount, "user-days x prices",
            partial(plans, n),
        )  # fmt: skip


def alone(name: str) -> None:
    env = gym.make(name).unwrapped
    stepped(env, [0, int(env.action_space.n) - 1], _STEPS)  # type: ignore[attr-defined]


def stepped(env: gym.Env[Any, Any], actions: Sequence[Any], steps: int) -> None:
    env.reset(seed=0)
    for step in range(steps):
        _, _, terminated, truncated, _ = env.step(actions[step % len(actions)])
        if terminated or truncated:
            env.reset()


def rtb() -> gym.Env[Any, Any]:
    """Its default campaign, in continuous bids."""
    # What it asks of numpy was removed with numpy 2.
    vars(np)["issubsctype"] = lambda a, kind: np.issubdtype(np.asarray(a).dtype, kind)
    env: gym.Env[Any, Any] = import_module("rtbgym").RTBEnv(random_state=0)
    return env


def vector(name: str, n: int, steps: int = 30) -> None:
    envs = gym.make_vec(name, num_envs=n, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    actions = np.arange(n) % 2
    for _ in range(steps):
        envs.step(actions)


def log(n: int) -> None:
    config = marketing_env.preset("payment_bonus")
    policy = marketing_env.RandomPolicy(config.n_actions)
    with tempfile.TemporaryDirectory() as folder:
        marketing_env.rollout(policy, config, n).save(Path(folder, "log"))


def plans(n: int) -> None:
    config = marketing_env.preset("payment_bonus")
    marketing_env.plan(config, marketing_env.sample_users(config, n), _PRICES)
