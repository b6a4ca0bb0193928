"""The production step: budgets are kept, runs resume, and the same inputs give the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import agents
from agents.common.files import describe
from experiments import allocate
from experiments.allocate import Options, job_of
from experiments.engines.scoring import score
from experiments.methods import method
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout

CONFIG = preset("toy", horizon=6)
SMALL: dict[str, dict[str, Any]] = {
    "mixed_policy": {"steps": 60, "prices": 6, "outcome_epochs": 0.5, "width": 16},
    "greedy_uplift": {"epochs": 2, "width": 16},
    "cluster": {"epochs": 2, "width": 16, "clusters": 5},
}
every_kind = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 1_000, seed=1)


@pytest.fixture(scope="module")
def models(log: LoggedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, settings in SMALL.items():
        module = method(name)
        module.fit(log, module.Config(progress=False, **settings)).save(folder / name)
    return folder


def table_of(log: LoggedDataset, day: int = 0) -> pa.Table:
    obs = dict(zip(log.columns, log.obs[:, day].T, strict=True))
    ids = [f"u{i:05d}" for i in range(log.n_users)]
    return pa.table({"user_id": ids, **obs, "bucket": log.bucket})


@pytest.fixture
def users(log: LoggedDataset, tmp_path: Path) -> Path:
    path = tmp_path / "users.parquet"
    pq.write_table(table_of(log), path, row_group_size=300)
    return path


def run(models: Path, name: str, users: Path, out: Path, budget: float, day: int = 0) -> Any:
    return allocate.allocate(Options(models / name, users, budget, out, day, progress=False))


@every_kind
@pytest.mark.parametrize(("share", "day"), [(0.0, 0), (0.1, 0), (0.5, 3), (20.0, 5)])
def test_budget_is_kept(
    name: str, share: float, day: int, models: Path, users: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    budget = share * log.cost.sum()
    found = run(models, name, users, tmp_path / "out.parquet", budget, day)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column("user_id").to_pylist() == table_of(log).column("user_id").to_pylist()
    cost, reward = (out.column(f"expected_{x}").to_numpy() for x in ("cost", "reward"))
    assert found["money"] == budget / (1 if name == "mixed_policy" else 6 - day)
    assert cost.sum() <= found["money"]
    assert_allclose([cost.sum(), reward.sum()], [found["expected_cost"], found["expected_reward"]])
    assert found["bound"] >= reward.sum() - 1e-6
    if 0 < share < 1:
        assert cost.sum() >= 0.98 * found["money"]
    given = out.column("incentive").to_numpy()
    assert (given > 0).any() == (share > 0)
    assert found["incentive"] == {str(k): int(n) for k, n in enumerate(np.bincount(given)) if n}
    assert json.loads((tmp_path / "out.parquet.json").read_text()) == found


def test_mixture_is_what_the_server_serves(
    models: Path, users: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    budget = 0.4 * float(log.cost.sum())
    run(models, "mixed_policy", users, tmp_path / "out.parquet", budget)
    out = pq.read_table(tmp_path / "out.parquet")
    server = agents.serve(models / "mixed_policy", budget / log.n_users)
    served = server.decide(log.obs[:, 0], 0, bucket=log.bucket)
    # The server's shares are those of the log's users, with a margin for estimation errors.
    same = out.column("component").to_numpy() == served.component
    assert same.mean() > 0.7
    for field in ("incentive", "expected_reward", "expected_cost"):
        told = getattr(served, field.removeprefix("expected_"))[same]
        assert_allclose(out.column(field).to_numpy()[same], told, rtol=1e-5, atol=1e-6)


def test_knapsack_is_the_exact_one(
    models: Path, users: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    budget = 0.3 * float(log.cost.sum())
    found = run(models, "greedy_uplift", users, tmp_path / "out.parquet", budget, day=2)
    server = agents.serve(models / "greedy_uplift", 0.0)
    offers = server.offers(log.obs[:, 0], 2, bucket=log.bucket)
    ids = table_of(log).column("user_id").to_numpy()
    best = agents.solve_mckp(offers.reward, offers.cost, budget / 4, user_id=ids, repair=False)
    out = pq.read_table(tmp_path / "out.parquet")
    assert_array_equal(out.column("incentive").to_numpy(), best.choice)
    assert found["bound"] == pytest.approx(best.bound)
    assert found["gap"] < 0.01


@every_kind
def test_same_users_get_the_same_in_other_files_and_orders(
    name: str, models: Path, users: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    budget = 0.3 * float(log.cost.sum())
    run(models, name, users, tmp_path / "one.parquet", budget)
    table, folder = table_of(log), tmp_path / "many"
    folder.mkdir()
    order = np.random.default_rng(0).permutation(len(table))
    for part, rows in enumerate(np.array_split(order, 7)):
        pq.write_table(table.take(rows), folder / f"{part}.parquet", row_group_size=40)
    run(models, name, folder, tmp_path / "other.parquet", budget)
    one, other = (pq.read_table(tmp_path / f"{x}.parquet") for x in ("one", "other"))
    assert other.sort_by("user_id").equals(one.sort_by("user_id"))


@every_kind
def test_killed_runs_go_on_and_end_in_the_same_bytes(
    name: str, models: Path, users: Path, log: LoggedDataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    budget, out = 0.3 * float(log.cost.sum()), tmp_path / "out.parquet"
    run(models, name, users, out, budget)
    whole, summary = out.read_bytes(), (tmp_path / "out.parquet.json").read_bytes()
    out.unlink()
    scored: list[int] = []

    def counted(*arguments: Any) -> Any:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(1)
        return score(*arguments)

    monkeypatch.setattr(allocate, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        run(models, name, users, out, budget)
    assert not out.exists()
    job = job_of(Options(models / name, users, budget, out))
    assert [job.scored(n).exists() for n in range(4)] == [True, True, False, False]
    scored.pop()
    with pytest.raises(KeyboardInterrupt):
        run(models, name, users, out, budget)
    assert [job.scored(n).exists() for n in range(4)] == [True, True, True, False]
    scored[:] = [0]
    run(models, name, users, out, budget)
    assert scored == [0, 1]
    assert out.read_bytes() == whole
    assert (tmp_path / "out.parquet.json").read_bytes() == summary
    assert {p.name for p in tmp_path.iterdir()} == {
        "out.parquet", "out.parquet.json", "users.parquet"
    }  # fmt: skip


def test_days_of_a_log_are_tables_of_users(
    models: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    log.save(tmp_path / "log")
    day = tmp_path / "log" / "days" / "day=002"
    found = run(models, "greedy_uplift", day, tmp_path / "out.parquet", 50.0, day=2)
    assert found["users"] == log.n_users
    server = agents.serve(models / "greedy_uplift", 0.0)
    assert found["expected_cost"] <= 50.0 / 4
    assert server.n_obs == log.obs.shape[2]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop_columns("user_id"), {}, "no column 'user_id'"),
        (lambda t: t.drop_columns(t.column_names[1]), {}, "obs has shape"),
        (lambda t: t.slice(0, 0), {}, "has no users"),
        (
            lambda t: t.set_column(1, t.column_names[1], pa.array([np.nan] * len(t))),
            {},
            "of user 'u00000' is nan",
        ),
        (lambda t: t, {"day": 6}, "day = 6: allowed is 0 to 5"),
        (lambda t: t, {"budget": -1.0}, "budget = -1.0"),
    ],
)
def test_bad_inputs_are_named(
    change: Any, options: Any, message: str, models: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    path = tmp_path / "users.parquet"
    pq.write_table(change(table_of(log)), path)
    given = {"budget": 10.0, "day": 0, **options}
    with pytest.raises(ValueError, match=message):
        run(models, "mixed_policy", path, tmp_path / "out.parquet", **given)
    assert not (tmp_path / "out.parquet").exists()


def test_features_go_by_name_where_the_model_knows_them(
    models: Path, users: Path, log: LoggedDataset, tmp_path: Path
) -> None:
    known, out = tmp_path / "models", tmp_path / "out.parquet"
    shutil.copytree(models / "mixed_policy", known / "mixed_policy")
    describe(known / "mixed_policy", columns=log.columns)
    run(known, "mixed_policy", users, out, 100.0)
    table = table_of(log)
    table = table.select(table.column_names[::-1]).append_column("shoe_size", [table["bucket"]])
    pq.write_table(table, tmp_path / "shuffled.parquet")
    run(known, "mixed_policy", tmp_path / "shuffled.parquet", tmp_path / "again.parquet", 100.0)
    assert pq.read_table(tmp_path / "again.parquet").equals(pq.read_table(out))
    pq.write_table(table.drop_columns([log.columns[1]]), tmp_path / "short.parquet")
    with pytest.raises(ValueError, match=f"no column '{log.columns[1]}'"):
        run(known, "mixed_policy", tmp_path / "short.parquet", tmp_path / "none.parquet", 100.0)


def test_command_line(
    models: Path, users: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.parquet"
    arguments = ["--model", str(models / "mixed_policy"), "--users", str(users), "--no-progress"]
    allocate.main([*arguments, "--budget", "100", "--out", str(out)])
    assert "1000 users, expected cost" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        allocate.main([*arguments, "--budget", "-1", "--out", str(out)])
    assert "budget = -1.0" in capsys.readouterr().err
