"""Decision transformer at a price: the log as sequences, asked for its best return.

A causal transformer reads a user's campaign day by day, conditioned on the price of money lambda,
and learns from the log which incentive goes with which return-to-go of  r - lambda c  (supervised
learning, no bootstrapping in the network that acts). When it acts, it first says the largest
return that the log promises in this history, and then the incentive that goes with it:

    g(h)      expectile regression of the returns-to-go           (almost their maximum)
    P(a|h,g)  cross-entropy on the logged incentives, weighted by 1 / propensity
              - guidance * sum_a P(a|h,g(h)) G(h,a)               (Q-guidance)

A logged return-to-go is mostly luck, and a policy that asks for luck does not get it. So returns
are relabelled: G(h,a) is what a critic, fitted backwards over the log, expects of incentive a over
giving nothing. One network answers a grid of prices; held-out users say what each spends, and the
dual problem over them is solved for any budget by mixing two.

Sources: Chen et al., Decision Transformer, NeurIPS 2021; Kong, Wang et al., SACO: Sequence-Aware
Constrained Optimization Framework for Coupon Distribution in E-commerce (first ADT4Coupons), AAAI
2026, arXiv 2508.09198, for one transformer of all users under a budget with its dual variable;
Yamagata et al., Q-learning Decision Transformer, ICML 2023 (relabelled returns); Zhuang et al.,
Reinformer, ICML 2024 (largest return by expectiles); Hu et al., Q-value Regularized Transformer,
ICML 2024 (guidance); Paster et al., You Can't Count on Luck, NeurIPS 2022.

Differences from the papers:
1. SACO has no public code. What is taken from it is what its abstract says, one sequence model of
   long-term returns for all users and a dual variable for the budget; the rest is from the other
   papers. Its dual is solved by SLSQP; here it is a linear program over evaluated prices.
2. One token a day instead of three; the wanted return enters beside the sequence
   (`values/sequence_model.py`).
3. The critic is the project's own backward pass (`values/responses.py`), as good as it is;
   `guidance=0` leaves the network to imitation of good returns.
4. Rewards of the days before are not shown to policies: the history is what was observed and given.
   A policy remembers it (`values/sequence_model.py`).
5. What a policy earns and spends is evaluated off-policy, with its own incentives in the history
   of each logged morning: after the log's, many and at random, it would give others.
6. At most `users` users teach, so that a fit takes minutes on one core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agents.common import files
from agents.common.nets import Track, calendar, minimise, moments, no_track, seeded
from agents.common.tensors import Panel, panel
from agents.common.values.family import (
    FamilyModel,
    Sizes,
    hold_out,
    judge_of,
    load_family,
    recorded,
    sizes_of,
)
from agents.common.values.fitted_q import merit
from agents.common.values.responses import Responses, Settings, learn_responses
from agents.common.values.sequence_model import History, Remembering, SequenceModel
from agents.common.values.support import Support, load_support
from marketing_env import LoggedDataset, Policy

METHOD = "decision_transformer"
_CHUNK = 512  # users read at once where nothing is learned
_LOST = -3.0  # least return that is told apart, and that of incentives which the log never tried


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the critic (see `values/responses.py`) and of the transformer."""

    folds: int = 2
    steps: int = 150
    users: int = 10_000  # most that teach
    tokens: int = 64  # width of a day's token
    layers: int = 2
    heads: int = 4  # of attention
    updates: int = 2000  # gradient steps of the transformer
    campaigns: int = 64  # users per gradient step
    rate: float = 5e-3  # largest learning rate of the transformer
    expectile: float = 0.98  # of returns, 1 for their maximum
    guidance: float = 3.0  # weight of the critic's say, 0 for imitation only
    judge_share: float = 0.3  # of users, kept from the learner to evaluate its policies


class Lessons(NamedTuple):
    """Campaigns of the log, with relabelled returns."""

    history: History
    action: Tensor  # (n, T)
    weight: Tensor  # (n, T) inverse propensity, mean 1; 0 where the user was not there
    gain: Tensor  # (n, T, K, G) return-to-go over that of nothing; the best have mean square 1


class Sequences:
    """The policies of one transformer."""

    def __init__(self, net: SequenceModel, support: Support | None) -> None:
        self.net, self.support = net, support

    @torch.no_grad()
    def choices(self, history: History, head: int) -> Tensor:
        """(n, T) incentives on each day, given the days up to it."""
        chunks = range(0, len(history.obs), _CHUNK)
        parts = [history.take(slice(start, start + _CHUNK)) for start in chunks]
        return torch.cat([self._choices(part, head) for part in parts])

    def follow(self, history: History, head: int) -> Tensor:
        """(n, T) incentives on these mornings, if those of the days before are its own.

        The log's incentives are no history that the policy ever meets: a tight one gives little.
        A day's choice depends on earlier ones, so that each round settles one more day at least.
        """
        given = self.choices(history, head)
        for _ in range(history.obs.shape[1]):
            known, given = given, self.choices(history.after(given), head)
            if torch.equal(known, given):
                break
        return given

    def _choices(self, history: History, head: int) -> Tensor:
        n, days, _ = history.obs.shape
        h = self.net(*history, self.net.price[head].expand(n))
        logits = self.net.choose(h, self.net.best(h))
        if self.support is not None:
            day = torch.arange(days).repeat(n)
            allowed = self.support.allowed(history.obs.flatten(0, 1), day)
            logits = logits.masked_fill(~allowed.view_as(logits), -torch.inf)
        return logits.argmax(-1)

    def policy(self, head: int) -> Policy:
        return Remembering(partial(self.choices, head=head), self.net.n_actions)

    def tensors(self) -> dict[str, Tensor]:
        support = {} if self.support is None else files.prefixed("support", self.support)
        return support | files.prefixed("net", self.net)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> FamilyModel:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    learn, test = (_some(part, config.users) for part in hold_out(log, config.judge_share, seed))
    critic = learn_responses(learn, config, seed, track=track)
    family = Sequences(_learned(learn, critic, config, seed, track), critic.support)
    judge = judge_of(test, config, seed, track)
    history, heads = _history(panel(test)), range(len(critic.frontier.price) - 1)
    choice = torch.stack([family.follow(history, head) for head in heads], dim=-1)
    prices = torch.tensor(critic.frontier.price, dtype=torch.float32)
    verdict = judge.verdict(recorded(choice, log.n_actions), prices, config.risk)
    return FamilyModel(METHOD, config, family, verdict, sizes_of(learn))


