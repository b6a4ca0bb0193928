"""Decision losses: what users earn who get the arm that predictions call best.

At a price lambda of money users are independent: user i gets the arm of the largest score, and the
log says what that earns from those users who were given that very arm by chance. With

    a_ij = rhat_ij - lambda chat_ij     net_i = r_i - lambda c_i     w_i = 1 / p_{t_i} = N / N_{t_i}

for the arm t_i that the log gave, all losses are minus an estimate of the mean net value:

    pll   - mean_i w_i net_i softmax_j(a_ij)[t_i]
    merl  - mean_i w_i net_i softmax_j(a_ij / tau)[t_i]
    ifd   - D,   D = sum_M w_i net_i / sum_M w_i,   M = {i: t_i = argmax_j a_ij}
    dr    - mean_i sum_j pi_ij m_ij - sum_i v_i (net_i - m_{i,t_i}) / sum_i v_i
          with pi_ij = softmax_j(a_ij / tau),  v_i = w_i pi_{i,t_i}

ifd is flat almost everywhere, so its gradient is a finite difference: the least change of a score
that flips the decision on user i moves him into M, or out of it, and D to D'. The sums give D' - D
without solving anything again (`flip_gradient`), and show that users are compared with a baseline,
the mean D. pll and merl have none: a constant added to all net values changes their gradients.
With several arms a matched user leaves M by each of the others. All of these flips must count:
they balance those by which users of the other arms come in, so that who is more active than the
mean, whatever he gets, is not pushed anywhere.

dr is ours: m predicts net values without having learned from the user, so that only what m leaves
unexplained is weighted; and the weights are self-normalised, whose derivative subtracts the mean
residual, as D in ifd. Either part alone makes it consistent: true propensities, or a true m.

Several prices are leading dimensions of scores and net values; users and prices are averaged.

Sources: Zhou et al., Decision Focused Causal Learning for Direct Counterfactual Marketing
Optimization, KDD 2024, arXiv 2407.13664 (pll, merl, ifd), and its public code (ifd's clipping);
Swaminathan & Joachims, NeurIPS 2015 (self-normalised counterfactual risk); Dudik et al., ICML 2011
(doubly robust).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Clip = Literal["fix", "max"]

_BEYOND = 1e-6  # by which a flip passes the tie


def pll(scores: Tensor, arm: Tensor, net: Tensor, weight: Tensor) -> Tensor:
    """Policy learning loss; scores (..., m, K), net (..., m), arm and weight (m,)."""
    return merl(scores, arm, net, weight)


def merl(scores: Tensor, arm: Tensor, net: Tensor, weight: Tensor, *, tau: float = 1.0) -> Tensor:
    """Maximum entropy regularised loss: pll at a temperature; shapes as there."""
    return -(weight * net * _logged((scores / tau).softmax(-1), arm)).mean()


def ifd(
    scores: Tensor, arm: Tensor, net: Tensor, weight: Tensor, *, step: float, clip: Clip = "fix"
) -> Tensor:
    """Improved finite differences: value - D, gradient by flips; shapes as in `pll`.

    Args:
        step: see `flip_gradient`.
    """
    best = scores.detach().argmax(-1)
    matched = (best == arm)[..., None]
    arms = torch.arange(scores.shape[-1])
    rival = torch.where(matched, arms != arm[:, None], arms == best[..., None])
    lead = _logged(scores, arm)[..., None] - scores
    gradient = flip_gradient(lead.detach(), matched[..., 0], net, weight, step, clip)
    surrogate = (gradient * rival * lead).sum((-1, -2))
    value = _matched_mean(matched[..., 0], net, weight)[0].nan_to_num(0.0)
    return -(value + surrogate - surrogate.detach()).mean()


def flip_gradient(
    lead: Tensor, matched: Tensor, net: Tensor, weight: Tensor, step: float, clip: Clip
) -> Tensor:
    """(..., m, K) derivative of D by the logged arm's score; by its rival's, the negative.

    Raising an unmatched user's logged arm above the best one adds him to M; raising any other arm
    of a matched user above his removes him:

        D' - D = w_i (net_i - D) / (S + w_i)    or    - w_i (net_i - D) / (S - w_i),   S = sum_M w_i

    Divided by the change of the score, which is signed likewise. Nothing follows where M is empty,
    or holds nobody else.

    Args:
        lead: (..., m, K) score of the logged arm minus that of each rival.
        step: with clip "fix", flips that need less count as this change, all others not at all;
            with "max", every flip counts as the largest change of all users.
    """
    value, total = _matched_mean(matched, net, weight)
    change = weight * (net - value[..., None])
    change = change / (total[..., None] + torch.where(matched, -weight, weight))
    change = change.nan_to_num(0.0, 0.0, 0.0)[..., None]
    size = lead.abs() + _BEYOND
    if clip == "max":
        return (change / size.amax((-1, -2), keepdim=True)).expand_as(lead)
    return torch.where(size < step, change / step, 0.0)


def dr(
    scores: Tensor, arm: Tensor, net: Tensor, weight: Tensor, model: Tensor, *, tau: float = 1.0
) -> Tensor:
    """Self-normalised doubly robust loss; shapes as in `pll`.

    Args:
        model: (..., m, K) net values that are predicted by what did not learn from the user.
    """
    policy = (scores / tau).softmax(-1)
    share = weight * _logged(policy, arm)
    residual = (share * (net - _logged(model, arm))).sum(-1) / share.sum(-1)
    return -((policy * model).sum(-1).mean(-1) + residual).mean()


def _logged(values: Tensor, arm: Tensor) -> Tensor:
    """(..., m) of the logged arm, from (..., m, K)."""
    return values[..., torch.arange(len(arm)), arm]


def _matched_mean(matched: Tensor, net: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """D (nan if nobody matches) and S, both (...)."""
    share = torch.where(matched, weight, 0.0)
    total = share.sum(-1)
    return (share * net).sum(-1) / total, total
