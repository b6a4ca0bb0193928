"""d3rlpy's offline learners as best-response oracles in the game between a price and policies.

For each price lambda of a grid, a discrete learner of d3rlpy maximises  r - lambda * c  on the
log; fitted Q evaluation, once for the reward and once for the cost, says what its policy is worth;
and a linear program mixes at most two policies to meet any budget (`games/game.py`):

    max_w  sum_k w_k R_k   s.t.  sum_k w_k C_k <= B,  sum_k w_k = 1,  w >= 0

One of the policies gives nothing. Of d3rlpy's learners, Double DQN trusts its values everywhere,
CQL lowers them where the log seldom acts, and BCQ does not act there.

Sources: Cai et al., Marketing Budget Allocation with Offline Constrained Deep Reinforcement
Learning, WSDM 2023, arXiv 2309.02669; d3rlpy, Seno & Imai, JMLR 23(315), 2022, for DiscreteCQL
(Kumar et al., NeurIPS 2020), DiscreteBCQ (Fujimoto et al., arXiv 1910.01708), DoubleDQN (van
Hasselt et al., AAAI 2016) and DiscreteFQE (Le et al., ICML 2019).

Differences from the paper:
1. A grid of prices serves every budget, instead of one game for one budget; `Config.refine_at` lets
   column generation add the prices that given budgets ask for.
2. Policies are evaluated on users from whom no learner learned, and fitted Q evaluation is
   corrected by the errors that it makes there (`Oracle.judge`).
3. Costs enter the program with a confidence margin (`Config.risk`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from agents.common import files
from agents.common.bounds import check
from agents.common.games.frontier import secured
from agents.common.games.game import Master, solve_master
from agents.common.nets import Track, calendar, no_track
from agents.common.types import Array, Forecast
from marketing_env import DayView, LoggedDataset, MixedPolicy

_ROWS = 8192  # user-days predicted at once, so that hidden layers stay small


@dataclass(frozen=True)
class Config:
    """Settings of the learner; the defaults take minutes of one core on a month's campaign."""

    algorithm: Literal["cql", "bcq", "ddqn"] = "cql"  # conservative, batch-constrained, Double DQN
    prices: int = 8  # best responses between unconstrained and almost no spending
    refine_at: Sequence[float] | None = None  # currency per user; each adds the price it needs
    steps: int = 3000  # gradient steps of the learner, per price
    updates: int = 1500  # gradient steps of evaluation, per policy, for reward and cost each
    batch: int = 1024  # user-days per step
    learning_rate: float = 3e-3  # of the first step; it falls to 0 along a cosine
    alpha: float = 0.03  # weight of CQL's penalty, against daily rewards of at most about 1
    flexibility: float = 0.3  # BCQ's least logging probability, relative to the likeliest incentive
    width: int = 128  # of both hidden layers
    judge_share: float = 0.5  # of users, kept from learners to evaluate their policies
    risk: float = 0.05  # accepted probability that a plan violates its budget
    device: str = "cpu"
    progress: bool = True  # show progress bars on a terminal

    def __post_init__(self) -> None:
        check(self)


class UserDays(NamedTuple):
    """The valid user-days of a log: user after user, and the days of each in their order."""

    obs: Array  # (N, d + 3) float32, with the calendar
    action: Array  # (N,) int64
    propensity: Array  # (N,)
    outcome: Array  # (N, 2) reward and cost
    last: Array  # (N,) bool: the user's last day; on any other, the next row is his next day
    first: Array  # rows of the first day of each user who has any
    n_users: int


class Response(NamedTuple):
    """A policy and what it is worth, per user per campaign."""

    price: float  # that it responds to; inf gives nothing
    reward: float
    cost: float  # currency
    reward_error: float  # standard error
    cost_error: float
    learner: Any  # of d3rlpy


class Constant:
    """Always the same incentive, in a place where d3rlpy expects a learner."""

    impl = property(lambda self: self)

    def __init__(self, action: int) -> None:
        self.action = action

    def predict(self, obs: Array) -> Array:
        return np.full(len(obs), self.action)

    def predict_best_action(self, obs: Tensor) -> Tensor:
        return torch.full((len(obs),), self.action, device=obs.device)


