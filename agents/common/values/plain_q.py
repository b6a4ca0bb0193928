"""Plain oracle: fitted Q iteration on logged outcomes.

    Q[t,g](s,a)  regresses  m_t + V[t+1,g](s')  on the logged (s, a)

for all prices at once (Ernst et al., Tree-Based Batch Mode Reinforcement Learning, JMLR 2005, for a
finite horizon). Targets carry all the noise of a day's outcome, so it needs far more users than the
outcome-factored oracle (`factored_q.py`), but it assumes nothing about outcomes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.nets import Schedule, calendar, fold_alike, minimise, mlp, moments, seeded
from agents.common.values.fitted_q import AGE, Lesson


class ActionValue(nn.Module):
    """Q[t] of every incentive and price, standardised by the day's targets."""

    mean: Tensor  # of the inputs
    scale: Tensor
    centre: Tensor  # (D, G) of the day's targets
    spread: Tensor  # (D, G)

    def __init__(self, n_in: int, n_actions: int, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.register_buffer("centre", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.n_actions, self.shape = n_actions, shape
        self.net = nn.Sequential(
            mlp(n_in, width, 2), nn.Linear(width, n_actions * shape[0] * shape[1])
        )

    @classmethod
    def rebuild(cls, state: Mapping[str, Tensor]) -> ActionValue:
        """The network whose `state_dict` this is."""
        (width, n_in), (d, g) = state["net.0.0.weight"].shape, state["centre"].shape
        net = cls(n_in, len(state["net.1.weight"]) // (d * g), (d, g), width)
        net.load_state_dict(dict(state))
        return net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, K, D, G)"""
        return self.of_standard(self.standard(x))

    def standard(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale

    def of_standard(self, x: Tensor) -> Tensor:
        return self.net(x).unflatten(-1, (self.n_actions, *self.shape))


class PlainMember:
    """Q of every day, one network a day."""

    def __init__(
        self,
        n_obs: int,
        horizon: int,
        uses: Tensor,
        n_heads: int,
        *,
        width: int = 128,
        schedule: Schedule = Schedule(),
        seed: int = 0,
    ) -> None:
        """uses: (K, m - 1) what each incentive takes of the limits other than money."""
        self.horizon, self.uses, self.schedule = horizon, uses, schedule
        with seeded(seed):
            shape = (2 + uses.shape[1], n_heads)
            self.net = ActionValue(n_obs + 3 + AGE, len(uses), shape, width).to(uses.device)
        self.days: dict[int, ActionValue] = {}
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, lesson: Lesson, day: int) -> float | None:
        """Regress the day's measurement plus the next morning's values on (s, a)."""
        if not len(lesson.user):
            self.days[day] = self.days.get(day + 1) or self._nothing()
            return None
        net = self.net.requires_grad_(True)
        measured = torch.cat([lesson.measured, self.uses[lesson.action]], dim=-1)
        target = measured[..., None] + lesson.following
        net.centre, net.spread = target.mean(0), target.std(0, correction=0).clamp(min=1e-6)
        goal = (target - net.centre) / net.spread
        x = self._inputs(lesson.obs, day, lesson.age)
        if not self.days:
            net.mean, net.scale = moments(x)
            # Where a column does not vary on this day, it may on those to come.
            net.scale[net.scale.isinf()] = 1.0
        x = fold_alike(net, net.standard(x))

        def loss(rows: Tensor) -> Tensor:
            taken = net.of_standard(x[rows])[torch.arange(len(rows)), lesson.action[rows]]
            return (taken - goal[rows]).square().mean()

        schedule = self.schedule if self.days else self.schedule.first
        last = minimise(
            net.parameters(), loss, torch.arange(len(x)), **schedule._asdict(),
            generator=self.generator,
        )  # fmt: skip
        with torch.no_grad():
            # Transitions of other days may teach the shape of the values, not their level.
            if len(own := lesson.own.nonzero()[:, 0]):
                taken = net.of_standard(x[own])[torch.arange(len(own)), lesson.action[own]]
                left = goal[own] - taken
                net.centre = net.centre + net.spread * left.mean(0)
        self.days[day] = ActionValue.rebuild(net.state_dict())
        return last

    def q(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K, D, G) values-to-go at every price, or (n, K, D, 1) at one."""
        net = self.days[day]
        x = self._inputs(obs, day, obs.new_zeros(len(obs), AGE))
        values = net(x) * net.spread + net.centre
        return values if head is None else values[..., head, None]

    def state(self) -> dict[str, Tensor]:
        """Everything that `rebuild` needs."""
        tensors = {"uses": self.uses}
        for t in sorted(self.days):
            tensors |= files.prefixed(f"day.{t}", self.days[t])
        return tensors

    @classmethod
    def rebuild(cls, tensors: Mapping[str, Tensor], horizon: int) -> PlainMember:
        """The trained member that `state` described."""
        days = {t: ActionValue.rebuild(files.under(f"day.{t}", tensors)) for t in range(horizon)}
        member = cls(
            len(days[0].mean) - 3 - AGE, horizon, tensors["uses"], days[0].shape[1], width=8
        )
        member.days = days
        return member

    def _nothing(self) -> ActionValue:
        """What a day is worth on which nobody is seen, nor later."""
        state = self.net.state_dict()
        return ActionValue.rebuild(state | {"spread": torch.zeros_like(state["spread"])})

    def _inputs(self, obs: Tensor, day: int, age: Tensor) -> Tensor:
        now = torch.full((len(obs),), day, device=obs.device)
        return torch.cat([obs, calendar(now, self.horizon), age], dim=-1)
