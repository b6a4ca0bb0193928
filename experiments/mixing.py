"""Policies stored against distance to the optimum: what it takes to mix best responses.

    python -m experiments.mixing --users 500 --prices 100

Every method asks the same oracle, exact plans of the simulator at a grid of prices, and makes a
mixture for a budget; none has anything to learn. How far it is from the best mixture of those plans
(a linear program), how many policies it keeps and how often it asks is recorded for growing effort.
What averages over rounds stores a policy a round, as each is trained anew where there is no grid;
`different` counts those of the result that are not the same plan of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from agents import approachability, exponentiated_gradient, price_bandit, price_bisection
from agents.common.games.game import (
    Measured,
    Mixed,
    Oracle,
    best_of,
    column_generation,
    solve_master,
)
from agents.common.games.price_games import solve
from experiments import cli
from experiments.results import ROOT, provenance, write_json
from marketing_env import CampaignConfig, preset, sample_users
from marketing_env.config import Array
from marketing_env.exact import curve, spend_prices

_FEW = 60  # users from whom the range of prices is read


@dataclass(frozen=True)
class Options:
    """How many plans of how many users, and where the result goes."""

    users: int = 500
    prices: int = 100  # exact plans, from 1 % of what is spent without a limit to all of it
    seed: int = 0  # of the population, and of the bandit
    presets: tuple[str, ...] = ("payment_bonus", "short_video_coins", "food_coupons")  # campaigns
    shares: tuple[float, ...] = (0.05, 0.2, 0.6)  # budgets, of the unconstrained optimum's spend
    rounds: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the games
    out: Path = ROOT / "results" / "mixing.json"  # JSON; experiments.plot draws it


Method = Callable[[Oracle, float, Measured, int], Mixed]
"""From best responses, a budget, the policy that gives nothing and a number of rounds."""


def game(module: Any, seed: int = 0, **settings: Any) -> Method:
    """A method of `agents/` that plays the game, for exactly as many rounds as it is told."""

    def mix(oracle: Oracle, budget: float, idle: Measured, rounds: int) -> Mixed:
        play = partial(module.play, config=module.Config(rounds=rounds, **settings))
        return solve(play, oracle, budget, idle, seed=seed)

    return mix


def main_method(oracle: Oracle, budget: float, idle: Measured, rounds: int) -> Mixed:
    """Column generation, as `mixed_policy` has it."""
    return column_generation(oracle, [budget], start=idle, max_calls=rounds)


def methods(seed: int) -> Mapping[str, Method]:
    """By name; approachability has its three solvers."""
    solvers = {
        f"approachability, {name.replace('_', ' ')}": game(
            approachability, solver=name, tolerance=0.003
        )
        for name in ("online_gradient", "conditional_gradient", "minimum_norm_point")
    }
    return {
        "mixed_policy": main_method,
        "price_bisection": game(price_bisection, tolerance=0.0),
        "exponentiated_gradient": game(exponentiated_gradient, tolerance=0.0),
        **solvers,
        "price_bandit": game(price_bandit, seed),
    }


def plans(config: CampaignConfig, o: Options) -> Array:
    """(G, 2) mean reward and cost of exact plans; the first gives nothing, the last is free."""
    _, (high, low) = spend_prices(config, sample_users(config, _FEW, seed=900), [0.01, 0.9])
    prices = np.append(0.0, np.geomspace(low / 4, 2 * high, o.prices - 2))
    found = curve(config, sample_users(config, o.users, o.seed), prices)
    return np.stack([found.reward, found.cost], axis=1)


def compared(z: Array, budget: float, o: Options) -> Iterator[dict[str, Any]]:
    """Every method at every number of rounds, held against the best mixture of plans z."""
    columns = [Measured(k, row) for k, row in enumerate(z)]
    best = solve_master(z, budget).z[0]
    for name, mix in methods(o.seed).items():
        for rounds in o.rounds:
            found = mix(best_of(columns), budget, columns[0], rounds)
            yield {
                "method": name,
                "rounds": rounds,
                "shortfall": 100 * max(best - float(found.z[0]), 0.0) / (best - z[0, 0]),
                "violation": 100 * max(float(found.z[1]) - budget, 0.0) / budget,
                "stored": found.stored,
                "different": len(set(found.policies)),
                "calls": found.calls,
            }


def measure(o: Options) -> list[dict[str, Any]]:
    """One row for every preset, budget, method and number of rounds."""
    rows: list[dict[str, Any]] = []
    for name in tqdm(o.presets, desc="mixing", unit="preset"):
        z = plans(preset(name), o)
        for share in o.shares:
            found = compared(z, share * float(z[-1, 1]), o)
            rows += [{"preset": name, "budget_share": share, **row} for row in found]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("mixing", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if o.users < 1 or o.prices < 3:
        parser.error(f"--users {o.users} --prices {o.prices}: allowed are 1 and 3 or more")
    options = {k: v for k, v in asdict(o).items() if k != "out"}
    write_json(o.out, {**options, "rows": measure(o), **provenance()})
    print(f"{o.out}: done; python -m experiments.plot {o.out.parent} draws it")


if __name__ == "__main__":
    main()
