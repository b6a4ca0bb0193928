"""Meta-learners over boosted trees: a day's reward and cost under every arm, as levels.

With arm 0 as control, outcome y and logged arm t, the level of arm j is

    s              mu(x, j)                                      one regression, the arm an input
    t              mu_j(x)                                       one regression per arm
    x              mu_0(x) + e_j(x) tau_0j(x) + (1 - e_j(x)) tau_1j(x)
    dr             E[phi_0 | x] + E[phi_j - phi_0 | x]
    causal_forest  mu_0(x) + tau_j(x)

    tau_1j  regresses y - m_0(x) on rows with t = j;    tau_0j  m_j(x) - y on rows with t = 0
    phi_j = m_j(x) + 1[t = j] (y - m_j(x)) / p_t        e_j(x) = P(t = j | x, t in {0, j})

where p_t is the logged propensity and the nuisances m_j are regressions per arm, fitted on one half
of the users for the other half. A learner is a list of regressions, each boosted trees.

Kunzel et al., Metalearners, PNAS 116(10), 2019 (s, t, x); Kennedy, Electronic Journal of Statistics
17(2), 2023 (dr); Athey, Tibshirani & Wager, Generalized random forests, Annals of Statistics 47(2),
2019 (causal_forest, here as double machine learning in the settings of DHCL, AAAI 2023). The forest
is served by trees boosted on its effects: a library's forest has no file format but pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from agents.common.nets import Track, no_track
from agents.common.one_day.daily import State
from agents.common.types import Array
from marketing_env import LoggedDataset

OUTCOMES = ("reward", "cost")
_HALVES = 2  # of the users; the nuisances of each come from the other

Tree = Any  # lightgbm.Booster, or None where all labels are 0
Regression = tuple[str, Array, Array]  # name, features (m, f), labels (m,)


class Rows(NamedTuple):
    """User-days to learn from."""

    x: Array  # (m, d + 2) observation and calendar
    arm: Array  # (m,) the one that was given
    propensity: Array  # (m,) probability with which it was
    user: Array  # (m,) numbers in random order, the same on all days of a user

    @property
    def arms(self) -> Array:
        """All arms that were given."""
        return np.unique(self.arm)

    @property
    def treatments(self) -> Array:
        """All arms but the control that were given."""
        return self.arms[self.arms > 0]


@dataclass(frozen=True)
class Boosting:
    """Least-squares gradient boosting: settings of every regression."""

    trees: int = 150
    leaves: int = 31
    learning_rate: float = 0.06
    min_leaf: int = 200  # user-days in a leaf, at least
    seed: int = 0
    track: Track = no_track  # receives the squared error on the training rows, tree by tree
    tag: str = "response"

    def __call__(self, name: str, x: Array, y: Array) -> Tree:
        """E[y | x]; without rows, or if all labels are 0, None for a constant 0."""
        import lightgbm

        if not y.any():
            return None
        settings = {
            "objective": "regression", "num_leaves": self.leaves, "verbosity": -1,
            "num_threads": 1, "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_leaf, "seed": self.seed,
        }  # fmt: skip
        curve: dict[str, Any] = {}
        data = lightgbm.Dataset(x, y)
        tree = lightgbm.train(
            settings, data, self.trees, valid_sets=[data], valid_names=["train"],
            callbacks=[lightgbm.record_evaluation(curve)],
        )  # fmt: skip
        for step, loss in enumerate(curve["train"]["l2"]):
            self.track(f"{self.tag}/{name}", loss, step)
        return tree


class BoostedResponse:
    """A fitted meta-learner."""

    def __init__(self, learner: str, trees: Mapping[str, Tree], zero: Array, horizon: int) -> None:
        self.learner, self.trees, self.horizon = learner, trees, horizon
        self.zero = zero  # (K, 2) bool: all that the log knows of the arm's outcome is 0, if that

    def predict(self, obs: Array, day: int) -> Array:
        """(n, K, 2)"""
        x = with_calendar(obs, np.full(len(obs), day), self.horizon)
        levels = [np.column_stack(self._levels(outcome, x)) for outcome in OUTCOMES]
        return np.where(self.zero, 0.0, np.stack(levels, axis=-1))

    def _levels(self, outcome: str, x: Array) -> list[Array]:
        def value(name: str) -> Array:
            return _value(self.trees.get(f"{outcome}/{name}"), x)

        arms = range(len(self.zero))
        if self.learner == "s":
            tree = self.trees.get(f"{outcome}/mu")
            return [_value(tree, np.column_stack([x, np.full(len(x), j)])) for j in arms]
        if self.learner == "t":
            return [value(f"mu_{j}") for j in arms]
        base = value("mu_0")
        if self.learner != "x":
            return [base + value(f"tau_{j}") for j in arms]
        treated = [np.clip(_value(self.trees.get(f"e_{j}"), x), 0, 1) for j in arms]
        return [
            base + e * value(f"control_{j}") + (1 - e) * value(f"treated_{j}")
            for j, e in enumerate(treated)
        ]

    def state(self) -> State:
        texts = {name: tree.model_to_string() for name, tree in self.trees.items() if tree}
        meta = {"learner": self.learner, "zero": self.zero.tolist(), "horizon": self.horizon}
        return State({}, {**meta, "trees": texts})

    @staticmethod
    def from_state(state: State) -> BoostedResponse:
        import lightgbm

        meta, texts = state.meta, state.meta["trees"]
        trees = {name: lightgbm.Booster(model_str=text) for name, text in texts.items()}
        return BoostedResponse(meta["learner"], trees, np.array(meta["zero"]), meta["horizon"])


def fit_uplift(
    log: LoggedDataset,
    users: Array,
    learner: str,
    boost: Boosting = Boosting(),
    progress: str | None = None,
) -> BoostedResponse:
    """Fit a meta-learner on the valid user-days of some users.

    Cost in regressions, with K arms: s 2, t 2K, x 9K - 3, dr 6K, of which 4K on half of the users.

    Raises:
        ValueError: for an unknown learner.
        ImportError: for causal_forest if econml is not installed.
    """
    if learner not in LEARNERS:
        raise ValueError(f"learner = {learner!r}: allowed are {', '.join(LEARNERS)}")
    rows, outcome = _rows(log, users, boost.seed)
    trees: dict[str, Tree] = {}
    with tqdm(desc=progress, disable=True if progress is None else None) as bar:
        for k, y in enumerate(OUTCOMES):
            one = replace(boost, tag=f"{boost.tag}/{y}")
            for name, x, label in LEARNERS[learner](rows, outcome[:, k], one):
                trees[f"{y}/{name}"] = one(name, x, label)
                bar.update()
        if learner == "x":
            trees |= {name: boost(name, x, label) for name, x, label in treated_shares(rows)}
    zero = [~outcome[rows.arm == j].any(axis=0) for j in range(log.n_actions)]
    return BoostedResponse(learner, trees, np.array(zero), log.horizon)


def s_learner(d: Rows, y: Array, boost: Boosting) -> Iterator[Regression]:
    yield "mu", np.column_stack([d.x, d.arm]), y


def t_learner(d: Rows, y: Array, boost: Boosting) -> Iterator[Regression]:
    for j in d.arms:
        given = d.arm == j
        yield f"mu_{j}", d.x[given], y[given]


def x_learner(d: Rows, y: Array, boost: Boosting) -> Iterator[Regression]:
    m, control = nuisances(d, y, boost), d.arm == 0
    yield "mu_0", d.x[control], y[control]
    for j in d.treatments:
        treated = d.arm == j
        yield f"treated_{j}", d.x[treated], y[treated] - m[treated, 0]
        yield f"control_{j}", d.x[control], m[control, j] - y[control]


def dr_learner(d: Rows, y: Array, boost: Boosting) -> Iterator[Regression]:
    phi, rows = nuisances(d, y, boost), np.arange(len(y))
    phi[rows, d.arm] += (y - phi[rows, d.arm]) / d.propensity
    yield "mu_0", d.x, phi[:, 0]
    for j in d.treatments:
        yield f"tau_{j}", d.x, phi[:, j] - phi[:, 0]


def causal_forest(d: Rows, y: Array, boost: Boosting) -> Iterator[Regression]:
    control = d.arm == 0
    yield "mu_0", d.x[control], y[control]
    for j, effect in zip(d.treatments, _forest_effects(d, y, boost.seed).T, strict=True):
        yield f"tau_{j}", d.x, effect


LEARNERS: dict[str, Callable[[Rows, Array, Boosting], Iterator[Regression]]] = {
    "s": s_learner,
    "t": t_learner,
    "x": x_learner,
    "dr": dr_learner,
    "causal_forest": causal_forest,
}


def nuisances(d: Rows, y: Array, boost: Boosting) -> Array:
    """(m, K) predictions of y under each arm, every user's by regressions on the other half."""
    m, half = np.zeros((len(y), int(d.arm.max(initial=0)) + 1)), d.user % _HALVES
    for h in range(_HALVES):
        for j in d.arms:
            others = (half != h) & (d.arm == j)
            tree = boost(f"nuisance_{h}/mu_{j}", d.x[others], y[others])
            m[half == h, j] = _value(tree, d.x[half == h])
    return m


