"""The promotion on made-up users of the same layout: money is made where it can be, or kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from trial_files import promotions  # noqa: E402

from experiments.real_logs import data_folder  # noqa: E402
from experiments.trials import one_shot_promotion  # noqa: E402
from experiments.trials.one_shot_logs import starbucks  # noqa: E402
from experiments.trials.one_shot_methods import Entry  # noqa: E402
from experiments.trials.one_shot_promotion import net_revenue, run, settings  # noqa: E402

SMALL: Mapping[str, Any] = {"learner": "t", "trees": 20, "leaves": 4, "min_leaf": 50}
ENTRY = Entry("greedy_uplift-t", "greedy_uplift", SMALL)


@dataclass(frozen=True)
class Options:
    file: Path | None
    folds: int = 2


def played(file: Path) -> dict[str, Any]:
    o = Options(file)
    (setting,) = settings(o)
    return run(o, setting, ENTRY, 0)


def row(found: dict[str, Any], policy: str, estimator: str) -> dict[str, Any]:
    rows = found["revenue"]
    (one,) = (r for r in rows if (r["policy"], r["estimator"]) == (policy, estimator))
    return dict(one)


def test_a_loss_becomes_a_gain(tmp_path: Path) -> None:
    """A responder earns 10 x 0.1 - 0.15 = $0.85; all others cost $0.15."""
    found = played(promotions(tmp_path, 0.1))
    everyone, mine = (row(found, name, "task") for name in ("everyone", "allocator"))
    # Half of the users were sent it: 6,000 x (0.1 x 10 x 0.1 - 0.15) = -300, and 600 x 0.85 = 510.
    assert everyone["net"] == pytest.approx(-300, abs=2 * everyone["net_error"])
    assert mine["net"] == pytest.approx(510, abs=2.5 * mine["net_error"])
    assert mine["net"] > 2 * mine["net_error"]
    assert mine["sent"] == pytest.approx(0.1, abs=0.06)
    assert set(found["shares"]) <= set(one_shot_promotion.SHARES)
    for estimator in ("ht", "hajek", "post_stratified", "doubly_robust"):
        e = row(found, "allocator", estimator)
        assert e["net"] == pytest.approx(85, abs=3 * e["net_error"]), estimator
    assert found["metrics"]["mt_aucc"] > 0.6


def test_where_nobody_responds_little_is_spent(tmp_path: Path) -> None:
    found = played(promotions(tmp_path, 0.0))
    mine, everyone = (row(found, name, "task") for name in ("allocator", "everyone"))
    assert mine["sent"] < 0.35
    assert everyone["net"] < mine["net"] + 1e-9


def test_revenue_of_every_user_by_hand(tmp_path: Path) -> None:
    log = starbucks(promotions(tmp_path, 0.1, n=400))
    sent, bought = log.action[:, 0] == 1, log.reward[:, 0] / 10
    everyone = np.tile([0.0, 1.0], (400, 1))
    rows = {r["estimator"]: r for r in net_revenue(log, everyone, np.zeros((400, 2, 2)))}
    by_hand = 10 * bought[sent].sum() - 0.15 * sent.sum() - 10 * bought[~sent].sum()
    assert rows["task"]["net"] == pytest.approx(by_hand)
    # Horvitz-Thompson counts each user twice: 2 x the task's sum, for 400 users.
    assert rows["ht"]["net"] == pytest.approx(1000 * 2 * by_hand / 400)
    rates = [10 * bought[sent].mean() - 0.15, 10 * bought[~sent].mean()]
    assert rows["hajek"]["net"] == pytest.approx(1000 * (rates[0] - rates[1]))
    nobody = {r["estimator"]: r for r in net_revenue(log, 1 - everyone, np.zeros((400, 2, 2)))}
    assert all(r["net"] == 0 == r["sent"] for r in nobody.values())


def test_budget_is_chosen_without_the_held_out_users(tmp_path: Path) -> None:
    """Held-out outcomes change neither the share nor who of them is sent the promotion."""
    file = promotions(tmp_path, 0.1, n=4000)
    before = one_shot_promotion._parts(file, 2, 0)[0]
    table = pd.read_csv(file)
    table.loc[before.test, "purchase"] = 1 - table.loc[before.test, "purchase"]
    other = tmp_path / "other.csv"
    table.to_csv(other, index=False)
    after = one_shot_promotion._parts(other, 2, 0)[0]
    assert np.array_equal(before.test, after.test)
    assert not np.array_equal(before.users.reward, after.users.reward)
    assert np.array_equal(before.train.reward, after.train.reward)
    choose = one_shot_promotion.choose_share
    assert choose(before, ENTRY, 1) == choose(after, ENTRY, 1)


def test_real_promotion_loses_money_if_sent_to_all() -> None:
    if not (data_folder() / "starbucks_promo").exists():
        pytest.skip(f"no promotion in {data_folder()}: set MARKETING_DATA")
    log = starbucks()
    everyone = np.tile([0.0, 1.0], (log.n_users, 1))
    rows = net_revenue(log, everyone, np.zeros((log.n_users, 2, 2)))
    assert next(r for r in rows if r["estimator"] == "task")["net"] < 0
