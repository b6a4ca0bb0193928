"""A randomised one-shot trial whose every counterfactual is known: the LBCF generator.

A user has four features, H1..H4, and gets one of four arms A = 0..3 once. With z, e standard normal
and v uniform on [0, 1], one draw each per user, shared by all arms,

    U = 3 + 1.5 W z
    Value(A) = U + A (w1 H2^2 + w2 H3^2 + w3 H4^2) + 0.5 W e
    M(A) = A |A (w4 H3^2 + w5 H4) + U|
    Cost(A) = M(A) / W + v (M(A) - M(A) / W)

so that cost is uniform between M / W and M, and nothing for A = 0. W is the level of noise.

Source: Ai et al., LBCF, WWW 2022, section 5.1 and the authors' code.

Differences from the paper:
1. The noise of a user is the same under every arm; there each potential outcome has its own.
2. The shift of weights between training and test is a choice, off by default; there it is built in.
3. The weights are our own draws: the published ones depend on the generator of another language.
4. There is one logged arm per user, at random; there every arm of every user is a row.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from marketing_env.config import Array
from marketing_env.dataset import LoggedDataset

ARMS = 4
COLUMNS = ("H1", "H2", "H3", "H4")
WEIGHT_MEANS = (0.0, 0.0, 2.0, 2.0, 4.0)  # of w1..w5, each with standard deviation 1


@dataclass(frozen=True)
class OneShotConfig:
    """The trial's world and size.

    Raises:
        ValueError: for a noise below 1, which would reverse the interval of the cost, or no users.
    """

    noise: float = 5.0  # W; the paper has 5, 10, 15 and 20
    shift: bool = False  # the test world has weights of its own
    users_per_arm: int = 20_000  # on average: arms are drawn independently
    world: int = 0  # seed of the weights
    seed: int = 0  # of the users

    def __post_init__(self) -> None:
        if not (self.noise >= 1 and math.isfinite(self.noise)):
            raise ValueError(f"noise = {self.noise}: allowed is 1 or more")
        if self.users_per_arm < 1:
            raise ValueError(f"users_per_arm = {self.users_per_arm}: allowed is 1 or more")

    def weights(self, *, test: bool = False) -> Array:
        """w1..w5 of the training or the test world."""
        rng = np.random.default_rng([self.world, 8, int(self.shift and test)])
        return rng.normal(WEIGHT_MEANS, 1.0)


class Trial(NamedTuple):
    """What was logged, and what would have been: tables (n, K) of every user under every arm.

    The best possible allocation is the knapsack of `value` and `cost`; the best that features can
    give is that of their expectations.
    """

    log: LoggedDataset  # horizon 1, random arms, propensity 1/4
    value: Array
    cost: Array  # currency
    expected_value: Array  # given the features
    expected_cost: Array


def lbcf(config: OneShotConfig = OneShotConfig(), *, test: bool = False) -> Trial:
    """Draw the users of the training or of the test, with all of their potential outcomes.

    The first users of a larger trial are the users of the smaller one.
    """
    n, w, arms = ARMS * config.users_per_arm, config.noise, np.arange(ARMS)
    normal = np.random.default_rng([config.seed, 9, int(test)]).standard_normal((n, 6))
    uniform = np.random.default_rng([config.seed, 10, int(test)]).random((n, 3))
    features = _features(normal[:, :4])
    lift, load = _per_arm(features, config.weights(test=test))
    latent = 3 + 1.5 * w * normal[:, 4:5]
    value = latent + arms * lift + 0.5 * w * normal[:, 5:]
    largest = arms * np.abs(arms * load + latent)
    cost = largest * (1 + (w - 1) * uniform[:, :1]) / w
    expected_largest = arms * _mean_size(arms * load + 3, 1.5 * w)
    return Trial(
        _logged(config, features, value, cost, uniform),
        value,
        cost,
        expected_value=3 + arms * lift,
        expected_cost=expected_largest * (1 + w) / (2 * w),
    )


def _features(normal: Array) -> Array:
    """(n, 4) H1..H4, each from the ones before it."""
    h1 = 0.5 + normal[:, 0]
    h2 = 2 * h1**2 + 2.5 * normal[:, 1]
    h3 = 2 * h1 + 1.4 * h2 + 2 * normal[:, 2]
    h4 = -0.5 + 0.7 * h3 + 0.3 * h2 + normal[:, 3]
    return np.stack([h1, h2, h3, h4], axis=1)


def _per_arm(features: Array, weights: Array) -> tuple[Array, Array]:
    """(n, 1) what one more level of the arm adds to the value, and inside of M."""
    _, h2, h3, h4 = features.T
    w1, w2, w3, w4, w5 = weights
    lift, load = w1 * h2**2 + w2 * h3**2 + w3 * h4**2, w4 * h3**2 + w5 * h4
    return lift[:, None], load[:, None]


def _mean_size(mean: Array, sd: float) -> Array:
    """E |X| of a normal X (folded normal)."""
    z = mean / sd
    error = np.vectorize(math.erf)(z / math.sqrt(2))
    return np.asarray(sd * math.sqrt(2 / math.pi) * np.exp(-(z**2) / 2) + mean * error)


def _logged(
    config: OneShotConfig, features: Array, value: Array, cost: Array, uniform: Array
) -> LoggedDataset:
    """One arm of each user, drawn by the second uniform; the third is the bucket."""
    arm = np.floor(ARMS * uniform[:, 1:2]).astype(np.int64)
    return LoggedDataset(
        obs=np.repeat(features[:, None], 2, axis=1),
        action=arm,
        propensity=np.full(arm.shape, 1 / ARMS),
        reward=np.take_along_axis(value, arm, axis=1),
        cost=np.take_along_axis(cost, arm, axis=1),
        valid=np.ones(arm.shape, dtype=bool),
        bucket=uniform[:, 2],
        meta={
            "source": "lbcf",
            "columns": list(COLUMNS),
            "incentives": [float(level) for level in range(ARMS)],
            "reward_unit": "value",
            "config": asdict(config),
        },
    )
