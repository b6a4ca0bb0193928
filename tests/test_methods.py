"""The contract of every method: each file of `agents/` is tested because it is there."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import shutil
from collections import defaultdict
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import agents
from agents.common.nets import Track, no_track
from experiments import train
from experiments.sharing import Oracles
from marketing_env import (
    ConstantPolicy,
    DayView,
    LoggedDataset,
    Policy,
    RandomPolicy,
    best_mixture,
    evaluate,
    preset,
    rollout,
    sample_users,
)
from marketing_env.config import Array

torch.set_num_threads(1)
METHODS = sorted(p.stem for p in Path(agents.__file__).parent.glob("[!_]*.py"))


def module_of(method: str) -> ModuleType:
    return import_module(f"agents.{method}")


REFERENCES = [m for m in METHODS if getattr(module_of(m), "NEEDS_SIMULATOR", False)]
LEARNERS = [m for m in METHODS if m not in REFERENCES]

CONFIG = preset("toy")
LOG = rollout(RandomPolicy(CONFIG.n_actions), CONFIG, 500, seed=1)
BUDGET = LOG.spend / 4
# Settings that make training short, for whatever method has them.
SMALL = {
    "batch": 256,
    "epochs": 1,
    "folds": 3,
    "iterations": 5,
    "members": 2,
    "outcome_epochs": 0.25,
    "prices": 6,
    "progress": False,
    "rounds": 3,
    "steps": 8,
    "trees": 8,
    "updates": 60,
    "warm_epochs": 1,
    "width": 16,
}
every_learner = pytest.mark.parametrize("method", LEARNERS)


def small(method: str) -> Any:
    config = module_of(method).Config
    names = {f.name for f in dataclasses.fields(config)}
    return config(**{name: value for name, value in SMALL.items() if name in names})


ORACLES: dict[int, Oracles] = defaultdict(Oracles)  # by the log's numbers


def fit(method: str, log: LoggedDataset, seed: int = 0, track: Track = no_track) -> agents.Model:
    """Players of the game share best responses; mixed_policy learns its own."""
    numbers = hash(b"".join(getattr(log, f.name).tobytes() for f in dataclasses.fields(log)[:-1]))
    oracles = Oracles() if method == "mixed_policy" else ORACLES[numbers]
    return oracles.fit(method, log, dataclasses.asdict(small(method)), seed, track)[0]


@cache
def trained(method: str) -> agents.Model:
    return fit(method, LOG)


def view(log: LoggedDataset, day: int = 0, users: slice = slice(None)) -> DayView:
    return DayView(log.obs[users, day], log.bucket[users], day, math.inf)


def answers(policy: Policy, log: LoggedDataset) -> Array:
    """(T, n, K) checked probabilities of each morning."""
    probs = np.stack([policy.probs(view(log, day)) for day in range(log.horizon)])
    assert probs.shape == (log.horizon, log.n_users, log.n_actions)
    assert (probs >= 0).all()
    assert_allclose(probs.sum(axis=2), 1, atol=1e-6)
    return probs


def assert_sound(model: agents.Model, log: LoggedDataset, budget: float) -> None:
    answers(model.policy(budget), log)
    f = model.forecast(budget)
    numbers = (f.reward, f.reward_error, f.cost, f.cost_error, f.bound, f.baseline, f.gap)
    assert all(math.isfinite(x) for x in numbers), f
    assert min(f.reward_error, f.cost_error) >= 0
    assert f.bound >= f.reward - 1e-6 * max(1.0, abs(f.reward))
    assert f.cost <= 1.05 * budget + 1e-6
    assert len(f.prices) == len(f.weights)


def test_there_are_methods() -> None:
    assert "mixed_policy" in LEARNERS
    assert "oracle" in REFERENCES


@pytest.mark.parametrize("method", METHODS)
def test_docstring_tells_source_and_differences(method: str) -> None:
    text = module_of(method).__doc__ or ""
    assert re.search(r"^Sources?: ", text, re.MULTILINE)
    assert re.search(r"^Differences from .+:\n1\. \S", text, re.MULTILINE)


@pytest.mark.parametrize("method", METHODS)
def test_settings_can_stand_beside_the_options_of_training(method: str) -> None:
    config = getattr(module_of(method), "Config", None)
    if config is not None:
        assert not {f.name for f in dataclasses.fields(config)} & {
            f.name for f in dataclasses.fields(train.Options)
        }


@every_learner
def test_signature(method: str) -> None:
    module = module_of(method)
    assert dataclasses.is_dataclass(module.Config)
    assert module.Config.__dataclass_params__.frozen
    config = module.Config()
    assert json.loads(json.dumps(dataclasses.asdict(config))) == dataclasses.asdict(config)
    parameters = inspect.signature(module.fit).parameters
    assert list(parameters)[:3] == ["log", "config", "seed"]
    assert parameters["config"].default == config
    assert parameters["seed"].default == 0


@every_learner
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 50.0, math.inf])
def test_answers_each_budget_from_one_training(method: str, share: float) -> None:
    assert_sound(trained(method), LOG, share * LOG.spend)


@every_learner
def test_budget_is_met_on_fresh_users(method: str) -> None:
    policy = trained(method).policy(BUDGET)
    found = evaluate(policy, CONFIG, n_users=2_000, seeds=2)
    assert found.cost.mean() <= 1.5 * BUDGET
    nothing = evaluate(trained(method).policy(0.0), CONFIG, n_users=500, seeds=1)
    assert nothing.cost.mean() <= 0.02 * LOG.spend


@every_learner
def test_money_earns_something(method: str) -> None:
    idle = ConstantPolicy(0, CONFIG.n_actions)
    rich = evaluate(trained(method).policy(LOG.spend), CONFIG, n_users=2_000, seeds=3)
    poor = evaluate(idle, CONFIG, n_users=2_000, seeds=3)
    assert (rich.reward > poor.reward).all()


@every_learner
def test_audiences_of_one_and_of_none(method: str) -> None:
    policy = trained(method).policy(BUDGET)
    for n in (1, 0):
        for day in range(LOG.horizon):
            probs = policy.probs(view(LOG, day, slice(n)))
            assert probs.shape == (n, LOG.n_actions)
            assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


@every_learner
@pytest.mark.parametrize("budget", [-1.0, math.nan])
def test_no_budget_is_refused(method: str, budget: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        trained(method).policy(budget)
    with pytest.raises(ValueError, match="budget"):
        trained(method).forecast(budget)


@every_learner
def test_seed_decides_and_the_log_is_untouched(method: str) -> None:
    parts = [f.name for f in dataclasses.fields(LOG)[:-1]]
    own = {name: getattr(LOG, name).copy() for name in parts}
    log = LoggedDataset(**own, meta=LOG.meta)
    curves: list[tuple[str, float, int]] = []
    again = fit(method, log, track=lambda *point: curves.append(point))
    for name in parts:
        assert_array_equal(own[name], getattr(LOG, name))
    first = trained(method)
    assert_array_equal(answers(again.policy(BUDGET), LOG), answers(first.policy(BUDGET), LOG))
    assert again.forecast(BUDGET) == first.forecast(BUDGET)
    assert curves
    assert all(isinstance(tag, str) and math.isfinite(value) for tag, value, _ in curves)


@every_learner
def test_saved_models_answer_the_same(method: str, tmp_path: Path) -> None:
    model = trained(method)
    for _ in range(2):
        model.save(tmp_path / "model")
    loaded = agents.load(tmp_path / "model")
    assert type(loaded) is type(model)
    for budget in (0.0, BUDGET, LOG.spend):
        assert_array_equal(answers(loaded.policy(budget), LOG), answers(model.policy(budget), LOG))
        assert loaded.forecast(budget) == model.forecast(budget)
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"model.safetensors", "model.json"}


@every_learner
def test_damaged_models_are_refused(method: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    trained(method).save(whole)
    meta = json.loads((whole / "model.json").read_text())
    damages = {
        "model.json": ["no json", "[]", json.dumps(meta | {"format": 99})]
        + [json.dumps(meta | {"method": name}) for name in ("none", "common", "../mixed", None)]
        + [json.dumps({k: meta[k] for k in ("format", "method")})],
        "model.safetensors": ["garbage", None],
    }
    for name, texts in damages.items():
        for text in texts:
            folder = shutil.copytree(whole, tmp_path / "damaged")
            (folder / name).unlink()
            if text is not None:
                (folder / name).write_text(text)
            with pytest.raises(ValueError):
                agents.load(folder)
            shutil.rmtree(folder)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder"):
        agents.load(tmp_path / "nowhere")
    (tmp_path / "thesis.txt").write_text("months of work")
    with pytest.raises(ValueError, match="exists and is no model folder"):
        trained(LEARNERS[0]).save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@every_learner
def test_ragged_logs_train(method: str) -> None:
    there = np.random.default_rng(2).random(LOG.valid.shape) < 0.5
    seen = np.pad(there, ((0, 0), (0, 1))) | np.pad(there, ((0, 0), (1, 0)))
    ragged = dataclasses.replace(
        LOG,
        valid=there,
        obs=np.where(seen[..., None], LOG.obs, np.nan),
        propensity=np.where(there, LOG.propensity, 0),
        reward=np.where(there, LOG.reward, np.nan),
        cost=np.where(there, LOG.cost, np.nan),
    )
    model = fit(method, ragged)
    assert math.isfinite(model.forecast(BUDGET).reward)
    assert_sound(model, LOG, BUDGET)


@every_learner
def test_other_incentives_features_and_a_single_day(method: str) -> None:
    config = preset("food_coupons", horizon=1, n_features=2)
    log = rollout(RandomPolicy(config.n_actions), config, 400, seed=3)
    assert_sound(fit(method, log), log, log.spend / 2)


def test_oracle_earns_the_optimum_and_beats_the_myopic() -> None:
    oracles = module_of("oracle").oracles
    budget, seeds, n = 0.3, range(10), 200
    users = sample_users(CONFIG, 10_000, seed=1)
    far, near = (
        evaluate(oracles(CONFIG, [budget], users, f)[0], CONFIG, n_users=n, seeds=seeds, repeats=20)
        for f in (1.0, 0.0)
    )
    best = [best_mixture(CONFIG, sample_users(CONFIG, n, seed), budget) for seed in seeds]
    for simulated, exact in [
        (far.reward, np.array([b.reward for b in best])),
        (far.cost, np.full(len(best), budget)),
        (near.cost, np.full(len(best), budget)),
    ]:
        gap = simulated - exact
        assert abs(gap.mean()) <= 4 * gap.std(ddof=1) / math.sqrt(len(best))
        assert abs(gap.mean()) <= 0.08 * exact.mean()
    ahead = far.reward - near.reward
    assert ahead.mean() > 3 * ahead.std(ddof=1) / math.sqrt(len(best))


def test_oracle_knows_its_users() -> None:
    users = sample_users(CONFIG, LOG.n_users, 1)
    policy = module_of("oracle").oracles(CONFIG, [BUDGET], users)[0].for_users(users)
    answers(policy, LOG)
    with pytest.raises(ValueError, match="allowed are the 500"):
        policy.probs(view(LOG, 0, slice(3)))