class Greedy:
    """What a learner does with the users of a day."""

    def __init__(self, learner: Any, n_actions: int, horizon: int) -> None:
        self.learner, self.n_actions, self.horizon = learner, n_actions, horizon

    def probs(self, view: DayView) -> Array:
        obs = with_calendar(view.obs, np.full(len(view.obs), view.day), self.horizon)
        return np.asarray(np.eye(self.n_actions)[in_parts(self.learner.predict, obs)])


class Oracle:
    """Trains best responses on one part of a log's users and judges them on the other."""

    def __init__(self, log: LoggedDataset, config: Config, seed: int, track: Track) -> None:
        learn, test = log.split(1 - config.judge_share, seed)
        self.learn, self.test = user_days(learn), user_days(test)
        self.config, self.track = config, track
        self.n_actions, self.horizon = log.n_actions, log.horizon
        self.rng = np.random.default_rng([seed, 12])
        # An evaluation hands the policy observations that it has scaled: all share one scaler.
        mean, std = self.learn.obs.mean(axis=0), self.learn.obs.std(axis=0)
        self.scaler = _d3rlpy().preprocessing.StandardObservationScaler(mean=mean, std=std)

    def respond(self, price: float) -> Response:
        """Train the algorithm at a price, and judge its policy."""
        algos, c = _d3rlpy().algos, self.config
        settings = self._settings(c.steps)
        configs: dict[str, Callable[[], Any]] = {
            "cql": lambda: algos.DiscreteCQLConfig(alpha=c.alpha, **settings),
            # As its authors have it: a network of its own for the logging policy, whose penalty
            # (0.5 by d3rlpy's default) does not make rare incentives look common.
            "bcq": lambda: algos.DiscreteBCQConfig(
                action_flexibility=c.flexibility, beta=0.01, share_encoder=False, **settings
            ),
            "ddqn": lambda: algos.DoubleDQNConfig(**settings),
        }
        learner = configs[c.algorithm]().create(c.device)
        reward = self.learn.outcome @ [1.0, -price]
        self._train(learner, self.learn, reward / scale(reward), c.steps, f"price_{price:.3g}")
        return self.judge(price, learner)

    def judge(self, price: float, learner: Any) -> Response:
        """Fitted Q evaluation of a policy, corrected by its errors where the log did the same:

            mean over users of  V(s_1) + sum_t 1[a_t = pi] / p_t * (m_t + V(s_t+1) - Q(s_t, a_t))

        for the reward and the cost m. Weighted by how much more often the policy meets a state than
        the log does, it would be the doubly robust estimate of Kallus & Uehara (JMLR 21, 2020);
        without that ratio, errors in states that the log seldom meets count too little.
        """
        days = self.test
        action = in_parts(learner.predict, days.obs)
        value = np.stack([self._values(price, learner, action, i) for i in range(2)], axis=1)
        following = np.where(days.last[:, None], 0.0, np.roll(value, -1, axis=0))
        weight = (action == days.action) / days.propensity
        wrong = weight[:, None] * (days.outcome + following - value)
        total = np.zeros((days.n_users, 2))
        total[: len(days.first)] = value[days.first] + np.add.reduceat(wrong, days.first)
        reward, cost = total.mean(axis=0).tolist()
        reward_error, cost_error = (total.std(axis=0) / len(total) ** 0.5).tolist()
        return Response(price, reward, max(cost, 0.0), reward_error, cost_error, learner)

    def _values(self, price: float, learner: Any, action: Array, i: int) -> Array:
        """(N,) what outcome i comes to, from each user-day on, when these actions are chosen."""
        ope, c = _d3rlpy().ope, self.config
        fqe = ope.DiscreteFQE(learner, ope.FQEConfig(**self._settings(c.updates)), c.device)
        outcome, name = self.test.outcome[:, i], ("reward", "cost")[i]
        unit = scale(outcome)
        self._train(fqe, self.test, outcome / unit, c.updates, f"price_{price:.3g}/{name}")
        return unit * in_parts(fqe.predict_value, self.test.obs, action)

    def _settings(self, steps: int) -> dict[str, Any]:
        """What d3rlpy's learners and its evaluation have in common."""
        d3rlpy, c = _d3rlpy(), self.config
        schedule = d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=steps)
        return {
            "batch_size": c.batch,
            "learning_rate": c.learning_rate,
            "gamma": 1.0,  # campaigns end, and the day is observed
            # Each copy to the target network carries values one day further back.
            "target_update_interval": max(1, steps // (2 * self.horizon)),
            "observation_scaler": self.scaler,
            "encoder_factory": d3rlpy.models.VectorEncoderFactory([c.width, c.width]),
            "optim_factory": d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=schedule),
        }

    def _train(self, algo: Any, days: UserDays, reward: Array, steps: int, tag: str) -> None:
        """d3rlpy's gradient steps on batches cut from arrays.

        Its replay buffer makes a Python object of every transition, which takes longer than a step.
        """
        minibatch = _d3rlpy().dataset.TransitionMiniBatch
        algo.create_impl(days.obs.shape[1:], self.n_actions)
        action, reward, last = (
            x[:, None].astype(np.float32) for x in (days.action, reward, days.last)
        )
        n, interval = len(last), np.ones((self.config.batch, 1), np.float32)
        for step in range(steps):
            now = self.rng.integers(n, size=self.config.batch)
            then = (now + 1) % n
            batch = minibatch(
                days.obs[now], action[now], reward[now], days.obs[then], action[then], last[now],
                interval, transitions=(),
            )  # fmt: skip
            loss = algo.update(batch)["loss"]
            if step % 50 == 0 or step == steps - 1:
                self.track(f"{tag}/loss", float(loss), step)


