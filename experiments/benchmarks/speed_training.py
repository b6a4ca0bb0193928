"""From a log on disk, of any size, to a trained model: seconds and memory by number of users."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LEARNED_FROM = 100_000  # users drawn from the log
_DAYS = 14

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
config = preset("payment_bonus", horizon={days})
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
model = mixed_policy.fit(log, mixed_policy.Config(progress=False))
model.save({model!r})
answer = {{}}
"""


def training(users: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Write a log of n users x 14 days, read a sample of it, train on the sample."""
    for n in (n for n in users if n >= _LEARNED_FROM):
        with tempfile.TemporaryDirectory() as folder:
            names = {
                "users": n, "days": _DAYS, "sample": _LEARNED_FROM,
                "log": str(Path(folder, "log")), "model": str(Path(folder, "model")),
            }  # fmt: skip
            row: dict[str, Any] = {"users": n}
            for task, body in (("write", _WRITE), ("read", _READ), ("train", _TRAIN)):
                found = _apart(body.format(**names))
                row |= {f"{task}_seconds": found["seconds"], f"{task}_memory": found["memory"]}
            yield row


def _apart(body: str) -> dict[str, Any]:
    code = _TASK.format(body=body)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
