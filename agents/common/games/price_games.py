"""The game between a price of money and policies, for methods that differ in the moves alone.

A method is a function `play(game, config)`: it asks for best responses to prices and makes one
policy of them. Here is what such methods share: measurements without units, the certificate, the
count of calls and policies, and the model that plays the game anew for every budget.

Measurements are (gain, spend): what a policy earns and spends beyond giving no incentives, as
shares of what unlimited money earns and of the budget. So giving nothing is (0, 0), the budget is
1, and a price is what the whole budget would have to earn. With the optimal price p,

    1 >= optimum = p + max_pi (gain - p spend) >= p,

so no price above 1 is needed, and twice that punishes overspending. The saddle gap of a mixture,

    gap = bound - gain + DEAREST * max(0, spend - 1),    bound = min_p p + max_pi (gain - p spend)

is then at least its shortfall from the optimum, and at least its overspend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.common import files
from agents.common.games.frontier import checked
from agents.common.games.game import InfeasibleError, Measured, Mixed, Oracle, best_of
from agents.common.nets import Track, no_track
from agents.common.types import Array, Forecast
from agents.common.values.responses import Responses, Settings, learn_responses
from marketing_env import LoggedDataset, MixedPolicy

DEAREST = 2.0  # twice the most that money can be worth at the optimum
_NOTHING = 1e-12  # share of free spending; less money is rounding


class Game:
    """One budget that binds: answers to prices, in shares; calls and policies are counted."""

    def __init__(
        self,
        oracle: Oracle,
        budget: float,
        idle: Measured,
        free: Measured,
        seed: int = 0,
        track: Track = no_track,
    ) -> None:
        self.oracle, self.track, self.origin = oracle, track, idle.z
        self.unit = np.array([free.z[0], budget]) - idle.z
        self.idle, self.free = self.shared(idle), self.shared(free)
        self.rng = np.random.default_rng([seed, 21])
        self.price, self.bound, self.shadow = 0.0, 1.0, 0.0  # last asked; lowest bound, and where
        self.calls, self.stored, self.gaps = 1, 1, list[float]()

    def best(self, direction: Array) -> Measured:
        """The policy that maximises `direction @ (gain, spend)`.

        Args:
            direction: (2,) at least 0, and at most 0.
        """
        best = self.shared(self.oracle(direction / self.unit))
        self.calls += 1
        self.price = DEAREST
        if direction[0] > 0:
            self.price = -float(direction[1] / direction[0])
            bound = float(self.price + best.z @ [1.0, -self.price])
            if bound < self.bound:
                self.bound, self.shadow = bound, self.price
        return best

    def respond(self, price: float) -> Measured:
        """The best response to a price."""
        return self.best(np.array([1.0, -price]))

    def note(self, z: Array, stored: int) -> float:
        """End a round with learning curves; returns the gap.

        Args:
            z: (2,) of the policy that the method would return now.
            stored: policies kept for the next round.
        """
        gap = max(self.bound - float(z[0]), 0.0) + DEAREST * max(float(z[1]) - 1, 0.0)
        reward, cost = self.origin + self.unit * z
        shown = {"price": self.price * self.per_money, "cost": cost, "reward": reward, "gap": gap}
        for name, value in shown.items():
            self.track(f"game/{name}", float(value), len(self.gaps))
        self.gaps.append(gap)
        self.stored = max(self.stored, stored)
        return gap

    def mixed(self, answers: Sequence[Measured], weight: Array | None = None) -> Mixed:
        """A mixture of answers, by default with equal weights, in the oracle's own units."""
        weight = np.full(len(answers), 1 / len(answers)) if weight is None else weight
        own = [answer.policy for answer in answers]
        return Mixed(
            policies=tuple(m.policy for m in own),
            weight=weight,
            z=weight @ np.array([m.z for m in own]),
            price=np.array([self.shadow * self.per_money]),
            bound=float(self.origin[0] + self.unit[0] * self.bound),
            calls=self.calls,
            gaps=tuple(self.gaps),
            stored=self.stored,
        )

    @property
    def per_money(self) -> float:
        """Reward per currency at a price of 1."""
        return float(self.unit[0] / self.unit[1])

    def shared(self, own: Measured) -> Measured:
        """A measurement in shares; its `policy` is the measurement as the oracle gave it."""
        return Measured(own, (own.z - self.origin) / self.unit)


