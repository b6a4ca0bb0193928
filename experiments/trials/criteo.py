"""CRITEO-UPLIFT v2 as one-shot logs: 14 million users, read in bounded memory.

    data = Criteo.open()
    for log in data.batches("train"):  # once over the file
        ...
    log = data.sample("train", 500_000)  # a random part that fits into memory

Of the file only one batch of rows is held at a time. What grows with the file is the place of each
row in the published shuffle, 4 bytes a row.

The convention of the cost-aware uplift papers: a visit is the cost, a conversion the reward. The
protocol is theirs too: shuffle with seed 20220720, then cut 70/30 or 60/10/30 (Zhou et al., AAAI
2023; KDD 2024, with their code). `exposure` happens after the assignment and is no feature.

Diemert et al., A Large Scale Benchmark for Uplift Modeling, AdKDD 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from experiments.real_logs import check_columns, find_file
from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset

NAMES = (
    "criteo-research-uplift-v2.1.csv.gz",
    "criteo-uplift-v2.1.csv.gz",
    "criteo-uplift-v2.1.csv",
    "criteo-uplift-v2.1.parquet",
)
FEATURES = tuple(f"f{i}" for i in range(12))
COLUMNS = (*FEATURES, "treatment", "conversion", "visit")
SHUFFLE_SEED = 20220720
# Shares of the shuffled rows at which each part begins and ends.
SPLITS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "70/30": {"train": (0.0, 0.7), "test": (0.7, 1.0)},
    "60/10/30": {"train": (0.0, 0.6), "validation": (0.6, 0.7), "test": (0.7, 1.0)},
}
TREATED = (0.84, 0.86)  # share of treated rows in the public file and its 10 % sample: .85
BATCH = 65_536  # rows
BUFFER = 1 << 18  # bytes of each column of a Parquet file
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Criteo:
    """The file, its published split, and the share of treated rows, which is the propensity.

    A user's bucket is a multiple of the golden ratio, by its place in the shuffle: evenly spread
    over [0, 1) within every part and every sample.
    """

    file: Path
    place: Array  # (n,) uint32 of every row of the file in the shuffled order
    treated: float
    split: Mapping[str, tuple[float, float]]

    @staticmethod
    def open(path: str | Path | None = None, split: str = "60/10/30") -> Criteo:
        """Read the treatments once, and shuffle as published.

        Args:
            path: a CSV (possibly .gz) or Parquet file, or a folder with one of `NAMES`; default
                the folder `criteo` of the public data.
            split: 60/10/30 or 70/30.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: for another split, missing columns, or a share of treated rows that the
                public file does not have.
        """
        if split not in SPLITS:
            raise ValueError(f"split = {split!r}: allowed are {', '.join(SPLITS)}")
        file = find_file(path, "criteo", NAMES)
        check_columns(_column_names(file), COLUMNS)
        n, treated = 0, 0.0
        for batch in _read(file, ("treatment",), BATCH):
            n, treated = n + len(batch), treated + float(batch.sum(dtype=float))
        low, high = TREATED
        if not low <= treated / max(n, 1) <= high:
            raise ValueError(
                f"treatment is 1 in {treated:g} of {n} rows of {file}: allowed is a share from "
                f"{low} to {high}, as in the public file"
            )
        return Criteo(file, _places(n), treated / n, SPLITS[split])

    def batches(self, part: str, rows: int = BATCH) -> Iterator[LoggedDataset]:
        """The users of a part in the order of the file, from `rows` rows of it at a time."""
        for place, table in self._within(self._bounds(part), rows):
            yield self._log(table, place)

    def sample(self, part: str, users: int | None = None) -> LoggedDataset:
        """The first users of a part in shuffled order: a uniform sample of it; default all.

        Memory: one batch, and at most 130 bytes a user.

        Raises:
            ValueError: if the part has fewer users.
        """
        start, stop = self._bounds(part, users)
        whole = np.empty((stop - start, len(COLUMNS)), np.float32)
        for place, table in self._within((start, stop), BATCH):
            whole[place - start] = table
        return self._log(whole, np.arange(start, stop))

    def _bounds(self, part: str, users: int | None = None) -> tuple[int, int]:
        """First place of a part, or of a sample of it, and the one after its last."""
        if part not in self.split:
            raise ValueError(f"part = {part!r}: allowed are {', '.join(self.split)}")
        start, stop = (int(len(self.place) * share) for share in self.split[part])
        if users is None:
            return start, stop
        if not 1 <= users <= stop - start:
            raise ValueError(f"users = {users}: allowed are 1 to {stop - start} in {part}")
        return start, start + users

    def _within(self, bounds: tuple[int, int], rows: int) -> Iterator[tuple[Array, Array]]:
        """Places within the bounds, and their rows, of each batch of the file that has any."""
        start, stop = bounds
        first = 0
        for table in _read(self.file, COLUMNS, rows):
            place = self.place[first : first + len(table)]
            first += len(table)
            chosen = (place >= start) & (place < stop)
            if chosen.any():
                yield place[chosen], table[chosen]

    def _log(self, table: Array, place: Array) -> LoggedDataset:
        """The log of (n, 15) rows; both mornings of a user share their memory."""
        x = table[:, None, : len(FEATURES)]
        arm, conversion, visit = table[:, len(FEATURES) :].T
        return LoggedDataset(
            obs=np.broadcast_to(x, (len(x), 2, len(FEATURES))),
            action=arm[:, None],
            propensity=np.where(arm == 1, self.treated, 1 - self.treated)[:, None],
            reward=conversion[:, None],
            cost=visit[:, None],
            valid=np.ones((len(table), 1), dtype=bool),
            bucket=GOLDEN * (place + 1.0) % 1,
            meta={
                "source": "criteo",
                "columns": list(FEATURES),
                "incentives": [0.0, 1.0],
                "reward_unit": "conversions",
                "actions": ["control", "treatment"],
            },
        )


def _places(n: int) -> Array:
    """The place of every row once `pandas.DataFrame.sample(frac=1, random_state=SEED)` is done."""
    order = np.arange(n, dtype=np.uint32)
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    place = np.empty_like(order)
    place[order] = np.arange(n, dtype=np.uint32)
    return place


def _column_names(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        return list(pyarrow.parquet.read_schema(file).names)
    return list(pd.read_csv(file, nrows=0).columns)


def _read(file: Path, columns: Sequence[str], rows: int) -> Iterator[Array]:
    """(m, columns) float32, with m at most `rows`."""
    batches = _parquet if file.suffix == ".parquet" else _csv
    for batch in batches(file, list(columns), rows):
        yield np.stack([np.asarray(batch[name], np.float32) for name in columns], axis=1)


def _parquet(file: Path, columns: list[str], rows: int) -> Iterator[Any]:
    # With a buffer the pages of a column are streamed; without it, whole row groups are read.
    with pyarrow.parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False) as table:
        yield from table.iter_batches(rows, columns=columns)


def _csv(file: Path, columns: list[str], rows: int) -> Iterator[Any]:
    # Not Arrow's reader: it keeps 32 blocks in advance, each as large as a batch.
    with pd.read_csv(file, usecols=columns, dtype=np.float32, chunksize=rows) as table:
        yield from table
