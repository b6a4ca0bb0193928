"""Mixed-policy offline constrained learner: the main method.

A campaign is a constrained Markov decision process: maximise the mean reward per user subject to
a mean cost of at most the budget. In the game between a price for money and policies, the policy
player's best responses to *every* price of a grid come from one backward pass over the log
(`common/fitted_q.py`); their values are read from the members that did not see the user; and a
linear program mixes at most two of them to meet any budget (`common/game.py`):

    max_w  sum_k w_k R_k   s.t.  sum_k w_k C_k <= B,  sum_k w_k = 1,  w >= 0

Each user draws one policy for the whole campaign. No retraining when the budget changes. The
certificate is the Lagrangian bound  min_g lambda_g B + (R_g - lambda_g C_g)  of the same values:
how much more the best policy could earn if the model were true.

Source: Cai et al., Marketing Budget Allocation with Offline Constrained Deep Reinforcement
Learning, WSDM 2023, arXiv 2309.02669; theory in arXiv 2108.12916.

Differences from the paper:
1. Oracle: one finite-horizon backward pass answers a whole grid of prices, instead of one offline
   reinforcement-learning run per round of the game.
2. The outcome of the logged day is integrated out by an outcome model instead of sampled.
3. Optimum by column generation over the grid instead of a sequence of feasibility problems; the
   whole frontier is kept, so any later budget is another two-policy mixture.
4. Policies are kept to incentives that the log tried (`common/support.py`).
5. Costs enter the program with an upper confidence margin (`Config.risk`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.fitted_q import ActionValues, NextValue, backward_pass, greedy, greedy_choice
from agents.common.game import solve_master
from agents.common.nets import Track, no_track
from agents.common.response import OutcomeModel, fit_outcomes
from agents.common.support import Support, fit_support, load_support
from agents.common.tensors import Panel, panel
from agents.common.types import Array, Forecast
from marketing_env import DayView, LoggedDataset, MixedPolicy


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults serve logs of 10,000 to 500,000 users."""

    folds: int = 3  # cross-fitted members; 1 learns faster and overestimates
    prices: int = 14  # best responses between almost no and unconstrained spending
    width: int = 128  # of every hidden layer
    outcome_epochs: float = 6.0  # passes over the log for the outcome model
    steps: int = 150  # gradient steps per day and member for the values
    batch: int = 2048  # users per step
    learning_rate: float = 5e-3  # of the values; the best of four on a payment_bonus log
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    risk: float = 0.05  # accepted probability that estimation error makes the plan overspend
    device: str = "cpu"
    progress: bool = True  # show progress bars on a terminal


@dataclass(frozen=True)
class Frontier:
    """What the learned policies are worth, by price; the last price is inf: no incentives."""

    price: Array  # (G,)
    reward: Array  # (G,) per user per campaign
    cost: Array  # (G,) currency per user per campaign
    reward_error: Array  # (G,) standard errors
    cost_error: Array  # (G,)


class BestResponse:
    """The greedy policy of one price."""

    def __init__(
        self,
        values: ActionValues,
        head: int,
        price: float,
        n_actions: int,
        support: Support | None = None,
    ) -> None:
        self.values, self.head, self.price, self.n_actions = values, head, price, n_actions
        self.support = support

    @torch.no_grad()
    def probs(self, view: DayView) -> Array:
        price = torch.tensor([self.price], dtype=torch.float32)
        action = np.zeros(len(view.obs), dtype=np.int64)
        if np.isfinite(self.price):
            obs = torch.as_tensor(np.ascontiguousarray(view.obs))
            for rows in torch.arange(len(obs)).split(8192):
                q = self.values.mean(obs[rows], view.day, self.head)
                allowed = self.support.allowed(obs[rows], view.day) if self.support else None
                action[rows.numpy()] = greedy(q, price, allowed)[:, 0].numpy()
        return np.asarray(np.eye(self.n_actions)[action])


