"""Approachability: a mixture is steered into a convex set by best responses to directions.

The wanted set is {gain >= floor, spend <= budget}. A direction theta of its polar cone asks for the
policy that lies deepest behind it; if even that one lies in front, theta @ z > 0, no mixture
reaches the set. Otherwise theta moves, and the answers are mixed:

    online_gradient        theta <- projection of theta + z / (G sqrt(t)) on cone and unit ball,
                           mixture = mean of all answers
    conditional_gradient   theta <- mixture - its projection on the set (Frank & Wolfe, 1956),
                           mixture <- mixture + 2 / (t + 2) * (answer - mixture)
    minimum_norm_point     theta as there; the mixture is the nearest point of the hull of at most
                           three answers, the others are forgotten (`games/norm_point.py`)

The highest floor that is reached is found by bisection.

Sources: Miryoosefi et al., Reinforcement Learning with Convex Constraints, NeurIPS 2019, arXiv
1906.09323, algorithm 2, for the first; Cai et al., A Policy Efficient Reduction Approach to Convex
Constrained Deep Reinforcement Learning, arXiv 2108.12916, for the others.

Differences from the papers:
1. Best responses come from one offline pass for a grid of prices (`values/fitted_q.py`), measured
   by cross-fitting; a direction is answered by the best of them.
2. Seen from its corner the set is a cone already, so it is not lifted by a further coordinate, and
   the projection on its polar is exact: negative parts are cut off.
3. The papers ask whether a set is reached. Bisection on the floor makes an optimum of it.
4. No momentum and no cache of earlier answers, which are the authors' code, not their algorithm.
5. If the mixture still overspends, as many users as needed get nothing.
6. Costs carry the main method's margin for estimation errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from agents.common.games.game import Measured, Mixed
from agents.common.games.norm_point import minimum_norm_point
from agents.common.games.price_games import Game, Model, fit_game, load_game
from agents.common.nets import Track, no_track
from agents.common.types import Array
from agents.common.values.responses import Responses, Settings
from marketing_env import LoggedDataset

METHOD = "approachability"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the oracle, and of the game."""

    solver: Literal["online_gradient", "conditional_gradient", "minimum_norm_point"] = (
        "online_gradient"
    )
    rounds: int = 100  # for each floor, at most
    pace: float = 3.0  # multiple of the step of the regret bound; best of 5 on exact frontiers
    tolerance: float = 0.01  # distance from the set at which rounds end, and between floors


class Mixture(NamedTuple):
    answers: list[Measured]
    weight: Array  # (len(answers),) sums to 1
    z: Array  # (2,) gain and spend

    def add(self, best: Measured, share: float) -> Mixture:
        weight = np.append((1 - share) * self.weight, share)
        return Mixture([*self.answers, best], weight, self.z + share * (best.z - self.z))


def play(game: Game, config: Config) -> Mixed:
    """The mixture that reached the highest floor."""
    low, high, found = 0.0, 1.0, Mixture([game.idle], np.ones(1), game.idle.z)
    approach = nearest if config.solver == "minimum_norm_point" else steer
    while high - low > config.tolerance:
        floor = (low + high) / 2
        reached = approach(game, floor, config, found)
        if reached is None:
            high = floor
        else:
            low, found = floor, reached
    game.note(found.z, stored=len(found.answers))
    return game.mixed(found.answers, found.weight)


def steer(game: Game, floor: float, config: Config, kept: Mixture) -> Mixture | None:
    """Gradient steps towards the set; None if a direction separates it from all policies."""
    corner, mixture = np.array([floor, 1.0]), Mixture([game.idle], np.ones(1), game.idle.z)
    conditional = config.solver == "conditional_gradient"
    largest = float(np.linalg.norm(game.free.z))
    theta = in_ball(polar(game.idle.z - corner))
    for t in range(1, config.rounds + 1):
        best = game.best(-theta)
        if theta @ (best.z - corner) > 0:
            return None
        mixture = mixture.add(best, 2 / (t + 2) if conditional else 1 / (t + 1))
        game.note(mixture.z, stored=len(kept.answers) + len(mixture.answers))
        away = polar(mixture.z - corner)
        if np.linalg.norm(away) <= config.tolerance:
            break
        step = config.pace * (best.z - corner) / (largest * math.sqrt(t))
        theta = away if conditional else in_ball(polar(theta + step))
    return mixture


def nearest(game: Game, floor: float, config: Config, kept: Mixture) -> Mixture | None:
    """The nearest point of the hull of few policies; None if all stay away from the set."""
    found = minimum_norm_point(
        game.best, [floor, -np.inf], [np.inf, 1.0], start=game.idle, max_calls=config.rounds
    )
    game.note(found.z, stored=len(kept.answers) + found.stored)
    if found.bound > 0:
        return None
    answers = [game.shared(policy) for policy in found.policies]
    return Mixture(answers, found.weight, found.z)


def polar(z: Array) -> Array:
    """Projection on the polar of {gain >= 0, spend <= 0}."""
    return np.array([min(float(z[0]), 0.0), max(float(z[1]), 0.0)])


def in_ball(theta: Array) -> Array:
    """Projection on the unit ball."""
    return theta / max(float(np.linalg.norm(theta)), 1.0)


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