def treated_shares(d: Rows) -> Iterator[Regression]:
    """e_j(x) of the X-learner: known if each arm has one logged propensity, else regressed."""
    for j in d.treatments:
        pair = (d.arm == 0) | (d.arm == j)
        chances = [np.unique(d.propensity[d.arm == arm]) for arm in (j, 0)]
        label = (d.arm[pair] == j).astype(float)
        if all(len(p) == 1 for p in chances):
            label[:] = chances[0] / sum(chances)
        yield f"e_{j}", d.x[pair], label


def with_calendar(obs: Array, day: Array, horizon: int) -> Array:
    """Observation with progress and weekday, for the boosted trees."""
    return np.column_stack([obs, day / horizon, day % 7])


def _rows(log: LoggedDataset, users: Array, seed: int) -> tuple[Rows, Array]:
    """The valid user-days, and their outcomes (m, 2)."""
    number = np.random.default_rng([seed, 7]).permutation(len(users))
    row, day = np.nonzero(log.valid[users])
    user = users[row]
    x = with_calendar(log.obs[user, day], day, log.horizon)
    arm, propensity = log.action[user, day].astype(np.int64), log.propensity[user, day]
    outcome = np.column_stack([log.reward[user, day], log.cost[user, day]])
    return Rows(x, arm, propensity, number[row]), outcome


def _value(tree: Tree, x: Array) -> Array:
    if tree is None or not len(x):
        return np.zeros(len(x))
    return np.asarray(tree.predict(x, num_threads=1))


def _forest_effects(d: Rows, y: Array, seed: int) -> Array:
    """(m, treatments) effects against the control; days of a user stay in one fold."""
    try:
        from econml.dml import CausalForestDML
    except ImportError as error:
        raise ImportError("learner = 'causal_forest' needs the extra forest: econml") from error
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    nuisance = {
        "n_estimators": 160, "max_depth": 12, "min_samples_leaf": 500, "random_state": seed,
    }  # fmt: skip
    forest = CausalForestDML(
        model_y=RandomForestRegressor(**nuisance), model_t=RandomForestClassifier(**nuisance),
        discrete_treatment=True, cv=3, n_estimators=256, max_depth=24, min_samples_leaf=300,
        inference=False, random_state=seed,
    )  # fmt: skip
    forest.fit(y, d.arm, X=d.x, groups=d.user)
    return np.asarray(forest.const_marginal_effect(d.x)).reshape(len(y), -1)
