"""CRITEO-UPLIFT's layout on a made-up file: the published split, exact rows, bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from experiments.real_logs import data_folder  # noqa: E402
from experiments.trials import criteo  # noqa: E402
from experiments.trials.criteo import FEATURES, Criteo  # noqa: E402
from marketing_env import LoggedDataset  # noqa: E402

ROWS = 20_000


def users(n: int = ROWS, seed: int = 0) -> Any:
    """The public file's columns, types and rates; visits are more frequent than there."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(10, 3, (n, 12)).astype(np.float32), columns=list(FEATURES))
    frame["treatment"] = (rng.random(n) < 0.85).astype(int)
    frame["visit"] = (rng.random(n) < 0.2 + 0.1 * frame["treatment"]).astype(int)
    frame["conversion"] = frame["visit"] * rng.integers(2, size=n)
    frame["exposure"] = frame["treatment"] * rng.integers(2, size=n)
    return frame[[*FEATURES, "treatment", "conversion", "visit", "exposure"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("criteo")
    frame = users()
    frame.to_parquet(folder / "small.parquet", row_group_size=700)
    frame.to_csv(folder / "criteo-research-uplift-v2.1.csv.gz", index=False)
    frame.to_csv(folder / "plain.csv", index=False)
    return folder


FILES = ("small.parquet", "plain.csv", "")  # the last is the folder itself


def rows_of(log: LoggedDataset) -> Any:
    """Features, treatment, conversion and visit, as in the file."""
    return np.column_stack([log.obs[:, 0], log.action[:, 0], log.reward[:, 0], log.cost[:, 0]])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("split", "cuts"),
    [
        ("70/30", {"train": (0, 14_000), "test": (14_000, ROWS)}),
        (
            "60/10/30",
            {"train": (0, 12_000), "validation": (12_000, 14_000), "test": (14_000, ROWS)},
        ),
    ],
)
def test_split_is_the_published_one(
    folder: Path, name: str, split: str, cuts: dict[str, tuple[int, int]]
) -> None:
    """As published: `sample(frac=1.0, random_state=20220720)`, then cut by rows."""
    shuffled = users().sample(frac=1.0, random_state=20220720)[list(criteo.COLUMNS)].to_numpy()
    data = Criteo.open(folder / name, split)
    assert set(data.split) == set(cuts)
    for part, (start, stop) in cuts.items():
        np.testing.assert_allclose(rows_of(data.sample(part)), shuffled[start:stop], rtol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_batches_hold_a_part_once_in_the_order_of_the_file(folder: Path, name: str) -> None:
    frame = users()
    data = Criteo.open(folder / name)
    logs = list(data.batches("test", rows=1000))
    assert len(logs) == 20
    assert sum(log.n_users for log in logs) == 6000
    found = np.concatenate([rows_of(log) for log in logs])
    chosen = data.place >= 14_000
    expected = frame[list(criteo.COLUMNS)].to_numpy()[chosen]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    whole = data.sample("test")
    buckets = np.concatenate([log.bucket for log in logs])
    assert np.array_equal(buckets, whole.bucket[data.place[chosen] - 14_000])


def test_log_is_one_randomised_decision(folder: Path) -> None:
    log = Criteo.open(folder).sample("train")
    assert (log.n_users, log.horizon, log.n_actions) == (12_000, 1, 2)
    assert log.columns == FEATURES
    share = users()["treatment"].mean()
    assert np.array_equal(log.propensity, np.where(log.action == 1, share, 1 - share))
    assert np.array_equal(log.obs[:, 0], log.obs[:, 1])
    assert log.split(0.5)[0].n_users == 6000


def test_sample_is_the_beginning_of_its_part(folder: Path) -> None:
    data = Criteo.open(folder / "small.parquet")
    few, all_of_it = data.sample("validation", 300), data.sample("validation")
    assert few.n_users == 300
    assert np.array_equal(rows_of(few), rows_of(all_of_it)[:300])
    for log in (few, all_of_it):
        n = log.n_users
        gaps = np.abs(np.sort(log.bucket) - (np.arange(n) + 0.5) / n)
        assert gaps.max() < 5 / n  # far more even than random numbers


def peaks(read: Callable[[], object]) -> tuple[int, int]:
    """Most bytes that Python and Arrow held at once while reading."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        read()
        return tracemalloc.get_traced_memory()[1], pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(usual)


@pytest.mark.parametrize("kind", ["row groups", "one row group", "csv"])
def test_memory_is_that_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """And of the shuffle, 8 bytes a row while it is made; the columns take 60 bytes a row."""
    n, rows = 100_000, 1000
    file = tmp_path / ("large.csv" if kind == "csv" else "large.parquet")
    if kind == "csv":
        users(n).to_csv(file, index=False)
    else:
        users(n).to_parquet(file, row_group_size=2 * rows if kind == "row groups" else n)
    monkeypatch.setattr(criteo, "BATCH", rows)
    part: list[int] = []

    def stream() -> None:
        part.extend(log.n_users for log in Criteo.open(file).batches("train", rows))

    python, arrow = peaks(stream)
    assert sum(part) == 0.6 * n
    assert 8 * n < python < 8 * n + 400 * rows + 200_000
    # One row group has one dictionary a column, of 1 MB at most.
    assert arrow < (12 * 2**20 if kind == "one row group" else 400 * rows)
    # The same measures do see a part that is read whole.
    python, _ = peaks(lambda: Criteo.open(file).sample("train"))
    assert 94 * sum(part) < python - 4 * n < 130 * sum(part)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treatment": 1}, r"treatment is 1 in 900 of 900 rows of .*share from 0\.84 to 0\.86"),
        ({"treatment": np.nan}, "treatment is 1 in nan of 900 rows"),
        ({"f3": np.nan}, "obs of user row 0, day 0"),
        ({"visit": np.nan}, "cost of user row 0, day 0 is nan"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    users(900).assign(**change).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        Criteo.open(tmp_path / "a.parquet").sample("train")


def test_other_files_parts_and_sizes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Criteo.open(tmp_path)
    for name in ("a.csv", "a.parquet"):
        frame = users(900).drop(columns=["f5", "visit"])
        frame.to_csv(tmp_path / name) if name == "a.csv" else frame.to_parquet(tmp_path / name)
        with pytest.raises(ValueError, match="missing columns: f5, visit; the table has"):
            Criteo.open(tmp_path / name)
    with pytest.raises(ValueError, match="split = '50/50': allowed are 70/30, 60/10/30"):
        Criteo.open(folder, "50/50")
    data = Criteo.open(folder, "70/30")
    with pytest.raises(ValueError, match="part = 'validation': allowed are train, test"):
        data.sample("validation")
    with pytest.raises(ValueError, match="users = 14001: allowed are 1 to 14000 in train"):
        data.sample("train", 14_001)


def test_real_file_has_its_known_rates() -> None:
    if not (data_folder() / "criteo").exists():
        pytest.skip(f"{data_folder() / 'criteo'} is absent: set MARKETING_DATA")
    log = Criteo.open().sample("train", 500_000)
    assert log.reward.mean() == pytest.approx(0.00292, abs=0.001)
    assert log.cost.mean() == pytest.approx(0.046992, abs=0.005)