@dataclass(frozen=True)
class Model:
    """Trained best responses: answers every budget."""

    config: Config
    responses: tuple[Response, ...] = field(repr=False)  # by price; the last gives nothing
    n_actions: int
    horizon: int

    def policy(self, budget: float) -> MixedPolicy:
        """The best mixture of at most two policies at a budget (currency per user per campaign).

        Raises:
            ValueError: if the budget is below the cost of giving no incentives.
        """
        weight = mixture(self.responses, budget, self.config.risk).weight
        used = np.flatnonzero(weight).tolist()
        learners = [self.responses[k].learner for k in used]
        parts = [Greedy(learner, self.n_actions, self.horizon) for learner in learners]
        return MixedPolicy(parts, weight[used])

    def forecast(self, budget: float) -> Forecast:
        """What the model expects of `policy(budget)`, with errors and certificate."""
        w = mixture(self.responses, budget, self.config.risk).weight
        *priced, idle = self.responses
        reward, cost, *errors = (w @ np.array([r[1:5] for r in self.responses])).tolist()
        # Without a price, money that is not spent earns nothing, and be it infinite.
        bounds = [r.reward + (r.price * (budget - r.cost) if r.price else 0.0) for r in priced]
        return Forecast(
            reward=reward,
            reward_error=errors[0],
            cost=cost,
            cost_error=errors[1],
            bound=max(reward, min(bounds)),
            baseline=idle.reward,
            prices=tuple(self.responses[k].price for k in np.flatnonzero(w)),
            weights=tuple(w[w > 0].tolist()),
        )

    def save(self, folder: str | Path) -> None:
        """Write `model.safetensors`, and `model.json` with d3rlpy's own description."""
        *priced, _ = self.responses
        tensors: dict[str, Tensor] = {}
        for k, response in enumerate(priced):
            tensors |= files.prefixed(str(k), _networks(response.learner))
        learner = priced[0].learner
        described = _d3rlpy().base.LearnableConfigWithShape(
            learner.observation_shape, learner.action_size, learner.config
        )
        meta = {
            "config": asdict(self.config),
            "responses": [dict(zip(r._fields[:5], r[:5], strict=True)) for r in self.responses],
            "learner": json.loads(described.serialize()),
            "n_actions": self.n_actions,
            "horizon": self.horizon,
        }
        files.save_model(folder, "d3rlpy_price", tensors, meta)


def fit(
    log: LoggedDataset, config: Config = Config(), seed: int = 0, *, track: Track = no_track
) -> Model:
    """Learn from a log alone; one training serves every budget.

    Args:
        track: receives learning curves, like TensorBoard's `add_scalar`.
    """
    torch.manual_seed(seed)
    oracle = Oracle(log, config, seed, track)
    idle = oracle.judge(np.inf, Constant(0))
    if not log.cost[log.valid & (log.action == 0)].any():
        idle = idle._replace(cost=0.0, cost_error=0.0)
    grid = choose_prices(oracle.learn, config.prices)
    bar = tqdm(grid, desc="best responses", disable=None if config.progress else True)
    responses = [idle, *(oracle.respond(price) for price in bar)]
    for budget in config.refine_at or ():
        price = mixture(responses, budget, config.risk).price[0]
        responses.append(oracle.respond(float(price)))
    responses.sort(key=lambda response: response.price)
    for k, response in enumerate(responses):
        track("frontier/reward", response.reward, k)
        track("frontier/cost", response.cost, k)
    return Model(config, tuple(responses), log.n_actions, log.horizon)


