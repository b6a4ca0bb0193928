"""CRITEO-UPLIFT v2 by the published protocol: AUCC with 200 steps on 30 % of the file.

Shuffle with seed 20220720, cut 60/10/30 or 70/30, learn from (a sample of) the first part, rank the
last (`trials/criteo.py`). The training seeds are the runs that papers average. The test part
is streamed: of each of its users only score, arm, conversion and visit are kept, 13 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agents import Model
from agents.common.one_day.uplift_metrics import aucc, qini
from agents.common.types import Array
from experiments.trials.criteo import BATCH, Criteo
from experiments.trials.crossfit import or_nan
from experiments.trials.one_shot_methods import Entry, step_scores
from marketing_env import LoggedDataset

Q = 200  # steps of AUCC, as in all published comparisons

Row = dict[str, Any]


class Options(Protocol):
    @property
    def file(self) -> Path | None: ...
    @property
    def split(self) -> str: ...
    @property
    def sample(self) -> int: ...


def settings(o: Options) -> list[Row]:
    data = _data(o.file, o.split)
    start, stop = data.split["train"]
    users = min(o.sample, int(stop * len(data.place)) - int(start * len(data.place)))
    name = f"{o.split.replace('/', '-')}-users-{users}"
    return [{"name": name, "split": o.split, "users": users, "rows": len(data.place)}]


def run(o: Options, setting: Mapping[str, Any], entry: Entry, seed: int) -> Row:
    """One training, and the ranking of the whole test part."""
    model = entry.fit(_train(o.file, o.split, setting["users"]), "criteo", seed)
    scores, treated, reward, cost = ranked(model, _data(o.file, o.split))
    metrics = {
        "aucc": or_nan(lambda *parts: aucc(*parts, q=Q), scores, treated, reward, cost),
        "qini": or_nan(qini, scores, treated, reward),
    }
    return {"metrics": metrics, "test_users": len(scores)}


def ranked(model: Model, data: Criteo, rows: int = BATCH) -> tuple[Array, Array, Array, Array]:
    """(n,) score, arm, conversion and visit of the users of the test part, in the file's order.

    Args:
        rows: of the file, that are held at a time.
    """
    batches = [
        (
            step_scores(model, log)[:, 0].astype(np.float32),
            log.action[:, 0] == 1,
            log.reward[:, 0].astype(np.float32),
            log.cost[:, 0].astype(np.float32),
        )
        for log in data.batches("test", rows)
    ]
    score, treated, reward, cost = (np.concatenate(part) for part in zip(*batches, strict=True))
    return score, treated, reward, cost


@lru_cache(maxsize=1)
def _data(file: Path | None, split: str) -> Criteo:
    return Criteo.open(file, split)


@lru_cache(maxsize=1)
def _train(file: Path | None, split: str, users: int) -> LoggedDataset:
    return _data(file, split).sample("train", users)
