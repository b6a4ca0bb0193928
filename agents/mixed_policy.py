"""Mixed-policy offline constrained learner: the main method.

A campaign is a constrained Markov decision process: maximise the mean reward per user subject to
a mean cost of at most the budget (and, if wanted, a mean number of contacts of at most a cap). In
the game between prices and policies, the policy player's best responses to *every* price of a grid
come from one backward pass over the log (`values/fitted_q.py`); their values are read from the
members that did not see the user; and a linear program mixes at most m + 1 of them to meet any m
limits (`games/frontier.py`, `games/game.py`):

    max_w  sum_k w_k R_k   s.t.  sum_k w_k C_k <= B,  sum_k w_k = 1,  w >= 0

Each user draws one policy for the whole campaign. No retraining when the budget changes. The
certificate is the Lagrangian bound  min_g lambda_g B + (R_g - lambda_g C_g)  of the same values:
how much more the best policy could earn if the model were true.

Source: Cai et al., Marketing Budget Allocation with Offline Constrained Deep Reinforcement
Learning, WSDM 2023, arXiv 2309.02669; theory in arXiv 2108.12916.

Differences from the paper:
1. Oracle: one finite-horizon backward pass answers a whole grid of prices, instead of one offline
   reinforcement-learning run per round of the game.
2. The outcome of the logged day is integrated out by an outcome model instead of sampled
   (`values/factored_q.py`); `oracle="plain"` regresses on logged outcomes (`values/plain_q.py`).
3. Optimum by a linear program over the grid instead of a sequence of feasibility problems; the
   whole frontier is kept, so any later budget is another mixture of few policies.
4. Policies are kept to incentives that the log tried (`values/support.py`), and `pessimism` lowers
   the gains on which cross-fitted members disagree.
5. Costs enter the program with a margin, so that spending more than `leeway` beyond a budget is
   as rare as `risk`; the forecast says whether the log's own policy is beaten at equal spend, and
   whether users differ in what the log does not show (`values/dispersion.py`).
6. `for_users` plans for the users whom a campaign will meet instead of those of the log.
7. `pacing` solves the mixture again every morning for the money that is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agents.common import files
from agents.common.games.frontier import Frontier
from agents.common.nets import Track, no_track
from agents.common.types import Array, Forecast
from agents.common.values.acting import PacedMixture
from agents.common.values.responses import Responses, Settings, learn_responses
from agents.common.values.support import Support
from marketing_env import LoggedDataset, Policy


@dataclass(frozen=True)
class Config(Settings):
    """Settings of the learner: those of its oracle, and what it may limit."""

    contacts: bool = False  # price contacts too, for `policy(budget, contacts=...)`
    pacing: bool = False  # solve the mixture again every morning for the money that is left


@dataclass(frozen=True)
class Model:
    """A trained learner: answers every budget."""

    config: Config
    responses: Responses

    @property
    def frontier(self) -> Frontier:
        """What the best responses earn and cost."""
        return self.responses.frontier

    @property
    def support(self) -> Support | None:
        """Where the log is silent; None if it tried everything everywhere."""
        return self.responses.support

    def policy(self, budget: float, contacts: float = np.inf) -> Policy:
        """The best mixture of at most m + 1 policies at a budget.

        Args:
            budget: currency per user per campaign.
            contacts: cap on the mean number of incentives per user per campaign.

        Raises:
            ValueError: if a limit is below what giving no incentives takes, or contacts are capped
                though `Config.contacts` did not ask for their price.
        """
        known = self.responses
        limits = self._limits(budget, contacts)
        weight = self.frontier.mix(limits).weight
        if not self.config.pacing:
            return known.mixed(weight)
        return PacedMixture(known.policies, weight, limits, known.responder, self.frontier)

    def forecast(self, budget: float, contacts: float = np.inf) -> Forecast:
        """What the model expects of `policy(budget, contacts)`, with errors and certificate."""
        return self.frontier.forecast(self._limits(budget, contacts))

    def for_users(self, obs: Array) -> Model:
        """The same model, planned for users of whom (n, d) observations of day 0 are known.

        Everyone is taken to be there from day 0: of users who join later, no plan is made here.
        """
        return replace(self, responses=self.responses.for_users(obs))

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors` and `model.json`."""
        self.responses.save(folder, "mixed_policy", self.config)

    def _limits(self, budget: float, contacts: float) -> tuple[float, ...]:
        if self.config.contacts:
            return budget, contacts
        if contacts != np.inf:
            raise ValueError(f"contacts = {contacts!r}: allowed is inf; train with contacts=True")
        return (budget,)


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
    if responses is None:
        responses = learn_responses(log, config, seed, contacts=config.contacts, track=track)
    return Model(config, responses)


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta = files.read_meta(folder)
    config = Config(**meta["config"])
    return Model(config, Responses.load(folder, config, meta))
