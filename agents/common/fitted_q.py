"""All best responses from one backward pass: outcome-factored fitted Q iteration.

For a grid of prices lambda_g, and for every incentive a, the pair (reward-to-go, cost-to-go) of
the lambda_g-greedy policy is

    Q[t,g](s,a)   = sum_y P(y|s,a) * ( (rbar, cbar)(s,a,y) + G[t,g](s,a,y) )
    G[t,g](s,a,y) = E[ V[t+1,g](s') | s, a, y ]                    regression on logged next states
    V[t,g](s)     = Q[t,g](s, a*),   a* = argmax_a Q_r[t,g](s,a) - lambda_g * Q_c[t,g](s,a)

Almost all noise of a logged target is in the day's outcome y; it is integrated out by the outcome
model (`response.py`), whose labels are pooled over all days, and what is left to regress is
nearly free of noise. The identity E[V|s,a] = sum_y P(y|s,a) E[V|s,a,y] holds for any log.

Maximisation bias is met by cross-fitting (double Q-learning, van Hasselt 2010, over user folds):
member f is trained on the users outside fold f; the action of a user in fold f is chosen by the
members that saw him and valued by the one that did not. The acting policy uses all members' mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from agents.common.nets import Track, minimise, mlp, no_track
from agents.common.response import Expected, OutcomeModel
from agents.common.tensors import CLASSES, Panel

_ROWS = 8192  # users valued at once, so that intermediate arrays stay small


class NextValue(nn.Module):
    """G[t]: mean next-day value pair for every price, given state, incentive and outcome."""

    centre: Tensor  # (2G,)
    spread: Tensor  # (2G,)

    def __init__(self, n_in: int, n_actions: int, n_prices: int, width: int, joint: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(2 * n_prices))
        self.register_buffer("spread", torch.ones(2 * n_prices))
        self.trunk = nn.Sequential(mlp(n_in, width, 2), nn.Linear(width, joint))
        # What was offered and what came of it shifts the last hidden layer only, so that one
        # pass through the trunk serves every (incentive, outcome).
        self.shift = nn.Parameter(0.1 * torch.randn(n_actions, len(CLASSES), joint))
        self.head = nn.Linear(joint, 2 * n_prices)

    def given(self, h: Tensor, shift: Tensor, heads: Tensor | slice = slice(None)) -> Tensor:
        """Standardised values for trunk output h (n, joint) and shifts (n or 1, joint)."""
        z = nn.functional.silu(h + shift)
        return nn.functional.linear(z, self.head.weight[heads], self.head.bias[heads])


def q_values(
    outcomes: OutcomeModel,
    following: NextValue | None,
    obs: Tensor,
    day: int,
    n_prices: int,
    price: int | None = None,
) -> Tensor:
    """(n, K, 2, G) reward- and cost-to-go of each incentive at each price (or at one price)."""
    x_day = torch.full((len(obs),), day, device=obs.device)
    now: Expected = outcomes(obs, x_day)
    r, c = now.mean()
    immediate = torch.stack([r, c], dim=-1)[..., None]
    if following is None:
        return immediate.expand(-1, -1, -1, 1 if price is not None else n_prices).contiguous()
    heads = slice(None) if price is None else torch.tensor([price, n_prices + price])
    h = following.trunk(outcomes.inputs(obs, x_day))
    future = []
    for a in range(now.probability.shape[1]):
        total = obs.new_zeros(len(obs), len(following.centre[heads]))
        for y in outcomes.seen[a].nonzero()[:, 0]:
            value = following.given(h, following.shift[a, y], heads)
            total.addcmul_(now.probability[:, a, y, None], value)
        future.append(total * following.spread[heads] + following.centre[heads])
    return immediate + torch.stack(future, dim=1).unflatten(-1, (2, -1))


def greedy(q: Tensor, prices: Tensor, allowed: Tensor | None = None) -> Tensor:
    """(n, G) best allowed action at each price given (n, K, 2, G) values; 0 at price inf."""
    finite = torch.where(prices.isinf(), 0, prices)
    merit = q[:, :, 0] - finite * q[:, :, 1]
    if allowed is not None:
        merit = merit.masked_fill(~allowed[..., None], -torch.inf)
    best = merit.argmax(dim=1)
    return torch.where(prices.isinf(), 0, best)


class ActionValues:
    """Q of every day: per member an outcome model and, per day but the last, a `NextValue`."""

    def __init__(
        self, outcomes: Sequence[OutcomeModel], following: list[list[NextValue]], n_heads: int
    ) -> None:
        self.outcomes, self.following, self.n_heads = list(outcomes), following, n_heads
        self.horizon = self.outcomes[0].horizon

    def members(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(E, n, K, 2, G or 1) each member's reward- and cost-to-go."""
        # Counted from the end, so that a pass under way can ask for the days it has fitted.
        back = day - (self.horizon - 1)
        return torch.stack(
            [
                q_values(o, f[back] if back < 0 else None, obs, day, self.n_heads, head)
                for o, f in zip(self.outcomes, self.following, strict=True)
            ]
        )

    def mean(self, obs: Tensor, day: int, head: int | None = None) -> Tensor:
        """(n, K, 2, G or 1) what the acting policy believes."""
        return self.members(obs, day, head).mean(0)


