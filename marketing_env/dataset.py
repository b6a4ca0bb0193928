"""LoggedDataset: what a campaign left behind, and all that a learner may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from marketing_env import panel, parquet
from marketing_env.config import Array


@dataclass(frozen=True)
class LoggedDataset:
    """A panel of n users over T days. Arrays are read-only and checked once, here.

    Raises:
        ValueError: naming the field, the user row and day, the bad value and what is allowed.
    """

    obs: Array  # (n, T + 1, d_obs) float32; the last is the morning after the campaign
    action: Array  # (n, T) uint8, 0 is "no incentive"
    propensity: Array  # (n, T) probability with which the logging policy chose `action`
    reward: Array  # (n, T)
    cost: Array  # (n, T) currency, at least 0
    valid: Array  # (n, T) bool: the user was there to be treated
    bucket: Array  # (n,) in [0, 1)
    meta: Mapping[str, Any] = field(default_factory=dict)  # columns, incentives, source

    def __post_init__(self) -> None:
        kinds = {"obs": np.float32, "action": np.uint8, "valid": np.bool_}
        for f in fields(self)[:-1]:
            given = np.asarray(getattr(self, f.name))
            view: Array = given.astype(kinds.get(f.name, np.float64), copy=False).view()
            if f.name == "action" and (bad := given[view != given]).size:
                raise ValueError(f"action holds {bad[0]}: allowed are whole numbers, 0 to 255")
            view.flags.writeable = False
            object.__setattr__(self, f.name, view)
        _check(self)

    @property
    def n_users(self) -> int:
        return int(self.action.shape[0])

    @property
    def horizon(self) -> int:
        return int(self.action.shape[1])

    @property
    def n_actions(self) -> int:
        """K: the incentives the log declares, or the largest one seen."""
        seen = int(self.action.max(initial=0)) + 1
        return max(len(self.meta.get("incentives", ())), seen)

    @property
    def columns(self) -> tuple[str, ...]:
        named = self.meta.get("columns")
        return tuple(named or (f"x{i}" for i in range(self.obs.shape[2])))

    @property
    def spend(self) -> float:
        """Mean cost per user of the whole campaign: the budget that the log itself used."""
        return float(self.cost.sum() / self.n_users)

    @property
    def value(self) -> float:
        """Mean reward per user of the whole campaign."""
        return float(self.reward.sum() / self.n_users)

    def take(self, users: Array | slice) -> LoggedDataset:
        """The log of some users."""
        parts = {f.name: getattr(self, f.name)[users] for f in fields(self)[:-1]}
        return replace(self, **parts)

    def split(self, share: float, seed: int = 0) -> tuple[LoggedDataset, LoggedDataset]:
        """Two logs of disjoint users; the first holds `share` of them."""
        if not 0 < share < 1:
            raise ValueError(f"share = {share}: allowed is (0, 1)")
        order = np.random.default_rng([seed, 4]).permutation(self.n_users)
        cut = round(share * self.n_users)
        return self.take(np.sort(order[:cut])), self.take(np.sort(order[cut:]))

    def save(self, folder: str | Path, *, progress: bool = False) -> None:
        """Write one Parquet partition a day and `schema.json`: see `parquet.save_log`."""
        parquet.save_log(self, folder, progress=progress)

    @staticmethod
    def load(folder: str | Path, *, users: int | None = None, seed: int = 0) -> LoggedDataset:
        """Read a folder (or one file) that `save`, or a company, wrote: see `parquet.load_log`.

        Args:
            users: read only so many users, drawn at random; the log may be larger than memory.
        """
        return LoggedDataset(**parquet.load_log(folder, users, seed))

    @staticmethod
    def from_table(
        table: Any,
        *,
        features: Sequence[str] | None = None,
        incentives: Sequence[float] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> LoggedDataset:
        """A log from any table of user-days (a data frame, an Arrow table or a dict of columns).

        Columns: user_id, day, features, action, propensity, reward, cost: see
        `panel.log_from_table`.
        """
        return LoggedDataset(**panel.log_from_table(table, features, incentives, meta))


def _check(log: LoggedDataset) -> None:
    n, horizon = log.action.shape if log.action.ndim == 2 else (-1, -1)
    shapes = {
        "action": (n, horizon),
        "obs": (n, horizon + 1, log.obs.shape[-1] if log.obs.ndim else 0),
        **dict.fromkeys(("propensity", "reward", "cost", "valid"), (n, horizon)),
        "bucket": (n,),
    }
    for name, shape in shapes.items():
        found = getattr(log, name).shape
        if found != shape or n < 1 or horizon < 1:
            raise ValueError(f"{name} has shape {found}: allowed is {shape}, n >= 1, T >= 1")
    there = log.valid
    finite_obs = np.isfinite(log.obs[:, :-1]).all(axis=2) & np.isfinite(log.obs[:, 1:]).all(axis=2)
    p = log.propensity
    declared = len(log.meta.get("incentives", ())) or 256
    rules = [
        ("obs", finite_obs, "finite numbers"),
        ("action", log.action < declared, f"0 to {declared - 1} (the declared incentives)"),
        ("propensity", (p > 0) & (p <= 1), "(0, 1]"),
        ("reward", np.isfinite(log.reward), "finite numbers"),
        ("cost", np.isfinite(log.cost) & (log.cost >= 0), "finite numbers of at least 0"),
    ]
    for name, holds, allowed in rules:
        bad = there & ~holds
        if bad.any():
            row, day = (int(i) for i in np.argwhere(bad)[0])
            value = getattr(log, name)[row, day]
            raise ValueError(f"{name} of user row {row}, day {day} is {value}: allowed: {allowed}")
    if not ((log.bucket >= 0) & (log.bucket < 1)).all():
        row = int(np.argmin((log.bucket >= 0) & (log.bucket < 1)))
        raise ValueError(f"bucket of user row {row} is {log.bucket[row]}: allowed: [0, 1)")
