"""Families of policies that one number steers: what each is worth, and the mixture for a budget.

A method that takes a price (a budget, a return) as an input learns one network and has a policy
for every price of a grid. Its own values flatter it, for it chose what looks best in them. So a
`Judge` evaluates each policy on users from whom the network did not learn, by fitted Q evaluation
(Le et al., Batch Policy Learning under Constraints, ICML 2019, algorithm 3), and a linear program
mixes at most two of them for a budget (`frontier.py`).

A method writes its `Config`, a `Family`, a `fit` that returns a `FamilyModel` and a `load` that
calls `load_family`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from agents.common import files
from agents.common.games.frontier import Frontier
from agents.common.nets import Track, no_track
from agents.common.types import Array, Forecast
from agents.common.values.factored_q import FactoredMember
from agents.common.values.fitted_q import Allowed
from agents.common.values.ope import FittedQEvaluation, Probabilities
from agents.common.values.prices import choose_prices
from agents.common.values.responses import first_morning, frontier_of, taught
from marketing_env import ConstantPolicy, DayView, LoggedDataset, MixedPolicy, Policy

_JUDGED_STEPS = 100  # most gradient steps a day of a judge, and no more than its learner took
_ROWS = 8192  # users served at once
C = TypeVar("C")


class Sizes(NamedTuple):
    """What a network is built for."""

    n_obs: int
    n_actions: int
    horizon: int


class Family(Protocol):
    """Policies of one network, one for each finite price of a frontier."""

    def policy(self, head: int) -> Policy: ...

    def tensors(self) -> dict[str, Tensor]:
        """All that the method's `load` needs to rebuild the family."""
        ...


class Memoryless:
    """A policy that looks at today's observation only."""

    def __init__(self, act: Callable[[Tensor, int], Tensor]) -> None:
        """act: from observations (n, d) and the day to action probabilities (n, K)."""
        self.act = act

    def probs(self, view: DayView) -> Array:
        obs = torch.as_tensor(np.ascontiguousarray(view.obs))
        parts = [self.act(rows, view.day) for rows in obs.split(_ROWS)]
        return np.asarray(torch.cat(parts).double().numpy())


@dataclass(frozen=True)
class Verdict:
    """What the policies of a family are worth, and to whom else it can be told."""

    frontier: Frontier
    # Members of the judge, for the first morning; none where a simulator said it.
    members: tuple[FactoredMember, ...] = field(default=(), repr=False)
    taught: Array | float = 0.0  # (G, D) errors of what the members learned

    def of_users(self, view: DayView, policies: Sequence[Policy]) -> Verdict:
        """What is expected of other users, by their first morning.

        Args:
            policies: of the G rows of the frontier.
        """
        totals = torch.zeros(len(self.members), *self.frontier.value.shape, dtype=torch.float64)
        for rows in torch.arange(len(view.obs)).split(_ROWS):
            some = view._replace(obs=view.obs[rows], bucket=view.bucket[rows])
            act = torch.as_tensor(np.stack([p.probs(some) for p in policies], axis=-1))
            obs = torch.as_tensor(some.obs)
            for total, member in zip(totals, self.members, strict=True):
                total += torch.einsum("nkdg,nkg->gd", member.q(obs, view.day).double(), act)
        means = totals / len(view.obs)
        # The jackknife of `responses.mean_and_error`.
        between = (len(means) - 1) * means.var(0, correction=0)
        error = np.sqrt(np.square(self.taught) + between.numpy())
        return replace(self, frontier=self.frontier.of_users(means.mean(0).numpy(), error))

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"judge.{f}.{name}": tensor
            for f, member in enumerate(self.members)
            for name, tensor in member.state(days=1).items()
        }

    def lists(self) -> dict[str, Any]:
        """What JSON keeps."""
        return {"frontier": self.frontier.lists(), "taught": np.asarray(self.taught).tolist()}

    @classmethod
    def load(cls, meta: Mapping[str, Any], tensors: Mapping[str, Tensor], horizon: int) -> Verdict:
        """What `lists` and `tensors` wrote."""
        kept = (files.under(f"judge.{f}", tensors) for f in count())
        members = [FactoredMember.rebuild(k, horizon) for k in takewhile(bool, kept)]
        frontier = Frontier.from_lists(meta["frontier"])
        return cls(frontier, tuple(members), np.array(meta["taught"]))


