"""Outcome-factored oracle: the noise of a logged day is integrated out by the outcome model.

    Q[t,g](s,a)   = sum_y P(y|s,a) * ( mbar(s,a,y) + G[t,g](s,a,y) )
    G[t,g](s,a,y) = E[ V[t+1,g](s') | s, a, y ]            regression on logged next states

Almost all noise of a logged target is in the day's outcome y: did the user respond, was the
incentive redeemed? Its probabilities come from the outcome model (`response.py`), whose labels are
pooled over all days; what is left to regress is nearly free of noise. The identity
E[V|s,a] = sum_y P(y|s,a) E[V|s,a,y] holds for any log; it only stops helping where outcomes say
nothing about the next state.

Who spends ten times as much has values ten times as large, and as noisy. So the regression is a
weighted one: targets are divided by the size of the user's own measurements (what a response
brings, what a redemption costs), which the outcome model knows, if that makes them more alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.nets import Schedule, fold_alike, minimise, mlp, seeded
from agents.common.values.fitted_q import AGE, ROWS, Lesson
from agents.common.values.response import Expected, OutcomeModel


class NextValue(nn.Module):
    """G[t]: the next morning's mean values, given state, incentive and outcome."""

    centre: Tensor  # (D, G) of the targets
    spread: Tensor  # (D, G)
    unit: Tensor  # (D,) mean size of the users' measurements
    sized: Tensor  # (D,) 1 where values follow the size, else 0

    def __init__(
        self, n_in: int, n_actions: int, n_outcomes: int, shape: tuple[int, int], width: int,
        joint: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("unit", torch.ones(shape[0]))
        self.register_buffer("sized", torch.zeros(shape[0]))
        self.trunk = nn.Sequential(mlp(n_in, width, 2), nn.Linear(width, joint))
        # What was offered and what came of it shifts the last hidden layer only, so that one
        # pass through the trunk serves every (incentive, outcome).
        self.shift = nn.Parameter(0.1 * torch.randn(n_actions, n_outcomes, joint))
        self.head = nn.Linear(joint, shape[0] * shape[1])

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor]) -> NextValue:
        """The network whose `state_dict` this is."""
        (n_actions, n_outcomes, joint), centre = state["shift"].shape, state["centre"]
        width, n_in = state["trunk.0.0.weight"].shape
        net = cls(n_in, n_actions, n_outcomes, (len(centre), centre.shape[1]), width, joint)
        net.load_state_dict(dict(state))
        return net.eval().requires_grad_(False)

    def given(self, h: Tensor, cell: Tensor) -> Tensor:
        """(n, D * G) standardised values of trunk output h, (n, joint), and cells of `shift`."""
        shift = nn.functional.embedding(cell, self.shift.flatten(0, 1))
        return self.head(nn.functional.silu(h + shift))

    def relative(self, size: Tensor) -> Tensor:
        """(n, D, 1) by what values are multiplied for users of these sizes (n, D)."""
        return _multiple(size, self.unit).pow(self.sized)[..., None]


def _multiple(size: Tensor, unit: Tensor) -> Tensor:
    """Sizes as multiples of their mean, within reason."""
    return (size / unit.clamp(min=1e-12)).clamp(0.01, 100.0)


def _variation(values: Tensor) -> Tensor:
    """(D,) spread of values (n, D, G) relative to their mean, over all heads."""
    return values.std(0).sum(-1) / values.mean(0).abs().sum(-1).clamp(min=1e-12)