@dataclass(frozen=True)
class Model:
    """A trained learner: answers every budget."""

    config: Config
    frontier: Frontier
    values: ActionValues = field(repr=False)
    n_actions: int
    horizon: int
    n_obs: int
    support: Support | None = field(default=None, repr=False)  # None: the log tried everything

    def policy(self, budget: float) -> MixedPolicy:
        """The best mixture of at most two policies at a budget (currency per user per campaign).

        Raises:
            ValueError: if the budget is below the cost of giving no incentives.
        """
        mixture = self._mixture(budget)
        f = self.frontier
        used = np.flatnonzero(mixture.weight).tolist()
        parts = [
            BestResponse(self.values, k, f.price[k], self.n_actions, self.support) for k in used
        ]
        return MixedPolicy(parts, mixture.weight[used])

    def forecast(self, budget: float) -> Forecast:
        """What the model expects of `policy(budget)`, with errors and certificate."""
        mixture, f = self._mixture(budget), self.frontier
        w = mixture.weight
        finite = np.where(np.isinf(f.price), 0, f.price)
        limit = np.multiply(finite, budget, where=finite > 0, out=np.zeros(len(finite)))
        bounds = np.where(np.isinf(f.price), np.inf, limit + f.reward - finite * f.cost)
        reward = float(w @ f.reward)
        return Forecast(
            reward=reward,
            reward_error=float(w @ f.reward_error),
            cost=float(w @ f.cost),
            cost_error=float(w @ f.cost_error),
            bound=max(float(bounds.min()), reward),
            baseline=float(f.reward[-1]),
            prices=tuple(f.price[w > 0].tolist()),
            weights=tuple(w[w > 0].tolist()),
        )

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        tensors: dict[str, Tensor] = {}
        for e, (outcomes, days) in enumerate(
            zip(self.values.outcomes, self.values.following, strict=True)
        ):
            tensors |= files.prefixed(f"outcomes.{e}", outcomes)
            for t, net in enumerate(days):
                tensors |= files.prefixed(f"next.{e}.{t}", net)
        if self.support is not None:
            tensors |= files.prefixed("support", self.support)
        meta = {
            "config": asdict(self.config),
            "frontier": {k: v.tolist() for k, v in asdict(self.frontier).items()},
            "n_actions": self.n_actions,
            "horizon": self.horizon,
            "n_obs": self.n_obs,
            "n_basis": self.values.outcomes[0].basis.shape[1],
        }
        files.save_model(folder, "mixed_policy", tensors, meta)

    def _mixture(self, budget: float):  # type: ignore[no-untyped-def]
        if not budget >= 0:
            raise ValueError(f"budget = {budget!r}: allowed are numbers of at least 0")
        f = self.frontier
        margin = NormalDist().inv_cdf(1 - self.config.risk) * f.cost_error
        # Giving nothing is no estimate: its cost is what the log says, without a margin.
        margin[-1] = 0.0
        return solve_master(np.stack([f.reward, f.cost + margin], axis=1), budget)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    data = panel(log, config.device)
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(data.n_users, generator=generator) % config.folds
    outcomes = [
        fit_outcomes(
            data,
            ((fold != f) | (config.folds == 1)).nonzero()[:, 0],
            width=config.width,
            epochs=config.outcome_epochs,
            seed=seed * 1000 + f,
            track=track,
            tag=f"outcomes/member_{f}",
            progress=f"outcome model {f + 1}/{config.folds}" if config.progress else None,
        )
        for f in range(config.folds)
    ]
    support = fit_support(
        log, data, least=config.least_support, seed=seed, track=track,
        progress="support" if config.progress else None,
    )  # fmt: skip
    prices = choose_prices(data, outcomes[0], config, seed, support)
    values, first = backward_pass(
        data, fold, outcomes, greedy_choice(prices, _allowed(data, support)), len(prices),
        width=config.width, steps=config.steps, batch=config.batch, lr=config.learning_rate,
        seed=seed, track=track, progress="best responses" if config.progress else None,
    )  # fmt: skip
    frontier = _frontier(first, fold, prices)
    for g in range(len(prices)):
        track("frontier/reward", frontier.reward[g], g)
        track("frontier/cost", frontier.cost[g], g)
    n_obs = data.obs.shape[-1]
    return Model(config, frontier, values, data.n_actions, data.horizon, n_obs, support)


def _allowed(data: Panel, support: Support | None) -> Callable[[slice, int], Tensor] | None:
    """Which incentives the log supports for its own users."""
    return None if support is None else lambda r, day: support.allowed(data.obs[r, day], day)


