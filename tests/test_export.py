"""Each library gets every valid user-day, once, with its costs, and ends where the user ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marketing_env import export
from marketing_env.dataset import LoggedDataset

KEYS = {"observations", "next_observations", "actions", "rewards", "costs", "propensities"}


@pytest.fixture
def log() -> LoggedDataset:
    """Five users, five days; user 1 leaves early, 2 has a gap, 3 never came, 4 came once."""
    rng = np.random.default_rng(0)
    valid = np.ones((5, 5), dtype=bool)
    valid[1, 3:], valid[2, 1:3], valid[3] = False, False, False
    valid[4] = [False, False, True, False, False]
    return LoggedDataset(
        obs=rng.normal(size=(5, 6, 2)),
        action=rng.integers(3, size=(5, 5)),
        propensity=rng.uniform(0.1, 1, (5, 5)),
        reward=rng.normal(size=(5, 5)),
        cost=rng.exponential(size=(5, 5)),
        valid=valid,
        bucket=rng.random(5),
        meta={"incentives": [0, 1, 2, 3]},
    )


def test_d4rl_dict_is_flat(log: LoggedDataset) -> None:
    flat = export.to_d4rl_dict(log)
    assert set(flat) == KEYS | {"terminals", "timeouts"}
    assert {len(values) for values in flat.values()} == {log.valid.sum()}
    assert np.array_equal(flat["costs"], log.cost[log.valid].astype(np.float32))
    assert np.flatnonzero(flat["terminals"]).tolist() == [4, 7, 10, 11]
    assert not flat["timeouts"].any()


def test_d4rl_next_observation_is_the_next_one_that_was_seen(log: LoggedDataset) -> None:
    flat = export.to_d4rl_dict(log)
    inside = np.flatnonzero(~flat["terminals"])
    assert np.array_equal(flat["next_observations"][inside], flat["observations"][inside + 1])
    last = [log.obs[0, 5], log.obs[1, 3], log.obs[2, 5], log.obs[4, 3]]
    assert np.array_equal(flat["next_observations"][flat["terminals"]], last)


def test_export_leaves_the_log_alone(log: LoggedDataset) -> None:
    before = log.obs.copy(), log.reward.copy()
    export.to_d4rl_dict(log)["observations"][:] = 0
    export.to_d4rl_dict(log)["rewards"][:] = 0
    assert np.array_equal(log.obs, before[0])
    assert np.array_equal(log.reward, before[1])


def test_hdf5_holds_the_dict(log: LoggedDataset, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    export.save_d4rl_hdf5(log, tmp_path / "log.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["log.hdf5"]
    with h5py.File(tmp_path / "log.hdf5") as file:
        for name, values in export.to_d4rl_dict(log).items():
            assert np.array_equal(file[name][:], values)


def test_d3rlpy_keeps_every_transition_and_prices_the_cost(log: LoggedDataset) -> None:
    pytest.importorskip("d3rlpy")
    dataset = export.to_d3rlpy(log, price=0.5)
    assert dataset.transition_count == log.valid.sum()
    assert [len(episode) for episode in dataset.episodes] == [5, 3, 3, 1]
    assert all(episode.terminated for episode in dataset.episodes)
    assert dataset.dataset_info.action_size == 4
    rewards = np.concatenate([episode.rewards[:, 0] for episode in dataset.episodes])
    assert rewards == pytest.approx((log.reward - 0.5 * log.cost)[log.valid], abs=1e-6)


def test_d3rlpy_learns_from_it(log: LoggedDataset) -> None:
    d3rlpy = pytest.importorskip("d3rlpy")
    learner = d3rlpy.algos.DQNConfig(batch_size=4).create()
    learner.build_with_dataset(export.to_d3rlpy(log))
    learner.update(export.to_d3rlpy(log).sample_transition_batch(4))
    assert learner.predict(log.obs[:, 0]).shape == (5,)


@pytest.mark.parametrize("price", [-1, np.nan, np.inf])
def test_d3rlpy_price_is_checked(log: LoggedDataset, price: float) -> None:
    with pytest.raises(ValueError, match="price = "):
        export.to_d3rlpy(log, price)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
def test_minari_reloads(
    log: LoggedDataset, tmp_path: Path, monkeypatch: Any, data_format: str
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    export.to_minari(log, "marketing/test-v0", data_format)
    stored = minari.load_dataset("marketing/test-v0")
    assert (stored.total_episodes, stored.total_steps) == (4, log.valid.sum())
    assert stored.action_space.n == 4
    gap = stored[2]
    assert np.array_equal(gap.observations, log.obs[2, [0, 3, 4, 5]])
    assert np.array_equal(gap.rewards, log.reward[2, [0, 3, 4]])
    assert gap.terminations.tolist() == [False, False, True]
    assert gap.infos["cost"][:, 0].tolist() == [0, *log.cost[2, [0, 3, 4]]]
    assert gap.infos["propensity"][:, 0].tolist() == [1, *log.propensity[2, [0, 3, 4]]]


@pytest.mark.parametrize(
    ("library", "extra", "call"),
    [
        ("d3rlpy", "d3rlpy", lambda log: export.to_d3rlpy(log)),
        ("minari", "minari", lambda log: export.to_minari(log, "marketing/absent-v0")),
        ("h5py", "minari", lambda log: export.save_d4rl_hdf5(log, "absent.hdf5")),
    ],
)
def test_missing_library_names_its_extra(
    log: LoggedDataset, monkeypatch: Any, library: str, extra: str, call: Any
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install 'marketing-env\[{extra}\]'"):
        call(log)