def load(folder: str | Path) -> FamilyModel:
    """Read a model that its `save` wrote."""
    return load_family(folder, Config, _rebuild)


def _rebuild(config: Config, tensors: Mapping[str, Tensor], sizes: Sizes) -> Sequences:
    state = files.under("net", tensors)
    net = _network(sizes, len(state["price"]), config)
    net.load_state_dict(state)
    support = load_support(tensors, *sizes, config.least_support)
    return Sequences(net.requires_grad_(False), support)


def _network(sizes: Sizes, n_prices: int, config: Config) -> SequenceModel:
    return SequenceModel(*sizes, n_prices, config.tokens, config.layers, config.heads)


def _some(log: LoggedDataset, users: int) -> LoggedDataset:
    """At most so many users, evenly spread over the log."""
    return log.take(slice(None, None, max(1, -(-log.n_users // users))))


def _history(data: Panel) -> History:
    return History(data.obs[:, :-1], data.action, data.valid).after(data.action)


def _lessons(log: LoggedDataset, critic: Responses) -> Lessons:
    data = panel(log)
    propensity = torch.tensor(np.where(log.valid, log.propensity, np.inf), dtype=torch.float32)
    gain = torch.stack([_gain(data, critic, day) for day in range(data.horizon)], dim=1)
    gain = torch.where(data.valid[..., None, None], gain, 0)
    # At a high price few incentives gain anything, and most lose much: they must not set the unit.
    unit = gain.amax(2)[data.valid].square().mean(0).sqrt()
    gain = (gain / unit.clamp(min=1e-9)).clamp(min=_LOST)
    if critic.support is not None:
        for day in range(data.horizon):
            allowed = critic.support.allowed(data.obs[:, day], day)
            gain[:, day][~allowed] = _LOST
    weight = 1 / propensity
    weight = weight / weight[data.valid].mean()
    return Lessons(_history(data), data.action, weight, gain)


@torch.no_grad()
def _gain(data: Panel, critic: Responses, day: int) -> Tensor:
    """(n, K, G) what the critic expects of each incentive over giving nothing, at each price."""
    values, prices = critic.responder.values, critic.responder.prices[:-1]
    parts = []
    for obs in data.obs[:, day].split(8192):
        each = merit(values.mean(obs, day)[..., :-1], prices)
        parts.append(each - each[:, :1])
    return torch.cat(parts)


def _learned(
    log: LoggedDataset, critic: Responses, config: Config, seed: int, track: Track
) -> SequenceModel:
    """Imitate the log's incentives, given their returns; and expect the largest of those."""
    lessons, generator = _lessons(log, critic), torch.Generator().manual_seed(seed)
    net = _initial(log, lessons, critic, config, seed)

    def loss(rows: Tensor) -> Tensor:
        asked = torch.randint(len(net.price), rows.shape, generator=generator)
        h = net(*lessons.history.take(rows), net.price[asked])
        action, gain = lessons.action[rows], lessons.gain[rows, :, :, asked]
        done, best = gain.gather(-1, action[..., None])[..., 0], net.best(h)
        short = done - best
        top = torch.where(short < 0, 1 - config.expectile, config.expectile) * short.square()
        imitated = nn.functional.cross_entropy(
            net.choose(h, done).transpose(1, 2), action, reduction="none"
        )
        total = lessons.weight[rows] * (top + imitated)
        if config.guidance:
            probability = net.choose(h, best.detach()).softmax(-1)
            total = total - config.guidance * (probability * gain).sum(-1)
        return total[lessons.history.there[rows]].mean()

    def on_step(step: int, value: Tensor) -> None:
        if step % 50 == 0 or step == config.updates - 1:
            track("transformer/loss", float(value), step)

    minimise(
        net.parameters(), loss, torch.arange(log.n_users), steps=config.updates,
        batch=config.campaigns, lr=config.rate, generator=generator, on_step=on_step,
        progress="transformer" if config.progress else None,
    )  # fmt: skip
    return net.requires_grad_(False)


def _initial(
    log: LoggedDataset, lessons: Lessons, critic: Responses, config: Config, seed: int
) -> SequenceModel:
    """A network whose buffers are read off the log."""
    price = torch.tensor(critic.frontier.price[:-1, 0], dtype=torch.float32)
    with seeded(seed):
        net = _network(sizes_of(log), len(price), config)
    user, day = lessons.history.there.nonzero(as_tuple=True)
    x = torch.cat([lessons.history.obs[user, day], calendar(day, log.horizon)], dim=-1)
    net.mean, net.scale = moments(x)
    net.price = price
    return net
