"""From a log on disk, of any size, to a trained model: seconds, memory, and the model's worth.

However large the log, training draws the same number of users from it: seconds stop growing, and
the score tells what such a model is worth to users whom no log has seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.settings import Setting

_LEARNED_FROM = 100_000  # users drawn from the log
_SETTING = Setting("training", "payment_bonus", overrides={"horizon": 14}, hard_limit=False)

# In a process of its own, whose peak memory is then that of the task alone.
_TASK = """
import json, resource, sys, time
start = time.perf_counter()
{body}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({{"seconds": time.perf_counter() - start, "memory": peak, **answer}}))
"""
_WRITE = """
from marketing_env import RandomPolicy, preset, rollout_parts, save_parts
config = preset({preset!r}, **{overrides!r})
save_parts(rollout_parts(RandomPolicy(config.n_actions), config, {users}), {log!r})
answer = {{}}
"""
_READ = """
from marketing_env import LoggedDataset
log = LoggedDataset.load({log!r}, users={sample})
answer = {{}}
"""
_TRAIN = """
import torch
torch.set_num_threads(1)
from agents import mixed_policy
from marketing_env import LoggedDataset
log = LoggedDataset.load({log!r}, users={sample})
model = mixed_policy.fit(log, mixed_policy.Config(progress=False, **{config!r}))
model.save({model!r})
answer = {{}}
"""
_JUDGE = """
import torch
torch.set_num_threads(1)
from pathlib import Path
import agents
from experiments.judging import Judge
from experiments.settings import Setting
judge, model = Judge({setting!r}, progress=False, truth=Path({truth!r})), agents.load({model!r})
rows = [judge.row(i, model.policy(budget)) for i, budget in enumerate(judge.budgets)]
answer = {{"score": sum(row["score"] for row in rows) / len(rows)}}
"""
_STEPS = {"write": _WRITE, "read": _READ, "train": _TRAIN}


def training(
    users: tuple[int, ...],
    setting: Setting = _SETTING,
    config: Mapping[str, Any] | None = None,
    learned_from: int = _LEARNED_FROM,
) -> Iterator[dict[str, Any]]:
    """Write a log of n users, read a sample of it, train on the sample, and judge the model.

    setting: the campaign, and the budgets and fresh users that the score is the mean of.
    config: settings of the method that are not its defaults.
    """
    with tempfile.TemporaryDirectory() as folder:
        for n in (n for n in users if n >= learned_from):
            names = {
                "setting": setting, "preset": setting.preset, "overrides": dict(setting.overrides),
                "users": n, "sample": learned_from, "config": dict(config or {}),
                "truth": str(Path(folder, "truth.json")),
            }  # fmt: skip
            yield {"users": n, **_steps(names)}


def _steps(names: dict[str, Any]) -> dict[str, float]:
    """What each step takes, and the score."""
    row: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        names |= {"log": str(Path(folder, "log")), "model": str(Path(folder, "model"))}
        for step, body in _STEPS.items():
            found = _apart(body.format(**names))
            row |= {f"{step}_seconds": found["seconds"], f"{step}_memory": found["memory"]}
        return row | {"score": _apart(_JUDGE.format(**names))["score"]}


def _apart(body: str) -> dict[str, Any]:
    code = _TASK.format(body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
