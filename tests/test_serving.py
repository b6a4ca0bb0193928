"""Served decisions are those of the trained model, for everyone alike, and need no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import agents
from agents import mixed_policy
from agents.common.games.game import solve_master
from agents.common.nets import mlp, no_track
from agents.common.one_day.daily import DailyModel
from agents.common.served.inference import LANES, Mlp, rows_of, tiled
from agents.common.served.served_policies import (
    Clusters,
    PricedDay,
    Responses,
    Trained,
    left_out,
    upper_hull,
)
from agents.common.values.acting import BestResponse
from experiments.methods import method, method_names
from experiments.sharing import Oracles
from marketing_env import (
    DayView,
    LoggedDataset,
    MixedPolicy,
    RandomPolicy,
    preset,
    rollout,
    sample_users,
)
from marketing_env.config import Array
from marketing_env.panel import bucket_of
from marketing_env.rollout import days

torch.set_num_threads(1)
ROOT = Path(agents.__file__).parents[1]
CONFIG = preset("toy")
MONEY = preset("grocery", horizon=4)  # rewards of many sizes
LEARNERS = method_names()
# Settings that make training short, for whatever method has them.
SMALL = {
    "batch": 256, "epochs": 1, "folds": 3, "members": 2, "outcome_epochs": 0.25, "prices": 6,
    "progress": False, "rounds": 3, "steps": 8, "trees": 8, "updates": 20, "warm_epochs": 1,
    "width": 16,
}  # fmt: skip
FAST = (
    "mixed_policy",
    "greedy_uplift",
    "cluster",
    "dfcl",
    "bi_dfcl",
    "end_to_end",
)  # without torch
every_fast = pytest.mark.parametrize("name", FAST)


@cache
def toy_log() -> LoggedDataset:
    return rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 400, seed=1)


@cache
def money_log() -> LoggedDataset:
    """Propensities differ, so that not every incentive has support everywhere."""

    class Lopsided:
        def probs(self, view: DayView) -> Array:
            p = np.tile([0.4, 0.3, 0.3, 0.0, 0.0], (len(view.obs), 1))
            p[view.obs[:, 0] > np.median(view.obs[:, 0])] = [0.2, 0.2, 0.2, 0.2, 0.2]
            return p

    return rollout(Lopsided(), MONEY, 500, seed=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def saved(name: str, log: str = "toy", **settings: Any) -> Path:
        return fitted(name, log, tuple(settings.items()))

    oracles = {"toy": Oracles(), "money": Oracles()}  # players of the game share best responses

    @cache
    def fitted(name: str, log: str, settings: tuple[tuple[str, Any], ...]) -> Path:
        folder, module = tmp_path_factory.mktemp(name) / "model", method(name)
        known = {f.name for f in dataclasses.fields(module.Config)}
        chosen = {k: v for k, v in {**SMALL, **dict(settings)}.items() if k in known}
        data = toy_log() if log == "toy" else money_log()
        oracles[log].fit(name, data, chosen, 0, no_track)[0].save(folder)
        return folder

    return saved


def users(log: LoggedDataset, n: int = 700, seed: int = 5) -> tuple[Array, Array]:
    """Random observations around those of a log, and buckets."""
    rng = np.random.default_rng(seed)
    rows = log.obs[rng.integers(log.n_users, size=n), rng.integers(log.horizon, size=n)]
    noise = rng.normal(size=rows.shape) * log.obs.std(axis=(0, 1))
    return (rows + noise).astype(np.float32), rng.random(n)


VARIANTS: list[tuple[str, str, dict[str, Any]]] = [
    *((name, "toy", {}) for name in LEARNERS),
    ("mixed_policy", "money", {}),
    ("mixed_policy", "money", {"contacts": True, "pessimism": 1.0}),
    ("mixed_policy", "toy", {"folds": 1}),
    ("mixed_policy", "toy", {"oracle": "plain", "steps": 40}),
    ("greedy_uplift", "money", {}),
    *(("greedy_uplift", "toy", {"learner": x}) for x in ("s", "t", "x", "dr", "drm", "drp", "dpm")),
    ("cluster", "money", {"decision_aware": False}),
]


@pytest.mark.parametrize(("name", "log", "settings"), VARIANTS)
def test_choices_are_those_of_the_trained_model(
    name: str, log: str, settings: dict[str, Any], folders: Any
) -> None:
    data = toy_log() if log == "toy" else money_log()
    folder, budget = folders(name, log, **settings), data.spend / 3
    model, server = agents.load(folder), agents.serve(folder, budget)
    obs, bucket = users(data)
    for day in range(data.horizon):
        got = server.decide(obs, day, bucket=bucket)
        assert_array_equal(got.incentive, expected(model, server, obs, bucket, day))


def expected(model: Any, server: agents.Server, obs: Array, bucket: Array, day: int) -> Array:
    """(n,) choices in torch."""
    rule = server.rule
    view = DayView(obs, bucket, day, math.inf)
    if isinstance(rule, PricedDay):
        assert isinstance(model, DailyModel)
        predicted = np.mean([m.predict(obs, day) for m in model.members], axis=0)
        price = rule.price(day, server.budget / model.horizon)
        merit = predicted[..., 0] - price * np.maximum(predicted[..., 1], 0)
        if model.support is not None:
            allowed = model.support.allowed(torch.as_tensor(obs), day).numpy()
            assert not allowed.all()
            merit = np.where(allowed, merit, -np.inf)
        return np.asarray(merit.argmax(axis=1))
    if isinstance(rule, Clusters):
        from agents.common.buckets import redrawn
        from agents.common.one_day.clusters import assign

        days = torch.full((len(obs),), day)
        cluster = assign(model.classifier, torch.as_tensor(obs), days)
        split = model.tables.split(day, model.judged.plan_for(server.budget))
        return np.asarray(split.serve(cluster, redrawn(bucket, day)))
    if isinstance(rule, Responses):
        return np.asarray(model.policy(server.budget).probs(view).argmax(axis=1))
    assert isinstance(rule, Trained)
    probs = model.policy(server.budget).probs(view)
    served = server.decide(obs, day, bucket=bucket).incentive
    assert (probs[np.arange(len(obs)), served] > 0).all()
    return np.asarray(np.where(probs.max(axis=1) == 1, probs.argmax(axis=1), served))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0, 1.5), st.integers(0, 10**6))
def test_mixtures_are_those_of_the_linear_program(n: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = np.append(np.sort(rng.gamma(1.0, size=n)), 0.0)
    reward = np.append(rng.normal(size=n), 0.0)
    edge = upper_hull(reward, cost)
    found = solve_master(np.column_stack([reward, cost]), [share * cost.max()])
    told = np.interp(share * cost.max(), cost[edge], reward[edge])
    assert told == pytest.approx(found.z[0], abs=1e-9)
    assert set(np.flatnonzero(found.weight)) <= set(edge)


@every_fast
def test_nobody_depends_on_who_else_is_asked_about(name: str, folders: Any) -> None:
    server = agents.serve(folders(name), toy_log().spend / 3)
    obs, bucket = users(toy_log(), 60)
    together = server.decide(obs, 1, bucket=bucket)
    order = np.random.default_rng(0).permutation(60)
    shuffled = server.decide(obs[order], 1, bucket=bucket[order])
    alone = [server.decide(obs[i], 1, bucket=bucket[i]) for i in range(60)]
    for field, found, singly in zip(together, shuffled, zip(*alone, strict=True), strict=True):
        assert_array_equal(found, field[order])
        assert_array_equal(singly, field)
    assert [part.shape for part in server.decide(obs[:0], 1, bucket=[])] == [(0,)] * 4


@every_fast
def test_money_left_moves_the_decisions(name: str, folders: Any) -> None:
    log = toy_log()
    server = agents.serve(folders(name), log.spend / 3)
    obs, bucket = users(log)

    def given(**money: float) -> float:
        return float((server.decide(obs, 1, bucket=bucket, **money).incentive > 0).mean())

    left = log.spend / 3 * (log.horizon - 1) / log.horizon
    assert given(remaining_budget=0.0) <= 0.02
    assert given(remaining_budget=left) == pytest.approx(given(), abs=0.01)
    assert given(remaining_budget=0.0) < given() < given(remaining_budget=3 * log.spend)


@every_fast
def test_money_fed_back_is_what_is_spent(name: str, folders: Any) -> None:
    budget = 0.3 * toy_log().spend
    longer = {"steps": 60, "outcome_epochs": 4, "warm_epochs": 3, "epochs": 3}
    server = agents.serve(folders(name, **longer), budget)
    planned, fed = (spent(server, feedback) / budget for feedback in (False, True))
    assert abs(fed - 1) <= 0.15
    assert abs(fed - 1) <= abs(planned - 1) + 0.04


def spent(server: agents.Server, feedback: bool) -> float:
    """Currency per user of a campaign in the simulator."""
    left = server.budget

    class Served:
        def probs(self, view: DayView) -> Array:
            money = max(left, 0.0) if feedback else math.inf
            found = server.decide(view.obs, view.day, bucket=view.bucket, remaining_budget=money)
            return np.asarray(np.eye(CONFIG.n_actions)[found.incentive])

    for day in days(Served(), CONFIG, sample_users(CONFIG, 4_000, 5), 5):
        left -= float(day.cost.mean())
    return server.budget - left


def test_expected_values_are_those_of_the_members_that_serve(folders: Any) -> None:
    log = toy_log()
    folder = folders("mixed_policy")
    model: Any = agents.load(folder)
    server = agents.serve(folder, log.spend / 3)
    obs, bucket = users(log, 200)
    policy = model.policy(log.spend / 3)
    assert isinstance(policy, MixedPolicy)
    for day in range(log.horizon):
        got = server.decide(obs, day, bucket=bucket)
        used = [part.head for part in policy.policies if isinstance(part, BestResponse)]
        assert_array_equal(got.component, np.array(used)[policy.component(bucket)])
        served = left_out(bucket, len(model.responses.members))
        for i in range(0, 200, 20):
            others = model.responses.responder.values.without(served[i])
            q = others.mean(torch.as_tensor(obs[[i]]), day)[0, got.incentive[i]]
            reward, cost = q[:2, got.component[i]].tolist()
            idle = math.isinf(model.frontier.price[got.component[i], 0])
            assert_allclose([got.reward[i], got.cost[i]], [reward, 0 if idle else cost], rtol=2e-4)


def test_giving_nothing_costs_what_the_log_says(folders: Any, tmp_path: Path) -> None:
    log, fee = toy_log(), 0.5
    dear = dataclasses.replace(log, cost=log.cost + fee * log.valid)
    config = mixed_policy.Config(
        folds=2, prices=5, width=16, steps=60, outcome_epochs=2, progress=False
    )
    mixed_policy.fit(dear, config).save(tmp_path)
    for folder, cost in ((tmp_path, (CONFIG.horizon - 1) * fee), (folders("mixed_policy"), 0.0)):
        server = agents.serve(folder, budget=3.0)
        found = server.decide(log.obs[:, 1], 1, bucket=log.bucket, remaining_budget=0.0)
        assert (found.incentive == 0).all()
        assert found.cost.mean() == pytest.approx(cost, rel=0.1)


def test_user_ids_are_hashed_to_buckets(folders: Any) -> None:
    server = agents.serve(folders("mixed_policy"), toy_log().spend / 3)
    obs, _ = users(toy_log(), 30)
    ids = [f"user {i}" for i in range(30)]
    by_bucket = server.decide(obs, 0, bucket=[bucket_of(i) for i in ids])
    by_id = server.decide(obs, 0, ids)
    assert_array_equal(by_id.incentive, by_bucket.incentive)
    one = server.decide(obs[7], 0, "user 7")
    assert one == tuple(part[7] for part in by_id)
    assert [type(x) for x in one] == [int, float, float, int]


@every_fast
def test_serving_loads_no_torch(name: str, folders: Any) -> None:
    folder, log = folders(name), toy_log()
    code = (
        "import sys, numpy as np, agents\n"
        f"server = agents.serve({str(folder)!r}, {log.spend / 3})\n"
        f"obs = np.array({log.obs[:5, 1].tolist()}, dtype=np.float32)\n"
        "print(server.decide(obs, 1, list('abcde')).incentive.tolist())\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    here = agents.serve(folder, log.spend / 3).decide(log.obs[:5, 1], 1, list("abcde"))
    assert json.loads(run.stdout) == here.incentive.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs": np.zeros((2, 1))}, "obs has shape"),
        ({"obs": np.full((2, 9), np.nan)}, "obs"),
        ({"day": 99}, "day = 99"),
        ({"user_id": None}, "user_id, bucket"),
        ({"bucket": [0.1, 0.2]}, "user_id, bucket"),
        ({"user_id": None, "bucket": [0.1]}, "bucket has shape"),
        ({"user_id": None, "bucket": [0.1, 1.0]}, "bucket of row 1 is 1.0"),
        ({"remaining_budget": -1.0}, "remaining_budget = -1.0"),
        ({"remaining_budget": math.nan}, "remaining_budget = nan"),
    ],
)
def test_bad_requests_are_named(arguments: Any, message: str, folders: Any) -> None:
    server = agents.serve(folders("mixed_policy"), 1.0)
    good = {"obs": toy_log().obs[:2, 0], "day": 0, "user_id": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        server.decide(**{**good, **arguments})


def test_what_cannot_be_served(folders: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder"):
        agents.serve(tmp_path, 1.0)
    folder = folders("mixed_policy")
    for budget in (-1.0, math.nan):
        with pytest.raises(ValueError, match="budget"):
            agents.serve(folder, budget)
    with pytest.raises(ValueError, match="contacts"):
        agents.serve(folder, 1.0, contacts=3.0)
    (tmp_path / "model.json").write_text((folder / "model.json").read_text())
    with pytest.raises(ValueError, match="no weights"):
        agents.serve(tmp_path, 1.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 100), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_layers_are_those_of_torch(n: int, d: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    nets = [torch.nn.Sequential(*mlp(d, width, 2), torch.nn.Linear(width, 3)) for _ in range(2)]
    members = [{k: v.detach().numpy() for k, v in net.state_dict().items()} for net in nets]
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    assert_array_equal(rows_of(tiled(x), n), x)
    assert tiled(x).shape == (-(-n // LANES), d, LANES)
    found = rows_of(Mlp.of(members, ("0", "2"), "4")(tiled(x)), n)
    told = np.stack([net(torch.as_tensor(x)).detach().numpy() for net in nets])
    assert_allclose(found, told, rtol=1e-4, atol=1e-5)