def load(folder: str | Path) -> Model:
    """Read a model that `Model.save` wrote."""
    meta, tensors = files.read_meta(folder), files.read_tensors(folder)
    described = _d3rlpy().base.LearnableConfigWithShape.deserialize_from_dict(meta["learner"])
    responses = []
    for k, numbers in enumerate(meta["responses"]):
        learner: Any = Constant(0)
        if np.isfinite(numbers["price"]):
            learner = described.create("cpu")
            _networks(learner).load_state_dict(files.under(str(k), tensors))
        responses.append(Response(**numbers, learner=learner))
    return Model(Config(**meta["config"]), tuple(responses), meta["n_actions"], meta["horizon"])


def mixture(responses: Sequence[Response], budget: float, risk: float) -> Master:
    """The best mixture within the budget, costs taken with their confidence margin."""
    reward, cost, error = np.array([(r.reward, r.cost, r.cost_error) for r in responses]).T
    return solve_master(np.stack([reward, secured(cost, error, risk)], axis=1), budget)


def choose_prices(days: UserDays, n: int) -> list[float]:
    """0, and a geometric grid around what a unit of money earns at most on its own day.

    Lasting effects make it worth more, and the grid ends at 4 times; where much is spent already,
    it is worth less, and the grid starts at a thirtieth.
    """
    rows = [days.action == a for a in np.unique(days.action)]
    mean = [np.average(days.outcome[at], 0, 1 / days.propensity[at]) for at in rows]
    gain, extra = np.abs(mean - min(mean, key=lambda m: m[1])).T
    top = (gain[extra > 0] / extra[extra > 0]).max(initial=0.0)
    return [0.0, *np.geomspace(top / 30, 4 * top, n - 1).tolist()] if top else [0.0]


def user_days(log: LoggedDataset) -> UserDays:
    """Flatten a log; after a gap follows the user's next valid day."""
    user, day = np.nonzero(log.valid)
    last = np.append(user[1:] != user[:-1], True)
    return UserDays(
        obs=with_calendar(log.obs[user, day], day, log.horizon),
        action=log.action[user, day].astype(np.int64),
        propensity=log.propensity[user, day],
        outcome=np.stack([log.reward[user, day], log.cost[user, day]], axis=1),
        last=last,
        first=np.flatnonzero(np.roll(last, 1)),
        n_users=log.n_users,
    )


def with_calendar(obs: Array, day: Array, horizon: int) -> Array:
    """(n, d + 3) float32: values depend on the days left, whether the log observes them or not."""
    return np.hstack([obs, calendar(torch.as_tensor(day), horizon).numpy()]).astype(np.float32)


def in_parts(answer: Callable[..., Array], *arrays: Array) -> Array:
    """`answer(*arrays)`, some rows at a time."""
    cuts = range(_ROWS, len(arrays[0]), _ROWS)
    parts = zip(*(np.split(x, cuts) for x in arrays), strict=True)
    return np.concatenate([answer(*part) for part in parts])


def scale(x: Array) -> float:
    """Almost the largest size in x, to divide by.

    d3rlpy's loss is Huber's, which bends at 1: it would take the mean of rare large outcomes for
    lower than it is.
    """
    size = np.abs(x[x != 0])
    return float(np.quantile(size, 0.999)) if len(size) else 1.0


def _networks(learner: Any) -> torch.nn.ModuleDict:
    """What decides; target networks only teach."""
    modules = learner.impl.modules.get_torch_modules()
    return torch.nn.ModuleDict({k: m for k, m in modules.items() if not k.startswith("targ_")})


def _d3rlpy() -> Any:
    try:
        import d3rlpy
    except ImportError as error:
        raise ImportError("d3rlpy is not installed: pip install 'marketing-env[d3rlpy]'") from error
    return d3rlpy
