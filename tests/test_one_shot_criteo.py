"""The published protocol on a generated file of CRITEO's layout: ranked in a stream."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
pytest.importorskip("torch")
pytest.importorskip("lightgbm")

from trial_files import criteo_file  # noqa: E402

from agents.common.one_day.uplift_metrics import aucc, qini  # noqa: E402
from experiments.trials.criteo import Criteo  # noqa: E402
from experiments.trials.one_shot_criteo import ranked, run, settings  # noqa: E402
from experiments.trials.one_shot_methods import Entry, step_scores  # noqa: E402

SMALL = {"learner": "t", "trees": 20, "leaves": 4, "min_leaf": 50}
ENTRY = Entry("greedy_uplift-t", "greedy_uplift", SMALL)


@dataclass(frozen=True)
class Options:
    file: Path | None
    split: str = "60/10/30"
    sample: int = 9_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return criteo_file(tmp_path_factory.mktemp("criteo"), 20_000)


def test_protocol_ranks_the_whole_test_part(file: Path) -> None:
    o = Options(file)
    (setting,) = settings(o)
    assert (setting["name"], setting["users"]) == ("60-10-30-users-9000", 9000)
    found = run(o, setting, ENTRY, 0)
    assert found["test_users"] == 6000
    # A third of the users brings nearly all that a third of the money can buy.
    assert found["metrics"]["aucc"] == pytest.approx(0.8, abs=0.06)
    assert 0 < found["metrics"]["qini"] <= 1


def test_stream_gives_what_the_part_gives_at_once(file: Path) -> None:
    data = Criteo.open(file)
    model = ENTRY.fit(data.sample("train", 3000), "criteo", 0)
    score, treated, reward, cost = ranked(model, data, rows=700)
    log = data.sample("test")
    whole = step_scores(model, log)[:, 0].astype(np.float32)
    place = data.place[data.place >= 14_000] - 14_000
    assert np.array_equal(score, whole[place])
    y, c, t = log.reward[:, 0], log.cost[:, 0], log.action[:, 0] == 1
    for metric, streamed, at_once in (
        (aucc, (score, treated, reward, cost), (whole[place], t[place], y[place], c[place])),
        (qini, (score, treated, reward), (whole[place], t[place], y[place])),
    ):
        assert metric(*streamed) == pytest.approx(metric(*at_once))


def test_a_larger_sample_than_the_part_is_the_part(file: Path) -> None:
    (setting,) = settings(Options(file, "70/30", sample=10**9))
    assert setting["users"] == 14_000
    assert setting["name"] == "70-30-users-14000"


class First:
    """Ranks by the first feature; predicts nothing."""

    def policy(self, budget: float) -> First:
        return self

    def probs(self, view: Any) -> Any:
        return np.eye(2)[(view.obs[:, 0] > 0).astype(int)]


def test_memory_is_that_of_a_batch_and_of_the_scores(tmp_path: Path) -> None:
    n = 60_000
    data = Criteo.open(criteo_file(tmp_path, n))
    tracemalloc.start()
    try:
        score, *_ = ranked(First(), data, rows=1000)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(score) == 0.3 * n
    # 13 bytes a user, twice while parts are joined; the rows themselves are 60 bytes and more.
    assert peak < 2 * 13 * len(score) + 600_000
