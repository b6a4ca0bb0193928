"""How much foresight is worth: the myopic policy that knows every response, against the optimum.

    python -m experiments.myopia --users 300 --seeds 5

Both know the simulator's secrets. The myopic one weighs an incentive's effect on the same day
alone; what it loses is due to habit, purchase acceleration and fatigue, not to estimation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import cli
from experiments.campaigns import budgets
from experiments.results import ROOT, provenance, write_json
from experiments.settings import PRESETS, Setting
from marketing_env import CampaignConfig, preset, sample_users
from marketing_env.config import Array
from marketing_env.exact import curve, spend_prices

_FEW = 60  # users from whom the range of prices is read
_PRICES = 28  # plans between the smallest and the largest budget


@dataclass(frozen=True)
class Options:
    """How many users, and where the result goes."""

    users: int = 300  # per seed
    seeds: int = 5  # populations of other users
    presets: tuple[str, ...] = PRESETS  # campaigns
    shares: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.6)  # of the unconstrained optimum's spend
    out: Path = ROOT / "results" / "myopia.json"  # JSON; experiments.plot draws it


def price_grid(config: CampaignConfig, budget: Array, foresight: float) -> Array:
    """Prices whose plans spend from half the smallest to beyond the largest budget, and 0."""
    few = sample_users(config, _FEW, seed=900)
    top = curve(config, few, 0.0).cost[-1]
    _, around = spend_prices(config, few, [min(budget) / top, min(1.0, max(budget) / top)])
    wide = np.geomspace(around.max() * 30, max(around.min(), around.max() / 1e3) / 30, 40)
    cost = curve(config, few, wide, foresight=foresight).cost[1:]  # the first plan spends nothing
    near = wide[(cost > 0.5 * min(budget)) & (cost < 1.3 * max(budget))]
    low, high = (min(near), max(near)) if len(near) else (min(wide), max(wide))
    return np.concatenate([[0.0], np.geomspace(low, high, _PRICES)])


def scores(
    config: CampaignConfig, budget: Array, *, users: int, seed: int, prices: Sequence[Array]
) -> Array:
    """(B,) 100 * gain of the myopic policy / gain of the exact optimum, for one population.

    Args:
        prices: grids for the optimum and for the myopic policy. The optimum's is a bound from
            above, the myopic policy's the best mixture of its plans.
    """
    people = sample_users(config, users, seed)
    best = curve(config, people, prices[0])
    myopic = curve(config, people, prices[1], foresight=0.0)
    idle = best.reward[0]
    return np.asarray(100 * (myopic.reward_at(budget) - idle) / (best.bound_at(budget) - idle))


def measure(o: Options) -> dict[str, Any]:
    """Scores of every preset, (seeds, budgets), with the budgets in currency per user."""
    found: dict[str, Any] = {}
    with tqdm(total=len(o.presets) * o.seeds, desc="myopia", unit="population") as bar:
        for name in o.presets:
            bar.set_postfix_str(name)
            config = preset(name)
            budget = np.array(budgets(Setting(name, name, budget_shares=o.shares)))
            prices = [price_grid(config, budget, foresight) for foresight in (1.0, 0.0)]
            rows = []
            for seed in range(o.seeds):
                rows.append(scores(config, budget, users=o.users, seed=seed, prices=prices))
                bar.update()
            found[name] = {"budget": budget.tolist(), "score": np.array(rows).tolist()}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.command("myopia", __doc__, Options)
    o = cli.from_options(Options, parser.parse_args(argv))
    if o.users < 1 or o.seeds < 1:
        parser.error(f"--users {o.users} --seeds {o.seeds}: allowed is 1 or more")
    options = {k: v for k, v in asdict(o).items() if k != "out"}
    write_json(o.out, {**options, "found": measure(o), **provenance()})
    print(f"{o.out}: done; python -m experiments.plot {o.out.parent} draws it")


if __name__ == "__main__":
    main()
