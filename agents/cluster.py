"""Cluster allocator: incentives for groups of users whose hidden representations are alike.

A multi-task network learns reward and cost; the outputs of its first two layers, which never see
the incentive, represent a user-day (`one_day/representation.py`). k-means divides user-days into
clusters, and a classifier learns to name the cluster (`one_day/clusters.py`). What each cluster
brings under each incentive is estimated on users that the network has not seen, and every day an
integer stochastic program gives each cluster one incentive (`one_day/cluster_program.py`):

    max_z  sum_lj n_l r_lj z_lj   s.t.  P(sum_lj n_l c_lj z_lj <= B) >= 1 - risk,  sum_j z_lj = 1

To serve is to classify the user-day and to read its cluster's incentive at the day's money. Noise
in the outcomes of single users averages out within a cluster; so do their differences.

Source: Wang et al., Hidden Representation Clustering with Multi-Task Representation Learning
towards Robust Online Budget Allocation, 2025, arXiv 2506.00959.

Differences from the paper:
1. Its abstract fixes the steps; what they consist of is our reconstruction.
2. `decision_aware` clusters are alike in the predicted (reward, cost) curves over the incentives,
   on which the allocation depends, instead of in the hidden representation.
3. The number of clusters is chosen by doubly robust value on held-out users.
4. Outcomes of clusters are shrunk by empirical Bayes towards the network's predictions.
5. One table serves every budget: the linear relaxation, whose optimum splits one cluster at most,
   is solved for all budgets at once; split users are told apart by their bucket of the day.
6. Outcomes are those of the classifier's clusters, not of the clusters it imitates, and the model
   says what the imitation loses.
7. Tables count the log's users, who were given other incentives and so are in other clusters than
   those who follow a plan. So what the plans of a grid of budgets bring is judged by fitted Q
   evaluation on held-out users, and a budget gets the plan that spends it
   (`one_day/cluster_tables.py`). Money that remains is run as a campaign of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.bounds import check
from agents.common.buckets import redrawn
from agents.common.nets import Track, no_track
from agents.common.one_day.cluster_program import Outcomes
from agents.common.one_day.cluster_tables import Judged, Tables
from agents.common.one_day.cluster_validation import Distillation, HeldOut
from agents.common.one_day.clusters import Classifier, Clusters, assign, distil, fit_clusters
from agents.common.one_day.daily import check_budget, money_today
from agents.common.one_day.representation import (
    Fitting,
    Representation,
    UserDays,
    fit_representation,
    user_days,
)
from agents.common.types import Array, Forecast
from agents.common.values.family import Judge, declared
from marketing_env import DayView, LoggedDataset, Policy

METHOD = "cluster"
GRID = (5, 10, 20, 50, 100)  # numbers of clusters to choose from
_CELL = 10  # held-out user-days for each cluster and incentive, at least
_SAMPLE = 100_000  # user-days that place the centres and teach the classifier
_HELD_OUT = 1_000_000  # user-days that estimate outcomes


@dataclass(frozen=True)
class Config:
    """Settings of the networks, the clusters and the program."""

    clusters: int = 0  # 0: chosen on held-out users among 5, 10, 20, 50 and 100
    decision_aware: bool = True  # clusters of predicted curves; else of hidden representations
    folds: int = 4  # parts of the users; the network learns from all but two of them
    width: int = 128  # of the first hidden layer and of the classifier; the second has half
    epochs: float = 6.0
    batch: int = 2048  # user-days a step
    learning_rate: float = 5e-3
    temperature: float = 0.1  # of soft labels, in mean squared distances to the nearest centre
    outcome_epochs: float = 8.0  # passes over their log for the outcome model of the evaluation
    risk: float = 0.3  # accepted probability that estimation error makes a plan overspend
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pacing: bool = True  # spread what remains over the days left; else a fixed share a day
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Model:
    """A trained allocator: answers every budget."""

    config: Config
    teacher: Clusters = field(repr=False)  # what the classifier imitates; not needed to serve
    classifier: Classifier = field(repr=False)
    outcomes: Outcomes = field(repr=False)  # of the classifier's clusters
    share: Array = field(repr=False)  # (T, L) of the log's users; absent ones are in no cluster
    judged: Judged  # what the tables bring
    distillation: Distillation

    @cached_property
    def tables(self) -> Tables:
        return Tables(self.outcomes, self.share, self.config.risk)

    def policy(self, budget: float) -> Policy:
        """One incentive for each cluster; budget in currency per user per campaign."""
        check_budget(budget)
        return ClusterTable(self, budget)

    def forecast(self, budget: float) -> Forecast:
        """What held-out users say of `policy(budget)`, with errors."""
        check_budget(budget)
        (reward, cost), (reward_error, cost_error) = self.judged.expected(budget)
        bound, idle = max(self.tables.bound(budget), reward), float(self.judged.value[0, 0])
        return Forecast(reward, reward_error, cost, cost_error, bound, idle)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        parts: dict[str, Outcomes | Judged] = {"outcomes": self.outcomes, "judged": self.judged}
        tensors = {
            f"{part}.{name}": torch.tensor(array)
            for part, arrays in parts.items()
            for name, array in arrays._asdict().items()
        } | {"share": torch.tensor(self.share)}
        tensors |= files.prefixed("teacher", self.teacher)
        tensors |= files.prefixed("classifier", self.classifier)
        meta = {"config": asdict(self.config), "distillation": self.distillation._asdict()}
        files.save_model(folder, METHOD, tensors, meta)


class ClusterTable:
    """Classifies each user, and reads the incentive of the cluster at the day's money."""

    def __init__(self, model: Model, budget: float) -> None:
        self.model, self.budget = model, budget

    def probs(self, view: DayView) -> Array:
        model = self.model
        obs = torch.as_tensor(np.ascontiguousarray(view.obs))
        cluster = assign(model.classifier, obs, torch.full((len(obs),), view.day))
        horizon = len(model.share)
        money = horizon * money_today(view, self.budget, horizon, model.config.pacing)
        split = model.tables.split(view.day, model.judged.plan_for(money))
        arm = split.serve(cluster, redrawn(view.bucket, view.day))
        return np.asarray(np.eye(model.outcomes.mean.shape[1])[arm])


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Learn clusters and their outcomes from a log alone.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.

    Raises:
        ValueError: for less than three folds, or more of them than users.
    """
    _check(config, log)
    rng = np.random.default_rng([seed, 5])
    part = rng.permutation(log.n_users) % config.folds
    taught, tested = (user_days(log, np.flatnonzero(chosen)) for chosen in (part >= 2, part < 2))
    fitting = Fitting(
        config.epochs, config.batch, config.learning_rate, seed, track, config.progress
    )
    network = fit_representation(taught, log.n_actions, log.horizon, config.width, fitting)
    tested, sample = _some(tested, _HELD_OUT, rng), _some(taught, _SAMPLE, rng)
    half = part[tested.user.numpy()]
    held_out = HeldOut(tested, half, network, config.risk, config.least_support)
    teacher = choose_clusters(network, sample, held_out, config, seed, track)
    classifier = distil(teacher, sample, config.width, config.temperature, fitting)
    distillation = held_out.compare(teacher, classifier)
    for name, loss in distillation._asdict().items():
        track(f"distillation/{name}", loss, 0)
    n_clusters = len(teacher.centre)
    outcomes = held_out.outcomes(held_out.clusters(classifier), n_clusters)
    named = _named(log, classifier)
    share = np.stack([np.bincount(day[day >= 0], minlength=n_clusters) for day in named.T])
    tables = Tables(outcomes, share / log.n_users, config.risk)
    judged = _judged(log, np.flatnonzero(part < 2), named, tables, config, seed, track)
    return Model(config, teacher, classifier, outcomes, tables.share, judged, distillation)


def load(folder: str | Path) -> Model:
    """Read a model that its `save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    config = Config(**meta["config"])
    outcomes, judged = (
        {name: tensor.numpy() for name, tensor in files.under(part, tensors).items()}
        for part in ("outcomes", "judged")
    )
    share = tensors["share"].numpy()
    return Model(
        config,
        Clusters.rebuild(files.under("teacher", tensors), config.decision_aware, len(share)),
        Classifier.rebuild(files.under("classifier", tensors), len(share)),
        Outcomes(**outcomes),
        share,
        Judged(**judged),
        Distillation(**meta["distillation"]),
    )


def choose_clusters(
    network: Representation,
    rows: UserDays,
    held_out: HeldOut,
    config: Config,
    seed: int = 0,
    track: Track = no_track,
) -> Clusters:
    """As many clusters as configured, or as are worth most on held-out users.

    Only numbers that leave enough held-out user-days for each cell are tried.
    """
    most = len(held_out.half) // (_CELL * len(network.level))
    grid = [config.clusters] if config.clusters else [n for n in GRID if n <= max(most, GRID[0])]
    found = [fit_clusters(network, rows, n, config.decision_aware, seed) for n in grid]
    worth = [held_out.worth(held_out.clusters(each), len(each.centre)) for each in found]
    for n, value in zip(grid, worth, strict=True):
        track("clusters/worth", value, n)
    return found[int(np.argmax(worth))]


def _named(log: LoggedDataset, classifier: Classifier) -> Array:
    """(n, T) cluster of each user-day, -1 where the user was not there."""
    cluster = np.full(log.action.shape, -1)
    for day in range(log.horizon):
        obs = torch.as_tensor(np.ascontiguousarray(log.obs[log.valid[:, day], day]))
        cluster[log.valid[:, day], day] = assign(classifier, obs, torch.full((len(obs),), day))
    return cluster


def _judged(
    log: LoggedDataset,
    users: Array,
    cluster: Array,
    tables: Tables,
    config: Config,
    seed: int,
    track: Track,
) -> Judged:
    """What the tables of a grid of budgets bring to users whom the network has not seen."""
    judge = Judge(
        declared(log).take(users), width=config.width, epochs=config.outcome_epochs, seed=seed,
        track=track, progress=config.progress,
    )  # fmt: skip
    money, named = tables.grid(), torch.as_tensor(cluster[users])
    given = torch.as_tensor(tables.probs(money))

    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        return given[day][named[user, day]]

    unpriced = torch.cat([torch.zeros(len(money), 1), torch.full((1, 1), torch.inf)])
    found = judge.verdict(act, unpriced, config.risk).frontier
    # Doing nothing comes last there and first here; whoever plans with more money spends more.
    value, error, cautious = (
        np.roll(table, 1, axis=0) for table in (found.value, found.error, found.cautious)
    )
    return Judged(np.append(0.0, money), value, error, np.maximum.accumulate(cautious[:, 1]))


def _some(rows: UserDays, most: int, rng: np.random.Generator) -> UserDays:
    n = len(rows.arm)
    return rows if n <= most else rows.take(torch.as_tensor(rng.choice(n, most, replace=False)))


def _check(config: Config, log: LoggedDataset) -> None:
    if not 3 <= config.folds <= log.n_users:
        raise ValueError(f"folds = {config.folds}: allowed is 3 to {log.n_users}, a user in each")
