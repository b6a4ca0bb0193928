"""Saved policies at work: one user in less than a millisecond, without torch.

    server = agents.serve("models/mine", budget=2.0)
    server.decide(obs, day=3, user_id="u42", remaining_budget=1.4).incentive

A decision depends on its arguments and on the model alone: no state, no draw, no other user who
happens to be asked about at the same time. So any number of processes serve the same user the same
way, alone or in any batch (`inference.py`).

`remaining_budget` is the money left per user of the campaign. Without it a plan is kept as made for
`budget`; with it, the rest of the campaign is run like a campaign whose budget is

    remaining * horizon / days left

which moves the price of money, or the mixture of policies.

What is served, `served_policies.py` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.common.files import read_arrays, read_meta
from agents.common.served.inference import Weights
from agents.common.served.served_policies import (
    Clusters,
    Decision,
    Offers,
    PricedDay,
    Responses,
    Rule,
    Trained,
    trained,
)
from agents.common.types import Array
from marketing_env.panel import buckets_of

_OF_RESPONSES = {"format", "method", "config", "frontier", "n_actions", "horizon", "n_obs"}


class Server:
    """Serves a policy at a budget."""

    def __init__(self, rule: Rule, budget: float, horizon: int, n_obs: int | None) -> None:
        self.rule, self.budget, self.horizon, self.n_obs = rule, budget, horizon, n_obs

    def decide(
        self,
        obs: Array,
        day: int,
        user_id: Any = None,
        remaining_budget: float = math.inf,
        *,
        bucket: Any = None,
    ) -> Decision:
        """What to offer one user, or many.

        obs: (d,) or (n, d), the columns of the log.
        user_id: of one user, or (n,); its hash is the bucket, as in logs without that column.
        remaining_budget: currency per user of the campaign that is left; inf keeps to the plan.
        bucket: in [0, 1), instead of user ids.

        Raises:
            ValueError: for another number of columns, a number in obs that is not finite, a day
                outside of the campaign, neither or both of user_id and bucket, a bucket outside of
                [0, 1), or a negative or NaN remaining budget.
        """
        rows = np.atleast_2d(np.asarray(obs, dtype=np.float32))
        self._check(rows, day, remaining_budget)
        one = np.ndim(obs) == 1
        buckets = _buckets(len(rows), [user_id] if one and user_id is not None else user_id, bucket)
        found = self.rule(rows, day, buckets, self.campaign_budget(day, remaining_budget))
        return Decision(*(part[0].item() for part in found)) if one else found

    def offers(self, obs: Array, day: int, user_id: Any = None, *, bucket: Any = None) -> Offers:
        """What an allocation may choose for each of n users; arguments are those of `decide`."""
        rows = np.asarray(obs, dtype=np.float32)
        self._check(rows, day, math.inf)
        return self.rule.offers(rows, day, _buckets(len(rows), user_id, bucket), self.budget)

    def campaign_budget(self, day: int, remaining: float) -> float:
        """Budget of a whole campaign that runs as the rest of this one does, per user."""
        if math.isinf(remaining):
            return self.budget
        # Four digits, so that plans made for a budget serve many requests.
        return float(f"{remaining * self.horizon / max(self.horizon - day, 1):.4g}")

    def _check(self, rows: Array, day: int, remaining: float) -> None:
        n_obs = rows.shape[1] if self.n_obs is None else self.n_obs
        if rows.ndim != 2 or rows.shape[1] != n_obs:
            raise ValueError(f"obs has shape {rows.shape}: allowed is (n, {n_obs})")
        if not np.isfinite(rows).all():
            row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
            raise ValueError(
                f"obs of row {row}, column {column} is {rows[row, column]}: allowed: finite numbers"
            )
        if not 0 <= day < self.horizon:
            raise ValueError(f"day = {day}: allowed is 0 to {self.horizon - 1}")
        if not remaining >= 0:
            raise ValueError(f"remaining_budget = {remaining!r}: allowed are numbers of at least 0")


def serve(folder: str | Path, budget: float, **limits: float) -> Server:
    """Read a saved model of any method to serve its policy at a budget.

    budget: currency per user per campaign.
    limits: further ones that the method's `policy` takes, such as `contacts` of mixed_policy.

    Raises:
        ValueError: if the folder holds no model, the budget or a limit is none, or no mixture of
            policies keeps the budget.
    """
    meta = read_meta(folder)
    weights = read_arrays(folder)
    try:
        rule, horizon, n_obs = _read(folder, meta, weights, limits)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no complete {meta['method']} model: {error}") from error
    if not budget >= 0:
        raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")
    if isinstance(rule, Responses):
        rule.weigh(budget)
    return Server(rule, budget, horizon, n_obs)


def _read(
    folder: str | Path, meta: Mapping[str, Any], weights: Weights, limits: Mapping[str, float]
) -> tuple[Rule, int, int | None]:
    """Rule, horizon and columns of an observation."""
    if meta["method"] == "mixed_policy":
        return Responses.read(meta, weights, None, **limits), meta["horizon"], meta["n_obs"]
    if set(meta) - _OF_RESPONSES == {"seed"}:
        game = trained(folder, meta["method"])
        rule = Responses.read(meta, weights, lambda budget: game.mix(budget)[0], **limits)
        return rule, meta["horizon"], meta["n_obs"]
    if "members" in meta:
        return PricedDay.read(meta, weights), meta["horizon"], meta["n_obs"]
    if "distillation" in meta:
        clusters = Clusters(meta, weights)
        return clusters, len(clusters.tables.share), clusters.classifier.inputs.mean.shape[-1] - 3
    horizon, n_obs = _sizes(meta)
    return Trained(folder, meta["method"], horizon, limits), horizon, n_obs


def _sizes(meta: Mapping[str, Any]) -> tuple[int, int | None]:
    """Horizon and columns, as far as a model's description says."""
    text = json.dumps(meta)
    found = [_find(json.loads(text), name) for name in ("horizon", "n_obs")]
    if found[0] is None:
        raise KeyError("horizon")
    return found[0], found[1]


def _find(meta: Any, name: str) -> int | None:
    """A number by its name, at any depth."""
    if not isinstance(meta, dict):
        return None
    if name in meta:
        return int(meta[name])
    return next((x for part in meta.values() if (x := _find(part, name)) is not None), None)


def _buckets(n: int, user_id: Any, bucket: Any) -> Array:
    if (user_id is None) == (bucket is None):
        raise ValueError("user_id, bucket: give one of them")
    found = np.asarray(buckets_of(user_id) if bucket is None else bucket, dtype=float)
    found = np.atleast_1d(found)
    if found.shape != (n,):
        name = "user_id" if bucket is None else "bucket"
        raise ValueError(f"{name} has shape {found.shape}: allowed is ({n},)")
    if not ((found >= 0) & (found < 1)).all():
        row = int(np.argmin((found >= 0) & (found < 1)))
        raise ValueError(f"bucket of row {row} is {found[row]}: allowed is [0, 1)")
    return found
