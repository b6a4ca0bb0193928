"""Randomised one-shot trials as logs: on small made-up files, and on the real ones if present."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from experiments.real_logs import data_folder  # noqa: E402
from experiments.trials import one_shot_logs  # noqa: E402


def mails(n: int = 300) -> Any:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "recency": rng.integers(1, 13, n),
            "history_segment": "1) $0 - $100",
            "history": rng.lognormal(5, 1, n),
            "mens": rng.integers(2, size=n),
            "womens": rng.integers(2, size=n),
            "zip_code": rng.choice(one_shot_logs.ZIP_CODES, n),
            "newbie": rng.integers(2, size=n),
            "channel": rng.choice(one_shot_logs.CHANNELS, n),
            "segment": rng.choice(one_shot_logs.ARMS, n),
            "visit": rng.integers(2, size=n),
            "conversion": rng.integers(2, size=n),
            "spend": rng.exponential(size=n),
        }
    )


@pytest.mark.parametrize("name", ["hillstrom.csv", "hillstrom.csv.gz"])
def test_hillstrom_is_one_randomised_day(tmp_path: Path, name: str) -> None:
    frame = mails()
    frame.to_csv(tmp_path / name, index=False)
    log = one_shot_logs.hillstrom(tmp_path, "spend", unit_cost=(0, 0.5, 3))
    assert (log.n_users, log.horizon, log.n_actions) == (300, 1, 3)
    assert np.array_equal(np.array(one_shot_logs.ARMS)[log.action[:, 0]], frame["segment"])
    assert np.array_equal(log.cost[:, 0], np.array([0, 0.5, 3])[log.action[:, 0]])
    assert log.reward[:, 0] == pytest.approx(frame["spend"])
    assert (log.propensity == 1 / 3).all()
    assert np.array_equal(
        log.obs[:, 0, log.columns.index("zip_code_urban")], frame["zip_code"] == "Urban"
    )
    assert np.array_equal(one_shot_logs.hillstrom(tmp_path / name, "spend").reward, log.reward)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment": "Kids E-Mail"}, "column 'segment', row 0: 'Kids E-Mail'; allowed: No E-Mail"),
        ({"channel": None}, "column 'channel', row 0: "),
        ({"history": np.nan}, "column 'history', row 0: nan"),
    ],
)
def test_hillstrom_faults_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    mails().assign(**change).to_csv(tmp_path / "hillstrom.csv", index=False)
    with pytest.raises(ValueError, match=message):
        one_shot_logs.hillstrom(tmp_path)


def test_hillstrom_columns_files_and_costs_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        one_shot_logs.hillstrom(tmp_path)
    mails().drop(columns="newbie").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="missing columns: newbie"):
        one_shot_logs.hillstrom(tmp_path / "a.csv")
    mails().to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match="unit_cost"):
        one_shot_logs.hillstrom(tmp_path / "b.csv", unit_cost=(0, 1))


def promotions(n: int = 400) -> Any:
    rng = np.random.default_rng(1)
    features = {
        f"V{i}": rng.normal(size=n) if i in (2, 3) else rng.integers(4, size=n) for i in range(1, 8)
    }
    return pd.DataFrame(
        {
            "ID": 3 * rng.permutation(n) + 1,
            "Promotion": rng.choice(one_shot_logs.PROMOTION, n),
            "purchase": rng.integers(2, size=n),
            **features,
        }
    )


@pytest.mark.parametrize("name", ["training.csv", "training.csv.gz"])
def test_starbucks_is_one_randomised_promotion(tmp_path: Path, name: str) -> None:
    frame = promotions()
    frame.to_csv(tmp_path / name, index=False)
    log = one_shot_logs.starbucks(tmp_path, price=8, unit_cost=0.5)
    frame = frame.sort_values("ID")  # the log's order
    sent = frame["Promotion"] == "Yes"
    assert (log.n_users, log.horizon, log.n_actions) == (400, 1, 2)
    assert np.array_equal(log.action[:, 0], sent)
    assert np.array_equal(log.reward[:, 0], 8 * frame["purchase"])
    assert np.array_equal(log.cost[:, 0], 0.5 * sent)
    assert (log.propensity == 1 / 2).all()
    assert log.columns == ("V1", "V2", "V3", "V4", "V5", "V6", "V7")
    assert log.obs[:, 0] == pytest.approx(frame[list(log.columns)].to_numpy(), rel=1e-6)
    assert np.array_equal(one_shot_logs.starbucks(tmp_path / name).cost[:, 0], 0.15 * sent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Promotion": "Maybe"}, "column 'Promotion', row 0: 'Maybe'; allowed: No, Yes"),
        ({"V7": None}, "column 'V7', row 0"),
        ({"purchase": np.nan}, "column 'reward', row 0: nan"),
        ({"ID": 5}, "user_id 5"),
    ],
)
def test_starbucks_faults_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    promotions().assign(**change).to_csv(tmp_path / "training.csv", index=False)
    with pytest.raises(ValueError, match=message):
        one_shot_logs.starbucks(tmp_path)


def test_starbucks_columns_and_files_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        one_shot_logs.starbucks(tmp_path)
    promotions().drop(columns=["V3", "ID"]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="missing columns: ID, V3; the table has Promotion"):
        one_shot_logs.starbucks(tmp_path / "a.csv")


def real(name: str) -> Path:
    folder = data_folder() / name
    if not folder.exists():
        pytest.skip(f"{folder} is absent: set MARKETING_DATA to the folder of the public data")
    return folder


def test_real_hillstrom_has_its_known_rates() -> None:
    log = one_shot_logs.hillstrom(real("hillstrom"))
    # Of the full data: visits .1062, .1514, .1828; the s.e. of an arm of 12,800 is .003.
    for arm, rate in enumerate((0.1062, 0.1514, 0.1828)):
        assert log.reward[log.action == arm].mean() == pytest.approx(rate, abs=0.01)
    assert np.bincount(log.action[:, 0]) / log.n_users == pytest.approx(1 / 3, abs=0.01)


def test_real_starbucks_loses_money_by_sending_to_all() -> None:
    log = one_shot_logs.starbucks(real("starbucks_promo"))
    sent = log.action[:, 0] == 1
    lift = log.reward[sent, 0].sum() - log.reward[~sent, 0].sum()
    rate = (log.reward[sent] / 10).mean() - (log.reward[~sent] / 10).mean()
    assert sent.mean() == pytest.approx(1 / 2, abs=4 * 0.5 / np.sqrt(log.n_users))
    # Known of the public rows: an incremental response rate of .0095, a net loss of $2,335.
    assert rate == pytest.approx(0.009455, abs=0.002)
    assert -4000 < (lift - log.cost.sum()) * 84_534 / log.n_users < -700
