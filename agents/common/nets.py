"""Small networks and the one training loop they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

Track = Callable[[str, float, int], object]
"""Receives learning curves as (tag, value, step): the signature of TensorBoard's `add_scalar`."""


_drawing = Lock()
_rounding = Lock()
_rounded: list[str] = []  # the precision before, once for each `bfloat16_products` that is inside
_CONSTANT = 1e-6  # spread relative to the mean, below which single precision sees only rounding


class Schedule(NamedTuple):
    """How long and how fast the network of a day learns, which starts from the next day's."""

    steps: int = 150
    batch: int = 2048  # rows a step
    lr: float = 2e-3

    @property
    def first(self) -> Schedule:
        """Of the last day's network, which starts from nothing."""
        return Schedule(4 * self.steps, self.batch, 5 * self.lr)


def steps_of(epochs: float, rows: int, batch: int, fewest: int) -> int:
    """Gradient steps of so many passes over the rows.

    They are at least `fewest`, or fewer in proportion where less than three passes are wanted.
    """
    least = math.ceil(fewest * min(1.0, epochs / 3))
    return max(least, math.ceil(epochs * rows / batch))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside depend on the seed alone, and no other thread draws."""
    with _drawing, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def bfloat16_products() -> Iterator[None]:
    """Processors with matrix units multiply matrices of bfloat16 inside, and sum as ever.

    Learning takes a third less time. What is rounded away (one part in 256 of a factor) is far
    below the noise of a log. Processors without such units, and what a trained model answers
    outside, are not changed. Other threads meanwhile round too: the switch is of the process.
    """
    products: Any = getattr(torch.backends.mkldnn, "matmul", None)
    able: Callable[[], dict[str, bool]] = getattr(torch.cpu, "get_capabilities", dict)
    if not (hasattr(products, "fp32_precision") and able().get("amx_bf16")):
        yield
        return
    with _rounding:
        _rounded.append(products.fp32_precision)
        products.fp32_precision = "bf16"
    try:
        yield
    finally:
        with _rounding:
            before = _rounded.pop()
            if not _rounded:
                products.fp32_precision = before


def no_track(tag: str, value: float, step: int) -> None:
    """Record nothing."""


def mlp(n_in: int, width: int, depth: int) -> nn.Sequential:
    """`depth` SiLU layers; SiLU keeps value functions smooth in prices and states."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(n_in, width), nn.SiLU()]
        n_in = width
    return nn.Sequential(*layers)


def calendar(day: Tensor, horizon: int) -> Tensor:
    """(n, 3) progress and weekday of each row, added to what the log observes."""
    week = 2 * torch.pi * day / 7
    return torch.stack([day / horizon, torch.sin(week), torch.cos(week)], dim=-1)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(d,) mean and scale of the columns of x, (n, d), for `standardised`.

    The scale of a column that does not vary is inf: whatever it is later, it tells nothing. Single
    precision could not tell the rounding of a large constant from news.
    """
    wide = x.double()
    mean, scale = wide.mean(0), wide.std(0, correction=0)
    return mean.float(), scale.where(scale > _CONSTANT * mean.abs(), torch.inf).float()


def standardised(obs: Tensor, day: Tensor, horizon: int, mean: Tensor, scale: Tensor) -> Tensor:
    """(n, d + 3) observation and calendar, less their mean, in units of their scale.

    Raises:
        ValueError: if the observation has not the d columns whose mean and scale these are.
    """
    wanted = len(mean) - 3
    if obs.shape[-1] != wanted:
        raise ValueError(f"obs has {obs.shape[-1]} columns: the model learned from {wanted}")
    return (torch.cat([obs, calendar(day, horizon)], dim=-1) - mean) / scale


@torch.no_grad()
def fold_alike(net: nn.Module, x: Tensor) -> Tensor:
    """Inputs of a network, whose columns that are alike in all rows, as the calendar, become 0.

    What its first layer makes of these moves to the bias. A network that goes from day to day
    learns nothing about the calendar from the rows of one day: weights left there would change its
    answers on the next day by chance.

    Args:
        x: (n, d); if all columns are alike, nothing is changed.
    """
    alike = (x == x[0]).all(0)
    if alike.all():
        return x
    layer = next(part for part in net.modules() if isinstance(part, nn.Linear))
    layer.bias.add_(layer.weight[:, alike] @ x[0, alike])
    layer.weight[:, alike] = 0
    return x.masked_fill(alike, 0)


def minimise(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    rows: Tensor,
    *,
    steps: int,
    batch: int,
    lr: float,
    generator: torch.Generator,
    on_step: Callable[[int, Tensor], None] | None = None,
    weight_decay: float = 1e-2,
    progress: str | None = None,
) -> float:
    """AdamW with a one-cycle rate on `loss(batch of rows)`; rows pass in random order.

    Returns the last loss.
    """
    parameters = list(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=max(steps, 2))
    order, at = rows[torch.randperm(len(rows), generator=generator)], 0
    batch = min(batch, len(rows))
    for step in tqdm(range(steps), desc=progress, disable=True if progress is None else None):
        if at + batch > len(order):
            order, at = rows[torch.randperm(len(rows), generator=generator)], 0
        value = loss(order[at : at + batch])
        at += batch
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        schedule.step()
        if on_step is not None:
            on_step(step, value.detach())
    return float(value.detach())
