"""A day's reward and cost of every incentive in numpy, for serving: the responses of `daily.py`.

Answers are (n, K, 2), the mean of the members, as in `daily.DailyKnapsack`. Boosted trees are
lightgbm's own, which takes longer than a network: 1 ms for one user, half a second for 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.common.one_day.eom_gradients import ladder
from agents.common.served.inference import (
    Inputs,
    Mlp,
    Outcomes,
    Weights,
    by_chunks,
    rows_of,
    under,
    with_calendar,
)
from agents.common.types import Array

Predict = Callable[[Array, int], Array]
"""From observations (n, d) and the day to reward and cost of every incentive, (n, K, 2)."""

_ONE = math.log(math.e - 1)  # softplus of it is 1


def read_response(weights: Weights, meta: Mapping[str, Any]) -> Predict:
    """One member, by the weights and the description that its `state` gave.

    Raises:
        ValueError: for a member of another kind.
    """
    own = {k: v for k, v in weights.items() if not k.startswith("calibration.")}
    if len(own) < len(weights):
        return calibrated(read_response(own, meta), under("calibration", weights))
    if "trees" in meta:
        return boosted(meta)
    if "logits.weight" in weights:
        return network(Outcomes([weights], meta["horizon"]))
    if "outcomes.logits.weight" in weights:
        outcomes = Outcomes([under("outcomes", weights)], meta["horizon"])
        return direct(outcomes, under("scores", weights), meta["loss"])
    if "towers.0.0.weight" in weights:
        return multi_task(weights, meta["horizon"])
    raise ValueError(f"a member has weights {sorted(weights)[:3]} ..: no response is known by them")


def mean_of(members: Sequence[Predict]) -> Predict:
    """Mean prediction of the members."""

    def predict(obs: Array, day: int) -> Array:
        return np.asarray(np.mean([member(obs, day) for member in members], axis=0))

    return predict


def network(outcomes: Outcomes) -> Predict:
    """`daily.NetworkResponse`."""

    def predict(obs: Array, day: int) -> Array:
        return by_chunks(lambda rows: _means(outcomes, rows, day), obs)

    return predict


def _means(outcomes: Outcomes, obs: Array, day: int) -> Array:
    """(n, K, 2) float64"""
    _, mean, _ = outcomes(outcomes.tiles(obs, day))
    _, tiles, _, k, lanes = mean.shape
    rows = rows_of(mean[0].reshape(tiles, 2 * k, lanes), len(obs))
    return rows.reshape(len(obs), 2, k).swapaxes(1, 2).astype(np.float64)


def direct(outcomes: Outcomes, scores: Weights, loss: str) -> Predict:
    """`direct_rank.DirectResponse`."""
    steps = range(len(scores["scale"]))
    nets = [Mlp.of([scores], (f"nets.{j}.0",), f"nets.{j}.2") for j in steps]

    def returns(obs: Array, day: int) -> Array:
        x = outcomes.tiles(obs, day)
        z = np.concatenate([rows_of(net(x), len(obs))[0] for net in nets], axis=1)
        if loss == "drm":
            return np.asarray(scores["scale"] * np.exp(np.tanh(z)))
        largest = np.float32(2.0 if loss == "dpm" else 1.0)
        return np.asarray(scores["scale"] * largest / (1 + np.exp(-z)))

    def predict(obs: Array, day: int) -> Array:
        expected = by_chunks(lambda rows: _means(outcomes, rows, day), obs)
        cost, more = expected[..., 1], by_chunks(lambda rows: returns(rows, day), obs)
        if loss == "dpm":
            gain = np.cumsum(more.astype(np.float64) * np.diff(cost, axis=1), axis=1)
        else:
            gain = more.astype(np.float64) * (cost[:, 1:] - cost[:, :1])
        expected[:, 1:, 0] = expected[:, :1, 0] + gain
        return expected

    return predict


def multi_task(weights: Weights, horizon: int) -> Predict:
    """`predictors.MultiTaskResponse`."""
    inputs = Inputs.of([weights], "inputs.mean", "inputs.spread")
    deep = "shared.0.weight" in weights
    shared = Mlp.of([weights], ("shared.0", "shared.2") if deep else ())
    towers = [
        Mlp.of([weights], (f"towers.{k}.0",) if deep else (), f"towers.{k}.{2 * deep}")
        for k in range(2)
    ]
    level, spread = weights["level"], weights["spread"]

    def part(obs: Array, day: int) -> Array:
        hidden = shared(inputs(with_calendar(obs, day, horizon)))
        reward, cost = (rows_of(tower(hidden), len(obs))[0] for tower in towers)
        reward = level[:, 0] + spread[:, 0] * reward
        cost = level[:, 1] * np.logaddexp(np.float32(0), cost + np.float32(_ONE))
        return np.stack([reward, cost], axis=-1).astype(np.float64)

    return lambda obs, day: by_chunks(lambda rows: part(rows, day), obs)


def calibrated(predict: Predict, calibration: Weights) -> Predict:
    """`calibration.Calibrated`."""
    prices, factor = calibration["prices"], calibration["factor"]
    intercept, slope = calibration["line"].T

    def stretched(obs: Array, day: int) -> Array:
        predicted = predict(obs, day)
        rows = np.arange(len(predicted))
        corners = [predicted[rows, choice][:, None] for choice in ladder(predicted, prices)[:-1]]
        found = corners[0] + np.zeros_like(predicted)
        for phi, low, high in zip(factor, corners, [*corners[1:], np.inf], strict=True):
            found += phi * np.clip(predicted - low, 0, high - low)
        return np.asarray(intercept + slope * found)

    return stretched


def boosted(meta: Mapping[str, Any]) -> Predict:
    """`uplift.BoostedResponse`."""
    import lightgbm

    trees = {name: lightgbm.Booster(model_str=text) for name, text in meta["trees"].items()}
    zero, learner, horizon = np.array(meta["zero"]), meta["learner"], meta["horizon"]
    arms = range(len(zero))

    def value(name: str, x: Array) -> Array:
        tree = trees.get(name)
        if tree is None or not len(x):
            return np.zeros(len(x))
        return np.asarray(tree.predict(x, num_threads=1))

    def levels(outcome: str, x: Array) -> list[Array]:
        if learner == "s":
            arm = (np.full(len(x), j) for j in arms)
            return [value(f"{outcome}/mu", np.column_stack([x, j])) for j in arm]
        if learner == "t":
            return [value(f"{outcome}/mu_{j}", x) for j in arms]
        base = value(f"{outcome}/mu_0", x)
        if learner != "x":
            return [base + value(f"{outcome}/tau_{j}", x) for j in arms]
        treated = [np.clip(value(f"e_{j}", x), 0, 1) for j in arms]
        return [
            base
            + e * value(f"{outcome}/control_{j}", x)
            + (1 - e) * value(f"{outcome}/treated_{j}", x)
            for j, e in enumerate(treated)
        ]

    def predict(obs: Array, day: int) -> Array:
        now = np.full((len(obs), 2), (day / horizon, day % 7))
        x = np.column_stack([obs, now])
        found = [np.column_stack(levels(outcome, x)) for outcome in ("reward", "cost")]
        return np.where(zero, 0.0, np.stack(found, axis=-1))

    return predict


class Classifier:
    """`clusters.Classifier`."""

    def __init__(self, weights: Weights, horizon: int) -> None:
        self.horizon = horizon
        self.inputs = Inputs.of([weights], "inputs.mean", "inputs.spread")
        self.net = Mlp.of([weights], ("net.0.0", "net.0.2"), "net.1")

    def __call__(self, obs: Array, day: int) -> Array:
        """(n,) cluster of each user."""

        def part(rows: Array) -> Array:
            scores = self.net(self.inputs(with_calendar(rows, day, self.horizon)))
            return np.asarray(rows_of(scores, len(rows))[0].argmax(axis=1))

        return by_chunks(part, obs)
