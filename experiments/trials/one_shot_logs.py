"""Randomised trials with one decision per user as logs: an e-mail test and a promotion.

The files lie below `real_logs.data_folder()`. `trials/criteo.py` reads the trial that is too
large to be held at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from experiments.real_logs import check_columns, find_file
from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset

ARMS = ("No E-Mail", "Womens E-Mail", "Mens E-Mail")
ZIP_CODES = ("Rural", "Surburban", "Urban")  # spelt as in the file
CHANNELS = ("Phone", "Web", "Multichannel")
PROMOTION = ("No", "Yes")
STARBUCKS_FEATURES = tuple(f"V{i}" for i in range(1, 8))


def hillstrom(
    path: str | Path | None = None,
    reward: Literal["visit", "conversion", "spend"] = "visit",
    unit_cost: Sequence[float] = (0.0, 1.0, 2.0),
) -> LoggedDataset:
    """The MineThatData e-mail challenge (Hillstrom, 2008): one day, three arms, randomised.

    Actions are no e-mail, women's and men's (`ARMS`), each with propensity 1/3. The file has no
    cost: each sent e-mail is charged `unit_cost` of its arm (assumed, so that the arms compete).
    `history_segment` is a coarsening of `history` and is left out.

    Raises:
        FileNotFoundError: if neither the file nor the folder's hillstrom.csv(.gz) is there.
        ValueError: for missing columns and unknown categories.
    """
    table = pd.read_csv(find_file(path, "hillstrom", ("hillstrom.csv.gz", "hillstrom.csv")))
    check_columns(table.columns, ("recency", "history", "mens", "womens", "newbie"))
    check_columns(table.columns, ("zip_code", "channel", "segment", reward))
    if len(unit_cost) != len(ARMS) or unit_cost[0] != 0:
        raise ValueError(f"unit_cost = {unit_cost}: allowed are 3 numbers, 0 for no e-mail")
    action = _codes(table, "segment", ARMS)
    return LoggedDataset.from_table(
        {
            "user_id": np.arange(len(table)),  # no id in the file; equal rows are real customers
            "day": np.zeros(len(table), dtype=int),
            **{name: table[name] for name in ("recency", "history", "mens", "womens", "newbie")},
            **_one_hot(table, "zip_code", ZIP_CODES),
            **_one_hot(table, "channel", CHANNELS),
            "action": action,
            "propensity": np.full(len(table), 1 / len(ARMS)),
            "reward": table[reward],
            "cost": np.asarray(unit_cost, dtype=float)[action],
        },
        incentives=unit_cost,
        meta={"source": "hillstrom", "reward_unit": reward, "actions": list(ARMS)},
    )


def starbucks(
    path: str | Path | None = None, price: float = 10.0, unit_cost: float = 0.15
) -> LoggedDataset:
    """The Starbucks promotion: send it or not, once, randomised half and half.

    The reward is `price` for a purchase, the cost `unit_cost` for a promotion sent (both $): mean
    differences of the two are the task's net incremental revenue per user. Whether these users
    ever lived is not known: the task itself calls its data simulated.

    Raises:
        FileNotFoundError: if neither the file nor the folder's training.csv(.gz) is there.
        ValueError: for missing columns, and for a promotion other than Yes and No.
    """
    table = pd.read_csv(find_file(path, "starbucks_promo", ("training.csv.gz", "training.csv")))
    check_columns(table.columns, ("ID", "Promotion", "purchase", *STARBUCKS_FEATURES))
    action = _codes(table, "Promotion", PROMOTION)
    return LoggedDataset.from_table(
        {
            "user_id": table["ID"],
            "day": np.zeros(len(table), dtype=int),
            **{name: table[name] for name in STARBUCKS_FEATURES},
            "action": action,
            "propensity": np.full(len(table), 1 / 2),
            "reward": price * table["purchase"],
            "cost": unit_cost * action,
        },
        incentives=(0.0, unit_cost),
        meta={"source": "starbucks", "reward_unit": "$", "actions": ["none", "promotion"]},
    )


def _one_hot(table: Any, name: str, known: Sequence[str]) -> dict[str, Array]:
    code = _codes(table, name, known)
    return {f"{name}_{value.lower()}": code == i for i, value in enumerate(known)}


def _codes(table: Any, name: str, known: Sequence[str]) -> Array:
    code = pd.Index(known).get_indexer(table[name])
    if (code < 0).any():
        row = int(np.argmax(code < 0))
        raise ValueError(
            f"column {name!r}, row {row}: {table[name].iloc[row]!r}; allowed: {', '.join(known)}"
        )
    return np.asarray(code, dtype=int)
