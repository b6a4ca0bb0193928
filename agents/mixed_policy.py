"""Mixed-policy offline constrained learner: the main method.

A campaign is a constrained Markov decision process: maximise the mean reward per user subject to
a mean cost of at most the budget (and, if wanted, a mean number of contacts of at most a cap). In
the game between prices and policies, the policy player's best responses to *every* price of a grid
come from one backward pass over the log (`common/fitted_q.py`); their values are read from the
members that did not see the user; and a linear program mixes at most m + 1 of them to meet any m
limits (`common/frontier.py`, `common/game.py`):

    max_w  sum_k w_k R_k   s.t.  sum_k w_k C_k <= B,  sum_k w_k = 1,  w >= 0

Each user draws one policy for the whole campaign. No retraining when the budget changes. The
certificate is the Lagrangian bound  min_g lambda_g B + (R_g - lambda_g C_g)  of the same values:
how much more the best policy could earn if the model were true.

Source: Cai et al., Marketing Budget Allocation with Offline Constrained Deep Reinforcement
Learning, WSDM 2023, arXiv 2309.02669; theory in arXiv 2108.12916.

Differences from the paper:
1. Oracle: one finite-horizon backward pass answers a whole grid of prices, instead of one offline
   reinforcement-learning run per round of the game.
2. The outcome of the logged day is integrated out by an outcome model instead of sampled
   (`common/factored_q.py`); `oracle="plain"` regresses on logged outcomes (`common/plain_q.py`).
3. Optimum by a linear program over the grid instead of a sequence of feasibility problems; the
   whole frontier is kept, so any later budget is another mixture of few policies.
4. Policies are kept to incentives that the log tried (`common/support.py`), and `pessimism` lowers
   the gains on which cross-fitted members disagree.
5. Costs enter the program with an upper confidence margin (`risk`), and the forecast says whether
   the log's own policy is beaten at equal spend.
6. `pacing` solves the mixture again every morning for the money that is left.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.acting import BestResponse, PacedMixture, Responder
from agents.common.factored_q import FactoredMember
from agents.common.fitted_q import ActionValues, backward_pass, greedy_choice
from agents.common.frontier import Frontier
from agents.common.nets import Schedule, Track, no_track
from agents.common.plain_q import PlainMember
from agents.common.prices import choose_prices
from agents.common.response import OutcomeModel, fit_members
from agents.common.support import Support, fit_support, load_support
from agents.common.tensors import Panel, panel
from agents.common.types import Array, Forecast
from marketing_env import LoggedDataset, MixedPolicy, Policy


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults serve logs of 10,000 to 500,000 users."""

    oracle: Literal["factored", "plain"] = "factored"  # with or without the outcome model
    folds: int = 4  # cross-fitted members; 1 learns faster and overestimates
    prices: int = 14  # best responses between almost no and unconstrained spending
    contacts: bool = False  # price contacts too, for `policy(budget, contacts=...)`
    width: int = 128  # of every hidden layer
    outcome_epochs: float = 8.0  # passes over the log for the outcome model
    steps: int = 300  # gradient steps per day and member for the values
    batch: int = 2048  # users per step
    pooled: int = 200_000  # most transitions of other days that teach each day, four for a user
    learning_rate: float = 5e-3  # of the values; the best of four on a payment_bonus log
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pessimism: float = 0.0  # standard deviations between members by which gains are lowered
    risk: float = 0.05  # accepted probability that estimation error makes the plan overspend
    pacing: bool = False  # solve the mixture again every morning for the money that is left
    workers: int = 0  # threads; 0: as many as there are cores. Results do not depend on it
    device: str = "cpu"
    progress: bool = True  # show progress bars on a terminal


