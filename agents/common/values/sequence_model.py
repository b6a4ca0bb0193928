"""A causal transformer over the days of a campaign, steered by a price.

One token a day: the observation, the calendar, yesterday's incentive and the price of money. The
token of day t attends to the days up to t on which the user was there. Two heads read it:

    best(h)          the largest return-to-go that the log promises here
    choose(h, g)     logits of the incentives, given that a return-to-go of g is wanted

The wanted return enters beside the sequence, not as a token of its own: it says what shall come,
not what was (Chen et al., Decision Transformer, NeurIPS 2021, interleave three tokens a day).

A policy sees one morning at a time, so `Remembering` keeps the campaign's earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.common.nets import calendar
from agents.common.types import Array
from marketing_env import DayView


class History(NamedTuple):
    """The first T days of campaigns."""

    obs: Tensor  # (n, T, d); anything where the user was not there
    before: Tensor  # (n, T) yesterday's incentive, -1 if it is unknown
    there: Tensor  # (n, T) bool

    def take(self, users: Tensor | slice) -> History:
        return History(*(part[users] for part in self))

    def after(self, given: Tensor) -> History:
        """The same mornings, if the incentives of their days were others, (n, T)."""
        known = given.masked_fill(~self.there, -1)[:, :-1]
        return self._replace(before=nn.functional.pad(known, (1, 0), value=-1))


class Block(nn.Module):
    """Self-attention and a layer of two, each added to its input (pre-normalised)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)
        self.layers = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """(n, T, W) of the same; visible: (n, 1, T, T) bool, who may see whom."""
        asked = self.ask(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = asked.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        x = x + self.answer(seen.transpose(1, 2).flatten(2))
        return x + self.layers(self.before_layers(x))


class SequenceModel(nn.Module):
    """Tokens of days in, returns and incentives out."""

    mean: Tensor  # of the observation and the calendar
    scale: Tensor
    price: Tensor  # (G,) the grid

    def __init__(
        self, n_obs: int, n_actions: int, horizon: int, n_prices: int, width: int, layers: int,
        heads: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_actions, self.horizon = n_actions, horizon
        self.register_buffer("mean", torch.zeros(n_obs + 3))
        self.register_buffer("scale", torch.ones(n_obs + 3))
        self.register_buffer("price", torch.zeros(n_prices))
        self.token = nn.Linear(n_obs + 3 + n_actions + 2, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.top = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.incentive = nn.Sequential(
            nn.Linear(width + 1, width), nn.SiLU(), nn.Linear(width, n_actions)
        )

    def forward(self, obs: Tensor, before: Tensor, there: Tensor, price: Tensor) -> Tensor:
        """(n, T, W) of the first T days of a campaign; a day depends on none after it.

        Args:
            obs: (n, T, d); anything where the user was not there.
            before: (n, T) yesterday's incentive, -1 if it is unknown.
            there: (n, T) bool.
            price: (n,)
        """
        n, days, _ = obs.shape
        day = torch.arange(days)
        x = torch.cat([obs, calendar(day, self.horizon).expand(n, -1, -1)], dim=-1)
        x = ((x - self.mean) / self.scale).masked_fill(~there[..., None], 0.0)
        given = nn.functional.one_hot(before + 1, self.n_actions + 1)[..., 1:]
        relative = price / self.price[self.price > 0].median()
        asked = torch.stack([relative / (1 + relative), torch.log1p(relative)], dim=-1)
        tokens = torch.cat([x, given, asked[:, None].expand(-1, days, -1)], dim=-1)
        past = day[:, None] >= day
        # Whoever is absent sees himself, for a softmax over nothing has no value.
        visible = past & (there[:, None, :] | torch.eye(days, dtype=torch.bool))
        h = self.token(tokens)
        for block in self.blocks:
            h = block(h, visible[:, None])
        return self.norm(h)

    def best(self, h: Tensor) -> Tensor:
        """(n, T) largest return-to-go."""
        return self.top(h)[..., 0]

    def choose(self, h: Tensor, wanted: Tensor) -> Tensor:
        """(n, T, K) logits of the incentives that bring the wanted returns (n, T)."""
        return self.incentive(torch.cat([h, wanted[..., None]], dim=-1))


class Morning(NamedTuple):
    """What was seen and given on a day, users in the order of their buckets."""

    bucket: Array  # (n,)
    obs: Array  # (n, d)
    action: Array  # (n,)

    def find(self, bucket: Array) -> tuple[Array, Array]:
        """Rows of the users with these buckets, and whether they were there."""
        at = np.searchsorted(self.bucket, bucket).clip(max=len(self.bucket) - 1)
        return at, self.bucket[at] == bucket


class Remembering:
    """A policy that remembers the campaign's earlier days by the users' buckets.

    What it chose counts as given. Asked about a day, it forgets what it knew of that and later
    days: another campaign has begun.
    """

    def __init__(self, choices: Callable[[History], Tensor], n_actions: int) -> None:
        """choices: from a history to the incentives (n, T) of each of its days."""
        self.choices, self.n_actions = choices, n_actions
        self.past: dict[int, Morning] = {}

    def probs(self, view: DayView) -> Array:
        if not len(view.obs):
            return np.zeros((0, self.n_actions))
        self.past = {day: seen for day, seen in self.past.items() if day < view.day}
        action = self.choices(self._history(view))[:, -1].numpy()
        order = np.argsort(view.bucket, kind="stable")
        self.past[view.day] = Morning(*(x[order] for x in (view.bucket, view.obs, action)))
        return np.asarray(np.eye(self.n_actions)[action])

    def _history(self, view: DayView) -> History:
        n, width = view.obs.shape
        obs = np.zeros((n, view.day + 1, width), dtype=np.float32)
        before = np.full((n, view.day + 1), -1)
        there = np.zeros((n, view.day + 1), dtype=bool)
        for day, seen in self.past.items():
            at, known = seen.find(view.bucket)
            obs[known, day], there[known, day] = seen.obs[at[known]], True
            before[known, day + 1] = seen.action[at[known]]
        obs[:, -1], there[:, -1] = view.obs, True
        return History(*(torch.from_numpy(x) for x in (obs, before, there)))
