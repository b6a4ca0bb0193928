"""Best responses to a grid of prices, learned from a log in one pass, and what they are worth.

The policy player of the game between prices and policies (Cai et al., WSDM 2023): methods that
play it differ only in how they turn the responses into one policy for a budget.

    outcome model -> support -> prices -> members, one pass backwards (`fitted_q.py`) -> frontier

A method's `Config` extends `Settings`; its `fit` calls `learn_responses`, its model keeps the
`Responses`, whose `mixed(weight)` is the policy that gives user i response k with probability
`weight[k]` for the whole campaign.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.bounds import check
from agents.common.games.frontier import LEEWAY, Frontier, without_dust
from agents.common.nets import Schedule, Track, no_track
from agents.common.tensors import Panel, panel
from agents.common.types import Array
from agents.common.values.acting import BestResponse, Responder
from agents.common.values.dispersion import dispersion
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import ActionValues, backward_pass, greedy_choice
from agents.common.values.plain_q import PlainMember
from agents.common.values.prices import choose_prices
from agents.common.values.response import OutcomeModel, fit_members
from agents.common.values.support import Support, fit_support, load_support, silences
from marketing_env import DayView, LoggedDataset, MixedPolicy

_FEWEST = 20  # users of a log
_UNHEARD = 0.05  # share of user-days that may lack support for giving nothing


@dataclass(frozen=True)
class Settings:
    """Settings of the oracle; the defaults serve logs of 10,000 to 500,000 users."""

    oracle: Literal["factored", "plain"] = "factored"  # with or without the outcome model
    folds: int = 4  # cross-fitted members; 1 learns faster and overestimates
    prices: int = 20  # best responses between almost no and unconstrained spending
    width: int = 128  # of every hidden layer
    outcome_epochs: float = 8.0  # passes over the log for the outcome model
    steps: int = 600  # gradient steps per day and member; 300 are enough for small logs
    batch: int = 512  # users per step; 2,048 are no better at the same number of steps
    pooled: int = 100_000  # most transitions of other days that teach each day, eight for a user
    learning_rate: float = 2e-3  # of the values
    least_support: float = 0.01  # logging probability below which an incentive is not chosen
    pessimism: float = 0.0  # standard deviations between members by which gains are lowered
    risk: float = 0.05  # accepted probability that a plan violates its budget ...
    leeway: float = LEEWAY  # ... by spending more than this share beyond it
    workers: int = 0  # threads; 0: as many as there are cores. Results do not depend on it
    device: str = "cpu"
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Responses:
    """Trained best responses, one for each row of `frontier.price`."""

    frontier: Frontier
    members: tuple[FactoredMember | PlainMember, ...] = field(repr=False)
    n_actions: int
    horizon: int
    n_obs: int
    pessimism: float = 0.0
    support: Support | None = field(default=None, repr=False)  # None: the log tried everything
    # (G, 1 + m) by how much values judged by held-out users exceed what the acting members expect.
    excess: Array | float = field(default=0.0, repr=False)
    errors: Array | float = field(default=0.0, repr=False)  # (G, 1 + m) of what was learned
    # One for each price; mixtures share them, so that each is evaluated once.
    policies: tuple[BestResponse, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        responder, heads = self.responder, range(len(self.frontier.price))
        made = tuple(BestResponse(responder, k, self.n_actions) for k in heads)
        object.__setattr__(self, "policies", self.policies or made)

    @property
    def responder(self) -> Responder:
        prices = torch.tensor(self.frontier.price, dtype=torch.float32)
        return Responder(ActionValues(self.members), prices, self.support, self.pessimism)

    def mixed(self, weight: Array) -> MixedPolicy:
        """Each user follows response k with probability `weight[k]`, (G,)."""
        used = np.flatnonzero(weight)
        return MixedPolicy([self.policies[k] for k in used], np.asarray(weight)[used])

    def planned(self, risk: float, leeway: float) -> Responses:
        """The same responses, for plans of this caution."""
        return replace(self, frontier=replace(self.frontier, risk=risk, leeway=leeway))

    def for_users(self, obs: Array) -> Responses:
        """The same responses, planned for a campaign of these users instead of the log's.

        A small log's users are a draw: others may spend a tenth more. What the members expect of
        the new users, corrected by what held-out users of the log say, takes the place of the log's
        mean, and errors of costs are those of what was learned.

        Args:
            obs: (n, d) the users' observations on the first morning.

        Raises:
            ValueError: if there are no users, their columns are not the log's, or a number is not
                finite.
        """
        value = self.responder.worth(first_morning(obs, self.n_obs)) + self.excess
        error = np.broadcast_to(self.errors, value.shape)
        return replace(self, frontier=self.frontier.of_users(value, error))

    def save(
        self,
        folder: Any,
        method: str,
        config: Settings,
        more_tensors: Mapping[str, Tensor] | None = None,
        **more: Any,
    ) -> None:
        """Write `model.safetensors` and `model.json`; `more` is kept in the latter."""
        tensors = dict(more_tensors or {})
        for e, member in enumerate(self.members):
            tensors |= {f"member.{e}.{k}": v for k, v in member.state().items()}
        if self.support is not None:
            tensors |= files.prefixed("support", self.support)
        sizes = {"n_actions": self.n_actions, "horizon": self.horizon, "n_obs": self.n_obs}
        other = {"excess": self.excess, "errors": self.errors}
        known = {"frontier": self.frontier.lists()} | {
            k: np.asarray(v).tolist() for k, v in other.items()
        }
        meta = {"config": asdict(config), **known, **sizes, **more}
        files.save_model(folder, method, tensors, meta)

    @classmethod
    def load(cls, folder: Any, config: Settings, meta: Mapping[str, Any]) -> Responses:
        """What `save` wrote; `config` and `meta` come from the same `model.json`."""
        tensors = files.read_tensors(folder)
        n_actions, horizon, n_obs = (meta[size] for size in ("n_actions", "horizon", "n_obs"))
        kind = FactoredMember if config.oracle == "factored" else PlainMember
        members = tuple(
            kind.rebuild(files.under(f"member.{e}", tensors), horizon) for e in range(config.folds)
        )
        support = load_support(tensors, n_obs, n_actions, horizon, config.least_support)
        return cls(
            Frontier.from_lists(meta["frontier"]), members, n_actions, horizon, n_obs,
            config.pessimism, support, np.array(meta["excess"]), np.array(meta["errors"]),
        )  # fmt: skip


def learn_responses(
    log: LoggedDataset,
    config: Settings = Settings(),
    seed: int = 0,
    *,
    contacts: bool = False,
    track: Track = no_track,
) -> Responses:
    """One pass over a log: best responses to every price of a grid, and their values.

    Args:
        contacts: put a price on contacts too.
        track: receives learning curves, like TensorBoard's `add_scalar`.

    Raises:
        ValueError: if the log cannot say what incentives add (`check_log`).
    """
    check_log(log, config.folds)
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
    allowed, uses = support and support.allowed, limited(data, contacts)
    prices = choose_prices(
        data, outcomes[0], uses, config.prices, seed, allowed, steps=config.steps,
        progress="price range" if config.progress else None,
    )  # fmt: skip
    members = _members(data, outcomes, uses, len(prices), config, seed)
    first = backward_pass(
        data, fold, members, greedy_choice(prices, allowed, config.pessimism),
        (1 + prices.shape[1], len(prices)), pooled=min(config.pooled, 8 * data.n_users),
        seed=seed, workers=workers, track=track,
        progress="best responses" if config.progress else None,
    )  # fmt: skip
    frontier = frontier_of(log, first, fold, prices, config.risk, config.leeway)
    ratio, ratio_error = dispersion(data, fold, outcomes)
    frontier = replace(frontier, dispersion=ratio, dispersion_error=ratio_error)
    if sum(s.share for s in silences(support, log) if s.incentive == 0) > _UNHEARD:
        # What those users do without an incentive is a guess, and so is any gain over it.
        frontier = replace(frontier, logged_error=np.full_like(frontier.logged_error, np.inf))
    for g, (reward, cost, *_) in enumerate(frontier.value):
        track("frontier/reward", reward, g)
        track("frontier/cost", cost, g)
    sizes = data.n_actions, data.horizon, data.obs.shape[-1]
    responder = Responder(ActionValues(members), prices, support, config.pessimism)
    apart = first.cpu() - expected(responder, data, log.bucket)
    seen = data.valid.any(1).cpu()
    excess, disagreement = mean_and_error(apart[seen], fold[seen])
    errors = np.hypot(taught(log, first, config.least_support), disagreement)
    return Responses(frontier, tuple(members), *sizes, config.pessimism, support, excess, errors)


def check_log(log: LoggedDataset, folds: int) -> None:
    """Whether a log can teach and judge at all.

    Raises:
        ValueError: if it has too few users, or nobody was ever left without an incentive.
    """
    users, least = int(log.valid.any(axis=1).sum()), max(_FEWEST, 2 * folds)
    if users < least:
        raise ValueError(
            f"the log shows {users} users: allowed are at least {least}, for some to learn from"
            " and others to judge by"
        )
    if not (log.valid & (log.action == 0)).any():
        raise ValueError(
            "action is never 0 in the log: needed are some user-days without an incentive,"
            " for nothing else tells what the incentives add"
        )


def taught(log: LoggedDataset, first: Tensor, least: float = 0.01) -> Array:
    """(G, D) errors of what values V[0] of its users, (n, D, G), taught about other users."""
    sampling = (first.double().var(0) / len(first)).T.cpu().numpy()
    return np.asarray(np.sqrt(rarity(log, least) * sampling))


def rarity(log: LoggedDataset, least: float) -> float:
    """How many times the variance of a mean over users is that of what they taught: 1 or more.

    An incentive that is given with probability p instead of 1 / K teaches from K p times as many
    user-days; this is the mean of 1 / (K p) over incentives, from the logged ones.
    """
    p = np.maximum(log.propensity[log.valid], least)
    return float(np.mean((log.n_actions * p) ** -2.0))


def first_morning(obs: Array, n_obs: int) -> DayView:
    """Users whom a campaign will meet; members share them out by chance.

    Raises:
        ValueError: if there are no users, their columns are not the log's, or a number is not
            finite.
    """
    rows = np.ascontiguousarray(obs, dtype=np.float32)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != n_obs:
        raise ValueError(f"obs has shape {rows.shape}: allowed is (users, {n_obs})")
    if not (finite := np.isfinite(rows)).all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"obs row {row}, column {column} is {rows[row, column]}: allowed are finite numbers"
        )
    return DayView(rows, np.random.default_rng(0).random(len(rows)), 0, np.inf)


def expected(responder: Responder, data: Panel, bucket: Array) -> Tensor:
    """(n, D, G) what the members that serve a user expect on the first day he is seen."""
    found = torch.empty(data.n_users, 1 + responder.prices.shape[1], len(responder.prices))
    start = data.valid.int().argmax(1).cpu()
    for day in start.unique().tolist():
        users = (start == day).nonzero()[:, 0]
        obs = data.obs[users, day].cpu().numpy()
        for rows, _, value in responder.proposals(DayView(obs, bucket[users], day, np.inf)):
            found[users[rows]] = value.cpu()
    return found


def limited(data: Panel, contacts: bool) -> Tensor:
    """(K, m - 1) what each incentive takes of the limits other than money."""
    contact = (torch.arange(data.n_actions, device=data.obs.device) > 0).float()[:, None]
    return contact[:, : int(contacts)]


def _members(
    data: Panel,
    outcomes: list[OutcomeModel],
    uses: Tensor,
    n_heads: int,
    config: Settings,
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


def frontier_of(
    log: LoggedDataset,
    first: Tensor,
    fold: Tensor,
    prices: Tensor,
    risk: float,
    leeway: float = LEEWAY,
) -> Frontier:
    """What policies are worth by the values V[0] of users, (n, D, G), judged fold by fold."""
    value, error = mean_and_error(first, fold)
    if not np.isfinite(value).all():
        raise ValueError("obs: learned values are not finite; allowed are numbers of usual size")
    value = without_dust(value)
    logged, logged_error = _logged(log, value.shape[1] - 1)
    price = prices.double().numpy()
    return Frontier(price, value, error, logged, logged_error, risk, leeway)


def mean_and_error(first: Tensor, fold: Tensor) -> tuple[Array, Array]:
    """(G, D) means over users of (n, D, G) values, and their standard errors.

    These are over users and between the members that judged them. Members share most of their users
    and differ less than their mean errs: the delete-a-group jackknife (Quenouille 1956; Kott,
    J. Off. Stat. 2001) multiplies their variance by (F - 1)^2.
    """
    v = first.double().cpu()
    mean, variance = v.mean(0), v.var(0) / len(v)
    folds = int(fold.max()) + 1
    if folds > 1:
        by_fold = torch.stack([v[fold == f].mean(0) for f in range(folds)])
        between = (by_fold.var(0) - folds * variance).clamp(min=0)  # beyond that of their users
        variance = variance + (folds - 1) ** 2 * between / folds
    # In one order of memory, as after loading: sums in another one differ in their last digit.
    return mean.T.contiguous().numpy(), variance.sqrt().T.contiguous().numpy()


def _logged(log: LoggedDataset, m: int) -> tuple[Array, Array]:
    """(1 + m,) campaign means per user of the log, and their standard errors."""
    measured = (log.reward, log.cost, log.action > 0)[: 1 + m]
    total = np.stack([np.where(log.valid, x, 0).sum(axis=1) for x in measured], axis=1)
    return total.mean(axis=0), total.std(axis=0) / len(total) ** 0.5
