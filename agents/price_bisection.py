"""Lagrangian bisection: one price of money and its best response, as practitioners have it.

Spending falls as money gets dearer, so the price at which the budget is just kept is found by
halving the interval it lies in. The answer is deterministic: between two policies on either side of
the budget it takes the cheaper one, and what that leaves unspent is lost.

    price <- (low + high) / 2;    high <- price if spend(price) <= budget, else low <- price

Source: Xiao et al., Model-based Constrained MDP for Budget Allocation in Sequential Incentive
Marketing, CIKM 2019, arXiv 2303.01049.

Differences from the paper:
1. Best responses come from an offline pass for a grid of prices (`values/fitted_q.py`), not from
   planning in a learned model; a price is answered by the best of them.
2. No upper end of the interval has to be found: no price above that at which the budget would have
   to earn all that unlimited money can is ever needed (`games/price_games.py`).
3. Costs carry the main method's margin for estimation errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.common.games.game import Mixed
from agents.common.games.price_games import Game, Model, fit_game, load_game
from agents.common.nets import Track, no_track
from agents.common.values.responses import Responses, Settings
from marketing_env import LoggedDataset

METHOD = "price_bisection"


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the oracle, and of the bisection."""

    rounds: int = 30  # halvings, at most
    tolerance: float = 1e-3  # share of the budget that may be left


def play(game: Game, config: Config) -> Mixed:
    """The best response to the lowest price found at which it keeps the budget."""
    low, high, found = 0.0, 1.0, game.idle
    for _ in range(config.rounds):
        price = (low + high) / 2
        best = game.respond(price)
        if best.z[1] <= 1:
            high, found = price, best
        else:
            low = price
        game.note(found.z, stored=1)
        if found.z[1] >= 1 - config.tolerance:
            break
    return game.mixed([found])


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
