"""Batch policy learning under constraints: exponentiated gradient on prices, uniform mixture.

The price player holds weights on the budget and on a phantom that costs nothing, and raises the
budget's weight by what the last policy overspent; the policy player answers each price. After T
rounds the uniform mixture of all answers is within O(1 / sqrt(T)) of the optimum and of the budget:

    price_t = DEAREST * w_t,    log w_{t+1} = log w_t + step * DEAREST * (spend_t - 1) + constant

It ends when the gap between the mixture's worst price and the best response to the mean price is
small. Every answer is kept, one a round.

Source: Le, Voloshin & Yue, Batch Policy Learning under Constraints, ICML 2019, arXiv 1903.08738,
algorithm 2.

Differences from the paper:
1. Best responses come from one offline pass for a grid of prices (`values/fitted_q.py`) and are
   measured by cross-fitting, instead of fitted Q iteration and evaluation in every round; a price
   is answered by the best of them.
2. The radius is twice the highest price that an optimum can have, and the step `pace` times that of
   the regret bound, sqrt(8 ln 2 / T) / range; the paper gives numbers for its own tasks alone
   (radius 30, step 50 and .01).
3. The bound is the lowest of all rounds', not only that of the mean price.
4. If the mixture still overspends, as many users as needed get nothing.
5. Costs carry the main method's margin for estimation errors.
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

METHOD = "exponentiated_gradient"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the oracle, and of the game."""

    rounds: int = 100  # at most
    pace: float = 10.0  # multiple of the step of the regret bound; best of 5 on exact frontiers
    tolerance: float = 0.01  # gap, as a share of the possible gain


def play(game: Game, config: Config) -> Mixed:
    """The uniform mixture of the best responses to all rounds' prices."""
    step = config.pace * math.sqrt(8 * math.log(2) / config.rounds) / spread(game)
    weight, prices, answers, total = np.full(2, 0.5), list[float](), list[Measured](), np.zeros(2)
    for t in range(1, config.rounds + 1):
        prices.append(DEAREST * float(weight[0]))
        answers.append(game.respond(prices[-1]))
        total += answers[-1].z
        game.respond(float(np.mean(prices)))
        if game.note(total / t, stored=t) <= config.tolerance:
            break
        weight = weight * np.exp(step * DEAREST * np.array([answers[-1].z[1] - 1, 0.0]))
        weight /= weight.sum()
    return game.mixed(answers)


def spread(game: Game) -> float:
    """The largest difference that a round can make between the two weights."""
    return DEAREST * max(float(game.free.z[1]) - 1, 1.0)


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
