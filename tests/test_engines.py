"""Dask and Spark do what one machine does, bit for bit, and lose nothing with a worker."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import allocate, log_data, sweep
from experiments.allocate import Options
from experiments.engines.on_dask import OnCluster, pool_on
from experiments.methods import method
from experiments.settings import SUITES
from marketing_env import LoggedDataset, RandomPolicy, preset, rollout

ROOT = Path(allocate.__file__).parents[1]
CONFIG = preset("toy", horizon=3)
SMALL: dict[str, dict[str, Any]] = {
    "mixed_policy": {"steps": 10, "prices": 5, "outcome_epochs": 0.1, "width": 16, "folds": 2},
    "greedy_uplift": {"epochs": 1, "width": 16},
}
BUDGET = 60.0
every_kind = pytest.mark.parametrize("name", SMALL)


@pytest.fixture(scope="module")
def log() -> LoggedDataset:
    return rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 900, seed=1)


@pytest.fixture(scope="module")
def folder(log: LoggedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, users, and what one machine allocates."""
    folder = tmp_path_factory.mktemp("engines")
    obs = dict(zip(log.columns, log.obs[:, 0].T, strict=True))
    users = pa.table({"user_id": [f"u{i}" for i in range(log.n_users)], **obs})
    pq.write_table(users, folder / "users.parquet", row_group_size=100)
    for name, settings in SMALL.items():
        module = method(name)
        module.fit(log, module.Config(progress=False, **settings)).save(folder / name)
        allocate.allocate(options(folder, name, f"{name}.parquet"))
    return folder


def options(folder: Path, name: str, out: str) -> Options:
    return Options(folder / name, folder / "users.parquet", BUDGET, folder / out, progress=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as found:
            yield found


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    from distributed import Client

    with Client(cluster) as found:
        yield found


@every_kind
def test_dask_allocates_what_one_machine_does(name: str, folder: Path, client: Any) -> None:
    seen = set()

    def each(work: Any, numbers: Any) -> Iterator[Any]:
        yield from OnCluster(client)(work, numbers)
        seen.update(client.scheduler_info()["workers"])

    allocate.allocate(options(folder, name, "dask.parquet"), each)
    assert len(seen) == 2
    assert (folder / "dask.parquet").read_bytes() == (folder / f"{name}.parquet").read_bytes()


def test_a_killed_worker_changes_nothing(folder: Path, cluster: Any, client: Any) -> None:
    name, killed = "mixed_policy", threading.Event()

    def each(work: Any, numbers: Any) -> Iterator[Any]:
        def slowly(number: int) -> Any:
            time.sleep(0.2)
            return work(number)

        for k, answer in enumerate(OnCluster(client)(slowly, numbers)):
            if k == 2 and not killed.is_set():
                pids = client.run(os.getpid)
                os.kill(next(iter(pids.values())), 9)
                killed.set()
            yield answer

    allocate.allocate(options(folder, name, "killed.parquet"), each)
    assert killed.is_set()
    assert (folder / "killed.parquet").read_bytes() == (folder / f"{name}.parquet").read_bytes()


def test_errors_of_workers_are_raised_here(folder: Path, client: Any) -> None:
    bad = pq.read_table(folder / "users.parquet")
    bad = bad.set_column(1, bad.column_names[1], pa.array([np.nan] * len(bad)))
    pq.write_table(bad, folder / "bad.parquet", row_group_size=100)
    o = Options(folder / "mixed_policy", folder / "bad.parquet", 1.0, folder / "b", progress=False)
    with pytest.raises(ValueError, match="is nan: allowed: finite numbers"):
        allocate.allocate(o, OnCluster(client))


def test_dask_makes_the_log_that_one_machine_makes(
    cluster: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(log_data, "PART", 40)
    args = ["--preset", "toy", "--users", "100", "--seed", "3", "--behaviour", "mixture"]
    files, said = [], []
    for name, more in (("here", []), ("there", ["--cluster", cluster.scheduler_address])):
        out = tmp_path / name
        log_data.main([*args, "--out", str(out), *more])
        files.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*.*")})
        said.append(capsys.readouterr().out.partition(":")[2])
    assert len([path for path in files[0] if path.parent.name == "final"]) == 3
    assert files[0] == files[1]
    assert said[0] == said[1]


def test_dask_runs_the_sweep_that_one_process_runs(cluster: Any, tmp_path: Path) -> None:
    setting = replace(SUITES["toy"].settings[0], log_users=60, test_users=40)
    suite = replace(
        SUITES["toy"], settings=(setting,), methods=("greedy_uplift",), seeds=(3, 4),
        references=False, configs={"greedy_uplift": SMALL["greedy_uplift"]},
    )  # fmt: skip
    for job in sweep.jobs(suite, tmp_path / "here"):
        sweep.work(job)
    sweep.sweep(suite, tmp_path / "there", workers=1, cluster=cluster.scheduler_address)
    here, there = (
        {p.name: json.loads(p.read_text())["rows"] for p in (tmp_path / name).glob("toy/*-*.json")}
        for name in ("here", "there")
    )
    assert set(here) == {"greedy_uplift-3.json", "greedy_uplift-4.json"}
    assert here == there
    assert not sweep.jobs(suite, tmp_path / "there")


def test_workers_of_a_sweep_do_one_thing_at_a_time() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    local = {"processes": False, "dashboard_address": None, "threads_per_worker": 2}
    with (
        distributed.LocalCluster(n_workers=1, **local) as cluster,
        pytest.raises(ValueError, match=r"threads: allowed is at least one, with one thread each"),
        pool_on(cluster.scheduler_address),
    ):
        pass


@pytest.mark.parametrize("script", [sweep, log_data])
def test_missing_dask_names_the_extra(
    script: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setattr(log_data, "PART", 10)
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path / "out"), "--cluster", "tcp://nowhere:1"])
    assert "pip install 'marketing-env[dask]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, which is not here")
    sql = pytest.importorskip("pyspark.sql", reason="Spark is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        session = (
            sql.SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.shuffle.partitions", "2")
            .config("spark.driver.host", "127.0.0.1")
            .getOrCreate()
        )
        yield session
        session.stop()


@every_kind
@pytest.mark.parametrize("partitions", [1, 3])
def test_spark_allocates_what_one_machine_does(
    name: str, partitions: int, folder: Path, spark: Any
) -> None:
    from experiments.engines import on_spark

    users = spark.read.parquet(str(folder / "users.parquet")).repartition(partitions)
    found, summary = on_spark.allocate(users, folder / name, BUDGET)
    here = pq.read_table(folder / f"{name}.parquet").sort_by("user_id")
    there = found.toArrow().select(here.column_names).cast(here.schema).sort_by("user_id")
    assert there.equals(here)
    assert summary["expected_cost"] <= summary["money"]


def test_spark_names_a_missing_column(folder: Path, spark: Any) -> None:
    from experiments.engines import on_spark

    users = spark.read.parquet(str(folder / "users.parquet")).drop("user_id")
    with pytest.raises(ValueError, match="no column 'user_id'"):
        on_spark.allocate(users, folder / "mixed_policy", BUDGET)
