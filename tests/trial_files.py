"""Made-up files in the layouts of the public one-shot trials, whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.trials.criteo import FEATURES
from experiments.trials.one_shot_logs import ARMS


def e_mail_file(folder: Path, n: int = 6000, effect: float = 0.5) -> Path:
    """Women's e-mail works for buyers of women's goods, men's a little for everyone."""
    rng = np.random.default_rng(0)
    womens, arm = rng.integers(0, 2, n), rng.integers(0, 3, n)
    chance = 0.1 + effect * (arm == 1) * womens + 0.1 * (arm == 2)
    table = pd.DataFrame(
        {
            "recency": rng.integers(1, 13, n), "history_segment": "1) $0 - $100",
            "history": rng.lognormal(5, 1, n), "mens": 1 - womens, "womens": womens,
            "zip_code": rng.choice(["Rural", "Surburban", "Urban"], n),
            "newbie": rng.integers(0, 2, n), "channel": rng.choice(["Phone", "Web"], n),
            "segment": np.array(ARMS)[arm], "visit": (rng.random(n) < chance).astype(int),
        }
    )  # fmt: skip
    file = folder / "hillstrom.csv.gz"
    table.to_csv(file, index=False)
    return file


def promotions(folder: Path, effect: float, n: int = 12_000) -> Path:
    """A tenth of the users, with V4 = 1, buys more if sent the promotion; V1 says nothing."""
    rng = np.random.default_rng(0)
    features = {f"V{i}": rng.integers(4, size=n) for i in range(1, 8)}
    features["V4"] = (rng.random(n) < 0.1).astype(int)
    sent = rng.integers(2, size=n)
    bought = rng.random(n) < 0.01 + effect * sent * features["V4"]
    table = {
        "ID": np.arange(n), "Promotion": np.where(sent, "Yes", "No"),
        "purchase": bought.astype(int), **features,
    }  # fmt: skip
    file = folder / f"training-{effect}.csv"
    pd.DataFrame(table).to_csv(file, index=False)
    return file


def criteo_file(folder: Path, n: int) -> Path:
    """A treatment brings visits to everyone, and conversions where f0 is high."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(0, 1, (n, 12)).astype(np.float32), columns=list(FEATURES))
    treated = rng.random(n) < 0.85
    good = table["f0"] > 0.5
    visit = rng.random(n) < 0.2 + 0.2 * treated
    extra = rng.random(n) < np.where(treated & good, 0.3, 0.02)
    table["treatment"], table["conversion"] = treated.astype(int), extra.astype(int)
    table["visit"], table["exposure"] = visit.astype(int), 0
    file = folder / f"criteo-{n}.parquet"
    table.to_parquet(file, row_group_size=1000)
    return file