Play = Callable[[Game], Mixed]


def solve(
    play: Play,
    oracle: Oracle,
    budget: float,
    idle: Measured,
    *,
    seed: int = 0,
    track: Track = no_track,
) -> Mixed:
    """What a method makes of a budget; where money is not short, or buys nothing, none is needed.

    Args:
        idle: the policy that gives no incentives.

    Raises:
        InfeasibleError: if giving nothing costs more than the budget.
    """
    money = budget - idle.z[1]
    if money < 0:
        raise InfeasibleError(np.array([budget]), -money, idle.z[1:])
    free = oracle(np.array([1.0, 0.0]))
    if money > _NOTHING * free.z[1] and free.z[0] > idle.z[0] and free.z[1] > budget:
        return play(Game(oracle, budget, idle, free, seed, track))
    only = free if free.z[1] <= budget else idle
    return Mixed((only.policy,), np.ones(1), only.z, np.zeros(1), float(free.z[0]), 1, (0.0,), 1)


@dataclass(frozen=True)
class Model:
    """Trained best responses, and a game that is played for every budget."""

    method: str
    config: Any  # extends Settings
    seed: int
    responses: Responses
    play: Callable[[Game, Any], Mixed] = field(repr=False)

    def policy(self, budget: float) -> MixedPolicy:
        """The policy for a budget, in currency per user per campaign.

        Raises:
            ValueError: if the budget is NaN or below what giving no incentives costs.
        """
        return self.responses.mixed(self.mix(budget)[0])

    def forecast(self, budget: float) -> Forecast:
        """What the model expects of `policy(budget)`, with errors and certificate."""
        weight, calls = self.mix(budget)
        return self.responses.frontier.forecast_of(weight, [budget], calls)

    def for_users(self, obs: Array) -> Model:
        """The same model, planned for users of whom (n, d) observations of day 0 are known."""
        return replace(self, responses=self.responses.for_users(obs))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        self.responses.save(folder, self.method, self.config, seed=self.seed)

    def mix(self, budget: float, track: Track = no_track) -> tuple[Array, int]:
        """(G,) weight of each best response, and the calls of the oracle that it took.

        Rounds that end early may leave a mixture that overspends; as many users as are needed
        then get nothing. The oracle answers with the best of the learned policies, whose costs
        carry the same margin as in `Frontier.mix`.
        """
        frontier = self.responses.frontier
        (limit,) = checked([budget])
        columns = [Measured(k, z) for k, z in enumerate(frontier.cautious)]
        idle = columns[frontier.idle]

        def play(game: Game) -> Mixed:
            return self.play(game, self.config)

        found = solve(play, best_of(columns), limit, idle, seed=self.seed, track=track)
        weight = np.zeros(len(columns))
        np.add.at(weight, list(found.policies), found.weight)
        if found.z[1] > limit:
            weight *= (limit - idle.z[1]) / (found.z[1] - idle.z[1])
            weight[frontier.idle] += 1 - weight.sum()
        return weight, found.calls


def fit_game(
    method: str,
    log: LoggedDataset,
    config: Settings,
    seed: int,
    play: Callable[[Game, Any], Mixed],
    track: Track,
    responses: Responses | None,
) -> Model:
    """Learn best responses, unless they are given; curves show a game at half of free spending."""
    responses = responses or learn_responses(log, config, seed, track=track)
    model = Model(method, config, seed, responses, play)
    model.mix(0.5 * float(model.responses.frontier.cautious[:, 1].max()), track)
    return model


def load_game(
    folder: str | Path, config: Callable[..., Settings], play: Callable[[Game, Any], Mixed]
) -> Model:
    """What `Model.save` wrote."""
    meta = files.read_meta(folder)
    settings = config(**meta["config"])
    responses = Responses.load(folder, settings, meta)
    return Model(meta["method"], settings, meta["seed"], responses, play)
