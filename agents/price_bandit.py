"""Exponential weights over a few prices from bandit feedback (EXP3), uniform mixture.

The prices are the arms of a bandit. Each round the policy player answers the mean price under the
arms' probabilities; then one price is drawn and told how much overspending it would have punished,

    price_t = sum_i p_i price_i,    p = (1 - explore) w + explore / K
    log w_i <- log w_i + explore / K * payoff_i / p_i,    payoff_i = price_i * (spend_t - 1), scaled

so that prices rise while too much is spent and fall while money is left. The answers are mixed.

Source: Chemingui et al., Online Optimization for Offline Safe Reinforcement Learning, NeurIPS 2025,
arXiv 2510.22027; Auer et al., The Nonstochastic Multiarmed Bandit Problem, SIAM Journal on
Computing 32(1), 2002, section 3, for the bandit.

Differences from the paper:
1. A round's policy is a best response, where the paper takes a few gradient steps of an offline
   learner, whose slowness averages over the prices drawn. The response is to their mean.
2. The result is the mixture of all rounds' policies, as its theory has it; the paper's code keeps
   the last network.
3. Spending is measured by cross-fitting instead of read off the critic.
4. The prices follow from the budget: none, and a geometric grid up to twice the highest price that
   an optimum can have.
5. If the mixture still overspends, as many users as needed get nothing.
6. Costs carry the main method's margin for estimation errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.common.games.game import Measured, Mixed
from agents.common.games.price_games import DEAREST, Game, Model, fit_game, load_game
from agents.common.nets import Track, no_track
from agents.common.values.responses import Responses, Settings
from marketing_env import LoggedDataset

METHOD = "price_bandit"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the oracle, and of the bandit."""

    rounds: int = 300
    arms: int = 4  # prices, the one of 0 among them
    pace: float = 10.0  # multiple of the step of the regret bound; best of 5 on exact frontiers
    cheapest: float = 0.02  # the least other one, as a share of the highest


def play(game: Game, config: Config) -> Mixed:
    """The uniform mixture of the best responses to all rounds' mean prices."""
    k, answers = config.arms, list[Measured]()
    prices = DEAREST * np.append(0.0, np.geomspace(config.cheapest, 1.0, k - 1))
    explore = min(1.0, math.sqrt(k * math.log(k) / ((math.e - 1) * config.rounds)))
    most = float(game.free.z[1])  # spend lies between 0 and this
    log_weight, total = np.zeros(k), np.zeros(2)
    for t in range(1, config.rounds + 1):
        weight = np.exp(log_weight - log_weight.max())
        p = (1 - explore) * weight / weight.sum() + explore / k
        answers.append(game.respond(float(p @ prices)))
        total += answers[-1].z
        game.note(total / t, stored=t)
        drawn = game.rng.choice(k, p=p)
        punished = prices[drawn] / DEAREST * (answers[-1].z[1] - 1)
        log_weight[drawn] += config.pace * explore / k * (punished + 1) / most / p[drawn]
    return game.mixed(answers)


def fit(
    log: LoggedDataset,
    config: Config = Config(),
    seed: int = 0,
    *,
    track: Track = no_track,
    responses: Responses | None = None,
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
        responses: best responses that were learned from the log before.
    """
    return fit_game(METHOD, log, config, seed, play, track, responses)


def load(folder: str | Path) -> Model:
    """Read a model that its `save` wrote."""
    return load_game(folder, Config, play)