Choose = Callable[[Tensor, slice, int], Tensor]
"""From values (n, K, 2, G), the users' rows and the day to action probabilities (n, K, G)."""


def greedy_choice(prices: Tensor, allowed: Callable[[slice, int], Tensor] | None = None) -> Choose:
    """Best responses: head g follows the greedy policy of price g, where it is allowed."""

    def choose(q: Tensor, rows: slice, day: int) -> Tensor:
        best = greedy(q, prices, allowed(rows, day) if allowed else None)
        return nn.functional.one_hot(best, q.shape[1]).movedim(-1, 1).to(q.dtype)

    return choose


def backward_pass(
    data: Panel,
    fold: Tensor,
    outcomes: Sequence[OutcomeModel],
    choose: Choose,
    n_heads: int,
    *,
    width: int = 128,
    joint: int = 64,
    steps: int = 150,
    batch: int = 2048,
    lr: float = 5e-3,
    seed: int = 0,
    track: Track = no_track,
    progress: str | None = None,
) -> tuple[ActionValues, Tensor]:
    """Fit G[t] for t = T-2 .. 0; return all values and V[0] of every user, (n, 2, G).

    Args:
        fold: (n,) user fold; member f of `outcomes` was fitted without the users of fold f.
        choose: the policies whose values are wanted: greedy ones, or a given one (evaluation).
        steps: gradient steps per day and member; the first day fitted takes four times as many.
        progress: label of the progress bar; None shows none.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    sizes = (data.obs.shape[-1] + 3, data.n_actions, n_heads, width, joint)
    nets = [NextValue(*sizes) for _ in outcomes]
    fitted = ActionValues(outcomes, [[] for _ in outcomes], n_heads)
    members = [_members_users(fold, f, len(nets)) for f in range(len(nets))]
    value = torch.zeros(data.n_users, 2, n_heads)
    days = range(data.horizon - 1, -1, -1)
    for day in tqdm(days, desc=progress, unit="day", disable=True if progress is None else None):
        new = _values(data, day, fold, fitted, choose)
        value = torch.where(data.valid[:, day, None, None], new, value)
        for g in range(n_heads):
            track(f"cost_to_go/head_{g}", float(value[:, 1, g].mean()), data.horizon - day)
            track(f"reward_to_go/head_{g}", float(value[:, 0, g].mean()), data.horizon - day)
        if day == 0:
            break
        n_steps = steps * (4 if day == data.horizon - 1 else 1)
        for f, net in enumerate(nets):
            users = (data.valid[:, day - 1] & members[f]).nonzero()[:, 0]
            loss = _fit_day(
                net, outcomes[f], data, users, day - 1, value.flatten(1),
                n_steps, batch, lr, generator,
            )  # fmt: skip
            track(f"next_value_loss/member_{f}", loss, data.horizon - day)
            fitted.following[f].insert(0, _frozen_copy(net, sizes))
    return fitted, value


def _members_users(fold: Tensor, member: int, members: int) -> Tensor:
    """(n,) bool: the users a member learns from; all of them if it is the only one."""
    return (fold != member) | (members == 1)


def _fit_day(
    net: NextValue,
    outcomes: OutcomeModel,
    data: Panel,
    users: Tensor,
    day: int,
    target: Tensor,
    steps: int,
    batch: int,
    lr: float,
    generator: torch.Generator,
) -> float:
    """Regress the next day's values on (s, a, y) of `day`; returns the last loss."""
    net.requires_grad_(True)
    goal = target[users]
    net.centre, net.spread = goal.mean(0), goal.std(0).clamp(min=1e-6)
    last = math.nan
    now = torch.full((1,), day)

    def loss(rows: Tensor) -> Tensor:
        user = users[rows]
        x = outcomes.inputs(data.obs[user, day], now.expand(len(user)))
        shift = net.shift[data.action[user, day], data.outcome[user, day]]
        error = net.given(net.trunk(x), shift) - (target[user] - net.centre) / net.spread
        return error.square().mean()

    def on_step(step: int, value: Tensor) -> None:
        nonlocal last
        if step == steps - 1:
            last = float(value)

    rows = torch.arange(len(users))
    minimise(
        net.parameters(), loss, rows,
        steps=steps, batch=batch, lr=lr, generator=generator, on_step=on_step,
    )  # fmt: skip
    return last


@torch.no_grad()
def _values(data: Panel, day: int, fold: Tensor, fitted: ActionValues, choose: Choose) -> Tensor:
    """V[t] of every user, (n, 2, G): chosen by the members that saw him, valued by the other."""
    parts = []
    for rows in _chunks(data.n_users):
        obs = data.obs[rows, day]
        q = fitted.members(obs, day)
        judge = q[fold[rows], torch.arange(len(obs))] if len(q) > 1 else q[0]
        chooser = (q.sum(0) - judge) / (len(q) - 1) if len(q) > 1 else judge
        weight = choose(chooser, rows, day)
        parts.append((judge * weight[:, :, None]).sum(1))
    return torch.cat(parts)


def _chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS):
        yield slice(start, min(start + _ROWS, n))


def _frozen_copy(net: NextValue, sizes: tuple[int, int, int, int, int]) -> NextValue:
    copy = NextValue(*sizes)
    copy.load_state_dict(net.state_dict())
    return copy.eval().requires_grad_(False)