@dataclass(frozen=True)
class Model:
    """A trained learner: answers every budget."""

    config: Config
    frontier: Frontier
    members: tuple[FactoredMember | PlainMember, ...] = field(repr=False)
    n_actions: int
    horizon: int
    n_obs: int
    support: Support | None = field(default=None, repr=False)  # None: the log tried everything

    def policy(self, budget: float, contacts: float = np.inf) -> Policy:
        """The best mixture of at most m + 1 policies at a budget.

        Args:
            budget: currency per user per campaign.
            contacts: cap on the mean number of incentives per user per campaign.

        Raises:
            ValueError: if a limit is below what giving no incentives takes, or contacts are capped
                though `Config.contacts` did not ask for their price.
        """
        weight = self.frontier.mix(self._limits(budget, contacts)).weight
        used = np.flatnonzero(weight)
        responder = self.responder
        plan = MixedPolicy(
            [BestResponse(responder, k, self.n_actions) for k in used.tolist()], weight[used]
        )
        if not self.config.pacing:
            return plan
        return PacedMixture(plan, responder, self.frontier, self.n_actions)

    def forecast(self, budget: float, contacts: float = np.inf) -> Forecast:
        """What the model expects of `policy(budget, contacts)`, with errors and certificate."""
        return self.frontier.forecast(self._limits(budget, contacts))

    @property
    def responder(self) -> Responder:
        prices = torch.tensor(self.frontier.price, dtype=torch.float32)
        values = ActionValues(self.members)
        return Responder(values, prices, self.support, self.config.pessimism)

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        tensors: dict[str, Tensor] = {}
        for e, member in enumerate(self.members):
            tensors |= {f"member.{e}.{k}": v for k, v in member.state().items()}
        if self.support is not None:
            tensors |= files.prefixed("support", self.support)
        arrays = {k: np.asarray(v).tolist() for k, v in asdict(self.frontier).items()}
        meta = {
            "config": asdict(self.config),
            "frontier": arrays,
            "n_actions": self.n_actions,
            "horizon": self.horizon,
            "n_obs": self.n_obs,
        }
        files.save_model(folder, "mixed_policy", tensors, meta)

    def _limits(self, budget: float, contacts: float) -> tuple[float, ...]:
        if self.config.contacts:
            return budget, contacts
        if contacts != np.inf:
            raise ValueError(f"contacts = {contacts!r}: allowed is inf; train with contacts=True")
        return (budget,)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    data, workers = panel(log, config.device), config.workers or os.cpu_count() or 1
    fold = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed))
    fold = fold % config.folds
    # One member is enough to choose prices; the factored oracle needs one for every fold.
    outcomes = fit_members(
        data, fold, config.folds if config.oracle == "factored" else 1, workers=workers, seed=seed,
        width=config.width, epochs=config.outcome_epochs, track=track, progress=config.progress,
    )  # fmt: skip
    support = fit_support(
        log, data, least=config.least_support, seed=seed, track=track,
        progress="support" if config.progress else None,
    )  # fmt: skip
    allowed, uses = support and support.allowed, limited(data, config)
    prices = choose_prices(
        data, outcomes[0], uses, config.prices, seed, allowed,
        progress="price range" if config.progress else None,
    )  # fmt: skip
    members = _members(data, outcomes, uses, len(prices), config, seed)
    first = backward_pass(
        data, fold, members, greedy_choice(prices, allowed, config.pessimism),
        (1 + prices.shape[1], len(prices)), pooled=min(config.pooled, 4 * data.n_users),
        seed=seed, workers=workers, track=track,
        progress="best responses" if config.progress else None,
    )  # fmt: skip
    frontier = _frontier(log, first, fold, prices, config.risk)
    for g, (reward, cost, *_) in enumerate(frontier.value):
        track("frontier/reward", reward, g)
        track("frontier/cost", cost, g)
    sizes = data.n_actions, data.horizon, data.obs.shape[-1]
    return Model(config, frontier, tuple(members), *sizes, support)


def limited(data: Panel, config: Config) -> Tensor:
    """(K, m - 1) what each incentive takes of the limits other than money."""
    contact = (torch.arange(data.n_actions, device=data.obs.device) > 0).float()[:, None]
    return contact[:, : int(config.contacts)]


def _members(
    data: Panel,
    outcomes: list[OutcomeModel],
    uses: Tensor,
    n_heads: int,
    config: Config,
    seed: int,
) -> list[FactoredMember | PlainMember]:
    schedule = Schedule(config.steps, config.batch, config.learning_rate)
    width, seeds = config.width, range(seed * 1000, seed * 1000 + config.folds)
    if config.oracle == "factored":
        return [
            FactoredMember(o, uses, n_heads, width=width, schedule=schedule, seed=s)
            for o, s in zip(outcomes, seeds, strict=True)
        ]
    n_obs, horizon = data.obs.shape[-1], data.horizon
    return [
        PlainMember(n_obs, horizon, uses, n_heads, width=width, schedule=schedule, seed=s)
        for s in seeds
    ]


def _frontier(
    log: LoggedDataset, first: Tensor, fold: Tensor, prices: Tensor, risk: float
) -> Frontier:
    """Means of V[0] over users; errors over users and between the members that judged them."""
    v = first.double()
    mean, error = v.mean(0), v.std(0) / len(v) ** 0.5
    folds = int(fold.max()) + 1
    if folds > 1:
        by_fold = torch.stack([v[fold == f].mean(0) for f in range(folds)])
        error = (error**2 + by_fold.var(0) / folds).sqrt()
    value = mean.T.numpy()
    # Networks round to single precision: without this, giving nothing would break a budget of 0.
    cost = value[:, 1:]
    value[:, 1:] = np.where(cost < 1e-6 * cost.max(axis=0), 0.0, cost)
    logged, logged_error = _logged(log, value.shape[1] - 1)
    price = prices.double().numpy()
    return Frontier(price, value, error.T.numpy(), logged, logged_error, risk)


def _logged(log: LoggedDataset, m: int) -> tuple[Array, Array]:
    """(1 + m,) campaign means per user of the log, and their standard errors."""
    measured = (log.reward, log.cost, log.action > 0)[: 1 + m]
    total = np.stack([np.where(log.valid, x, 0).sum(axis=1) for x in measured], axis=1)
    return total.mean(axis=0), total.std(axis=0) / len(total) ** 0.5


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    config = Config(**meta["config"])
    frontier = Frontier.from_lists(meta["frontier"])
    n_actions, horizon, n_obs = meta["n_actions"], meta["horizon"], meta["n_obs"]
    kind = FactoredMember if config.oracle == "factored" else PlainMember
    members = tuple(
        kind.rebuild(files.under(f"member.{e}", tensors), horizon) for e in range(config.folds)
    )
    support = load_support(tensors, n_obs, n_actions, horizon, config.least_support)
    return Model(config, frontier, members, n_actions, horizon, n_obs, support)