class Judge:
    """Says what policies are worth, from a log that taught them nothing."""

    def __init__(self, log: LoggedDataset, *, track: Track = no_track, **settings: Any) -> None:
        """settings: of `FittedQEvaluation`."""
        self.evaluation = FittedQEvaluation(log, track=track, **settings)
        self.log, self.track = log, track
        self.money = torch.zeros(self.evaluation.data.n_actions, 0)  # the only limit

    def prices(self, count: int, allowed: Allowed | None = None) -> Tensor:
        """(G + 1, 1) prices from unconstrained to almost no spending; the last is inf."""
        known = self.evaluation
        return choose_prices(
            known.data, known.outcomes[0], self.money, count, known.seed, allowed,
            steps=known.schedule.steps, progress="price range" if known.progress else None,
        )  # fmt: skip

    def verdict(self, act: Probabilities, prices: Tensor, risk: float) -> Verdict:
        """Values and errors of G policies and, last, of giving nothing.

        Args:
            prices: (G + 1, 1), the last is inf; marginal returns at which the policies stop
                spending, 0 if they know none.
            risk: accepted probability that a mixture violates its budget.
        """

        def with_nothing(obs: Tensor, user: Tensor, day: int) -> Tensor:
            nothing = torch.zeros(len(obs), len(self.money), 1)
            nothing[:, 0] = 1
            return torch.cat([act(obs, user, day), nothing], dim=2)

        members, first = self.evaluation.learn(with_nothing, len(prices), self.money)
        found = frontier_of(self.log, first, self.evaluation.fold, prices, risk)
        # In the memory layout that a saved model is read into, so that sums round alike.
        value, error = np.ascontiguousarray(found.value), np.ascontiguousarray(found.error)
        frontier = replace(found, value=value, error=error)
        for g, (reward, cost) in enumerate(frontier.value):
            self.track("frontier/reward", reward, g)
            self.track("frontier/cost", cost, g)
        return Verdict(frontier, tuple(members), taught(self.log, first))


@dataclass(frozen=True)
class FamilyModel:
    """A trained family: answers every budget."""

    method: str  # file of `agents` that loads it
    config: Any  # the method's `Config`
    family: Family = field(repr=False)
    verdict: Verdict
    sizes: Sizes

    @property
    def frontier(self) -> Frontier:
        """What the policies earn and cost."""
        return self.verdict.frontier

    def policy(self, budget: float) -> Policy:
        """The best mixture of at most two policies; budget in currency per user per campaign.

        Raises:
            ValueError: if the budget is negative or no number.
        """
        weight = self.frontier.mix((budget,)).weight
        used = np.flatnonzero(weight)
        return MixedPolicy([self.policies[k] for k in used], weight[used])

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """One for each price; mixtures share them, so that each is evaluated once."""
        return tuple(self._follow(head) for head in range(len(self.frontier.price)))

    def forecast(self, budget: float) -> Forecast:
        """What held-out users say of `policy(budget)`, with errors."""
        return self.frontier.forecast((budget,))

    def for_users(self, obs: Array) -> FamilyModel:
        """The same model, planned for users of whom (n, d) observations of day 0 are known.

        Where a simulator measured the policies, its users are all there are: nothing changes.

        Raises:
            ValueError: if there are no users, their columns are not the log's, or a number is not
                finite.
        """
        view = first_morning(obs, self.sizes.n_obs)
        if not self.verdict.members:
            return self
        return replace(self, verdict=self.verdict.of_users(view, self.policies))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        meta = {
            "config": asdict(self.config),
            "sizes": self.sizes._asdict(),
            **self.verdict.lists(),
        }
        tensors = self.family.tensors() | self.verdict.tensors()
        files.save_model(folder, self.method, tensors, meta)

    def _follow(self, head: int) -> Policy:
        if head == self.frontier.idle:
            return ConstantPolicy(0, self.sizes.n_actions)
        return self.family.policy(head)


def load_family(
    folder: str | Path,
    config: Callable[..., C],
    rebuild: Callable[[C, Mapping[str, Tensor], Sizes], Family],
) -> FamilyModel:
    """Read a model that `FamilyModel.save` wrote.

    Args:
        config: the method's `Config`.
        rebuild: makes the family from its tensors.
    """
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    settings, sizes = config(**meta["config"]), Sizes(**meta["sizes"])
    family = rebuild(settings, tensors, sizes)
    verdict = Verdict.load(meta, tensors, sizes.horizon)
    return FamilyModel(meta["method"], settings, family, verdict, sizes)


def recorded(choice: Tensor, n_actions: int) -> Probabilities:
    """G policies whose choices on every user-day of the judge's log, (n, T, G), are known."""

    def act(obs: Tensor, user: Tensor, day: int) -> Tensor:
        return torch.nn.functional.one_hot(choice[user, day], n_actions).movedim(-1, 1)

    return act


def sizes_of(log: LoggedDataset) -> Sizes:
    return Sizes(log.obs.shape[2], log.n_actions, log.horizon)


def hold_out(log: LoggedDataset, share: float, seed: int) -> tuple[LoggedDataset, LoggedDataset]:
    """Users to learn from and users to judge by, who both know every incentive of the log."""
    return declared(log).split(1 - share, seed)


def with_judge(
    log: LoggedDataset, config: Any, seed: int, track: Track
) -> tuple[LoggedDataset, Judge]:
    """Users to learn from, and a judge that has the others, as a method's `config` wants them."""
    learn, test = hold_out(log, config.judge_share, seed)
    return learn, judge_of(test, config, seed, track)


def judge_of(test: LoggedDataset, config: Any, seed: int, track: Track) -> Judge:
    """A judge who has these users, as a method's `config` wants him."""
    return Judge(
        test, width=config.width, epochs=config.outcome_epochs,
        steps=min(config.steps, _JUDGED_STEPS), seed=seed, track=track, progress=config.progress,
    )  # fmt: skip


def declared(log: LoggedDataset) -> LoggedDataset:
    """The log, with all its incentives named, so that parts of it know them too."""
    levels = {"incentives": list(range(log.n_actions))}
    return replace(log, meta=levels | dict(log.meta))