def choose_prices(
    data: Panel,
    outcomes: OutcomeModel,
    config: Config,
    seed: int,
    support: Support | None = None,
) -> Tensor:
    """Prices at which spending falls geometrically from unconstrained to 1 %, then inf.

    A rough backward pass on a few users over a wide grid shows what each price would spend. The
    wide grid is centred on what a unit of money earns on the same day.
    """
    users = torch.randperm(data.n_users, generator=torch.Generator().manual_seed(seed))[:6000]
    few = data.take(users)
    wide = _day_price(few, outcomes) * torch.logspace(-2.5, 1.8, 18)
    wide = torch.cat([torch.zeros(1), wide])
    _, first = backward_pass(
        few, torch.zeros(few.n_users, dtype=torch.long), [outcomes],
        greedy_choice(wide, _allowed(few, support)), len(wide),
        width=64, joint=48, steps=30, batch=1024, seed=seed,
        progress="price range" if config.progress else None,
    )  # fmt: skip
    # Spending must fall with the price; a rough pass may disagree with itself by a little.
    spend = first[:, 1].mean(0).double().numpy()
    spend = np.minimum.accumulate(np.maximum(spend, 1e-6 * abs(spend[0]) + 1e-12))
    wanted = np.geomspace(0.9, 0.01, config.prices - 1) * spend[0]
    log_price = np.interp(-np.log(wanted), -np.log(spend[1:]), np.log(wide[1:].numpy()))
    grid = np.unique(np.concatenate([[0.0], np.exp(log_price), [np.inf]]))
    return torch.tensor(grid, dtype=torch.float32)


def _day_price(data: Panel, outcomes: OutcomeModel) -> float:
    """Reward that one unit of money buys on the day it is offered, over all incentives."""
    rows = data.user_days()[:: data.horizon + 1]  # every weekday in turn
    user, day = rows // data.horizon, rows % data.horizon
    with torch.no_grad():
        reward, cost = outcomes(data.obs[user, day], day).mean()
    gain = (reward[:, 1:] - reward[:, :1]).abs().mean()
    extra = (cost[:, 1:] - cost[:, :1]).abs().mean()
    return float(gain / extra.clamp(min=1e-9)) or 1.0


def _frontier(first: Tensor, fold: Tensor, prices: Tensor) -> Frontier:
    """Means of V[0] over users; errors over users and between the members that judged them."""
    v = first.double()
    mean, error = v.mean(0), v.std(0) / len(v) ** 0.5
    folds = int(fold.max()) + 1
    if folds > 1:
        by_fold = torch.stack([v[fold == f].mean(0) for f in range(folds)])
        error = (error**2 + by_fold.var(0) / folds).sqrt()
    (reward, cost), (reward_error, cost_error) = mean.numpy(), error.numpy()
    # Networks round to single precision: without this, giving nothing would break a budget of 0.
    cost = np.where(cost < 1e-6 * cost.max(), 0.0, cost)
    return Frontier(prices.double().numpy(), reward, cost, reward_error, cost_error)


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    config = Config(**meta["config"])
    frontier = Frontier(**{k: np.array(v, dtype=float) for k, v in meta["frontier"].items()})
    n_actions, horizon, n_obs = meta["n_actions"], meta["horizon"], meta["n_obs"]
    outcomes, following = [], []
    for e in range(config.folds):
        model = OutcomeModel(n_obs, n_actions, meta["n_basis"], horizon, config.width)
        model.load_state_dict(files.under(f"outcomes.{e}", tensors))
        outcomes.append(model.eval().requires_grad_(False))
        days = []
        for t in range(horizon - 1):
            state = files.under(f"next.{e}.{t}", tensors)
            net = NextValue(
                n_obs + 3, n_actions, len(frontier.price), config.width, state["shift"].shape[2]
            )
            net.load_state_dict(state)
            days.append(net.eval().requires_grad_(False))
        following.append(days)
    values = ActionValues(outcomes, following, len(frontier.price))
    support = load_support(tensors, n_obs, n_actions, horizon, config.least_support)
    return Model(config, frontier, values, n_actions, horizon, n_obs, support)