class FactoredMember:
    """Q of every day from an outcome model and one `NextValue` a day but the last."""

    def __init__(
        self,
        outcomes: OutcomeModel,
        uses: Tensor,
        n_heads: int,
        *,
        width: int = 128,
        joint: int = 64,
        schedule: Schedule = Schedule(),
        seed: int = 0,
    ) -> None:
        """uses: (K, m - 1) what each incentive takes of the limits other than money."""
        self.outcomes, self.uses, self.schedule = outcomes, uses, schedule
        n_in, (n_actions, n_outcomes) = len(outcomes.mean) + AGE, outcomes.seen.shape
        shape = (2 + uses.shape[1], n_heads)
        with seeded(seed):
            self.net = NextValue(n_in, n_actions, n_outcomes, shape, width, joint).to(uses.device)
        self.days: dict[int, NextValue] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, lesson: Lesson, day: int) -> float | None:
        """Regress the next morning's values on (s, a, y); the last day has no next morning."""
        if day == self.outcomes.horizon - 1:
            return None
        if not len(lesson.user):
            self.days[day] = self.days.get(day + 1) or self._nothing()
            return None
        first, net = not self.days, self.net.requires_grad_(True)
        size = torch.cat([self._size(some, day) for some in lesson.obs.split(ROWS)])
        net.unit = size.mean(0)
        if first:
            alike = _variation(lesson.following / _multiple(size, net.unit)[..., None])
            net.sized = (alike < _variation(lesson.following)).float()
        relative = net.relative(size)
        following = lesson.following / relative
        net.centre = following.mean(0)
        net.spread = following.std(0, correction=0).clamp(min=1e-6)
        x = fold_alike(net, torch.cat([self._inputs(lesson.obs, day), lesson.age], dim=-1))
        goal = ((following - net.centre) / net.spread).flatten(1)
        cell = lesson.action * net.shift.shape[1] + lesson.outcome

        # `index_select` and `embedding` are a good deal faster than indexing.
        def loss(rows: Tensor) -> Tensor:
            h = net.trunk(x.index_select(0, rows))
            return nn.functional.mse_loss(net.given(h, cell[rows]), goal.index_select(0, rows))

        # Every network but the first starts from the next day's.
        schedule = self.schedule.first if first else self.schedule
        last = minimise(
            net.parameters(), loss, torch.arange(len(x)), **schedule._asdict(),
            generator=self.generator,
        )  # fmt: skip
        with torch.no_grad():
            # Transitions of other days may teach the shape of the values, not their level.
            if len(own := lesson.own.nonzero()[:, 0]):
                left = goal[own] - net.given(net.trunk(x[own]), cell[own])
                weight = relative[own] / relative[own].sum(0)
                missed = (left.unflatten(1, net.centre.shape) * weight).sum(0)
                net.centre = net.centre + net.spread * missed
        self.days[day] = NextValue.rebuild(net.state_dict())
        return last

    def q(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K, D, G) values-to-go at every price, or (n, K, D, 1) at one."""
        now = self._expected(obs, day)
        n, k = len(obs), now.probability.shape[1]
        measured = torch.cat([torch.stack(now.mean(), dim=-1), self.uses.expand(n, -1, -1)], -1)
        d, g = self.net.centre.shape
        if day == self.outcomes.horizon - 1:
            return measured[..., None].expand(-1, -1, -1, g if head is None else 1).contiguous()
        net = self.days[day]
        heads = slice(None) if head is None else head + g * torch.arange(d)
        h = net.trunk(nn.functional.pad(self._inputs(obs, day), (0, AGE)))
        # sum_y P(y|s,a) hidden(s,a,y): the layer after it is linear, and needed once.
        z = h.new_zeros(n, k, h.shape[1])
        for a, y in self.outcomes.seen.nonzero().tolist():
            hidden = nn.functional.silu(h + net.shift[a, y])
            z[:, a].addcmul_(now.probability[:, a, y, None], hidden)
        standard = nn.functional.linear(z, net.head.weight[heads], net.head.bias[heads])
        spread, centre = net.spread.flatten()[heads], net.centre.flatten()[heads]
        future = torch.addcmul(centre, standard, spread).unflatten(-1, (d, -1))
        relative = net.relative(self._size(obs, day, now))[:, None]
        return torch.addcmul(measured[..., None], future, relative)

    def _nothing(self) -> NextValue:
        """What a morning is worth after which nobody is seen."""
        state = self.net.state_dict()
        return NextValue.rebuild(state | {"spread": torch.zeros_like(state["spread"])})

    def _expected(self, obs: Tensor, day: int) -> Expected:
        return self.outcomes(obs, torch.full((len(obs),), day, device=obs.device))

    def _size(self, obs: Tensor, day: int, now: Expected | None = None) -> Tensor:
        """(n, D) size of the users' rewards, costs and further uses; the latter are alike."""
        if not self.outcomes.varies.any():
            return obs.new_ones(len(obs), 2 + self.uses.shape[1])
        size = (now or self._expected(obs, day)).size()
        return nn.functional.pad(size, (0, self.uses.shape[1]), value=1.0)

    def _inputs(self, obs: Tensor, day: int) -> Tensor:
        return self.outcomes.inputs(obs, torch.full((len(obs),), day, device=obs.device))

    def state(self, days: int | None = None) -> dict[str, Tensor]:
        """Everything that `rebuild` needs, of the first days or of all."""
        heads = torch.tensor(self.net.centre.shape[1])  # the days' networks say it too, if any
        known = {"uses": self.uses, "heads": heads}
        tensors = files.prefixed("outcomes", self.outcomes) | known
        for t in sorted(self.days)[:days]:
            tensors |= files.prefixed(f"next.{t}", self.days[t])
        return tensors

    @classmethod
    def rebuild(cls, tensors: Mapping[str, Tensor], horizon: int) -> FactoredMember:
        """The trained member that `state` described, for the days that it kept."""
        outcomes = OutcomeModel.rebuild(files.under("outcomes", tensors), horizon)
        kept = {t: files.under(f"next.{t}", tensors) for t in range(horizon - 1)}
        days = {t: NextValue.rebuild(state) for t, state in kept.items() if state}
        member = cls(outcomes, tensors["uses"], int(tensors["heads"]), width=8, joint=8)
        member.days = days
        return member
