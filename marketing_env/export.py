"""A log in the formats of other libraries: d3rlpy, Minari, D4RL (and DSRL, which adds costs).

Only valid user-days are exported. A user is an episode: after a gap the next transition starts at
the user's next valid day. The campaign ends for a reason and the day is in the observation, so the
last valid day is terminal; an episode that d3rlpy saw end by a timeout would lose it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset


def to_d3rlpy(log: LoggedDataset, price: float = 0.0) -> Any:
    """A `d3rlpy.dataset.MDPDataset` with the reward `reward - price * cost`.

    d3rlpy keeps neither costs nor propensities: the price of the budget is put into the reward.

    Raises:
        ImportError: without d3rlpy.
        ValueError: for a price that is negative or no number.
    """
    if not 0 <= price < np.inf:
        raise ValueError(f"price = {price}: allowed are finite numbers of at least 0")
    try:
        import d3rlpy
    except ImportError as error:
        raise _missing("d3rlpy", "d3rlpy") from error
    flat = to_d4rl_dict(log)
    return d3rlpy.dataset.MDPDataset(
        observations=flat["observations"],
        actions=flat["actions"][:, None],
        rewards=(log.reward - price * log.cost)[log.valid][:, None].astype(np.float32),
        terminals=flat["terminals"].astype(np.float32),
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=log.n_actions,
    )


def to_d4rl_dict(log: LoggedDataset) -> dict[str, Array]:
    """Flat arrays of N transitions, user after user, with the keys of D4RL and DSRL.

    observations and next_observations (N, d_obs) float32, actions (N,) int32, rewards, costs and
    propensities (N,) float32, terminals and timeouts (N,) bool. No timeout is set.
    """
    there = log.valid
    terminal = there & (np.arange(log.horizon) == _last_day(log)[:, None])
    observations, ends = log.obs[:, :-1][there], terminal[there]
    follows = np.roll(observations, -1, axis=0)
    follows[ends] = log.obs[:, 1:][terminal]
    flat = {"rewards": log.reward, "costs": log.cost, "propensities": log.propensity}
    return {
        "observations": observations,
        "next_observations": follows,
        "actions": log.action[there].astype(np.int32),
        **{name: panel[there].astype(np.float32) for name, panel in flat.items()},
        "terminals": ends,
        "timeouts": np.zeros(len(ends), dtype=bool),
    }


def save_d4rl_hdf5(log: LoggedDataset, file: str | Path) -> None:
    """Write `to_d4rl_dict` as an HDF5 file, which D4RL's and DSRL's loaders read."""
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py", "minari") from error
    unfinished = Path(f"{file}.tmp")
    with h5py.File(unfinished, "w") as target:
        for name, values in to_d4rl_dict(log).items():
            target.create_dataset(name, data=values, compression="gzip")
    os.replace(unfinished, file)


def to_minari(log: LoggedDataset, dataset_id: str, data_format: str = "hdf5") -> Any:
    """A `minari.MinariDataset`, stored under `dataset_id` ("marketing/campaign-v0").

    An episode's infos hold `cost` and `propensity`, each (steps + 1, 1): entry t + 1 belongs to
    step t, entry 0 to the reset, which costs nothing and is certain.

    Args:
        data_format: "hdf5", or "arrow" and "parquet", which Minari can reload with infos of this
            shape only.

    Raises:
        ImportError: without minari.
        ValueError: if Minari has a data set of that id, or the id is malformed.
    """
    try:
        import minari
        from gymnasium.spaces import Box, Discrete
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise _missing("minari", "minari") from error
    buffers = [EpisodeBuffer(id=i, **episode) for i, episode in enumerate(_episodes(log))]
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        observation_space=Box(-np.inf, np.inf, log.obs.shape[2:], np.float32),
        action_space=Discrete(log.n_actions),
        data_format=data_format,
    )


def _episodes(log: LoggedDataset) -> Iterator[dict[str, Any]]:
    days, last = np.arange(log.horizon), _last_day(log)
    for user in np.flatnonzero(log.valid.any(axis=1)):
        there = days[log.valid[user]]
        ends = there == last[user]
        yield {
            "observations": log.obs[user, [*there, last[user] + 1]],
            "actions": log.action[user, there].astype(np.int64),
            "rewards": log.reward[user, there],
            "terminations": ends,
            "truncations": np.zeros_like(ends),
            "infos": {
                "cost": np.concatenate([[0.0], log.cost[user, there]])[:, None],
                "propensity": np.concatenate([[1.0], log.propensity[user, there]])[:, None],
            },
        }


def _last_day(log: LoggedDataset) -> Array:
    """(n,) each user's last valid day; meaningless for a user who has none."""
    return np.asarray(log.horizon - 1 - log.valid[:, ::-1].argmax(axis=1))


def _missing(library: str, extra: str) -> ImportError:
    return ImportError(f"{library} is not installed: pip install 'marketing-env[{extra}]'")
