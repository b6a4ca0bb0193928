"""How what one problem is worth depends on the settings of another that is solved below it.

Two levels: phi decides what theta learns, and theta what is earned,

    min_phi U(theta(phi))   s.t.   theta(phi) = argmin_theta L(theta, phi)

At the lower solution dL / dtheta is 0 whatever phi is. The implicit function theorem gives how
theta follows phi, and with it, H being the Hessian of L in theta,

    dU / dphi = - v' d^2 L / dtheta dphi   where   (H + mu I) v = dU / dtheta

Conjugate gradients solve for v by products H p = d(p' dL / dtheta) / dtheta, so that H is never
formed. The damping mu > 0 makes up for directions in which L is flat. Networks are not convex:
the iteration ends at the first direction in which L is not, and keeps what it has.

Sources: Pedregosa, ICML 2016 (implicit hypergradients, solved inexactly); Rajeswaran et al.,
NeurIPS 2019 (conjugate gradients on networks, damping); Steihaug, SIAM J. Numer. Anal. 20 (1983)
(ending at non-positive curvature).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ENOUGH = 1e-6  # residual, relative to the right-hand side, at which a system counts as solved


def hypergradient(
    upper: Tensor,
    lower: Tensor,
    theta: Sequence[Tensor],
    phi: Sequence[Tensor],
    *,
    steps: int,
    damping: float,
) -> tuple[Tensor, ...]:
    """dU / dphi, in the shapes of phi.

    Args:
        upper: U, a function of theta alone.
        lower: L, a function of both that can be differentiated twice.
        steps: Hessian-vector products, at most.
        damping: mu.
    """
    theta, phi = tuple(theta), tuple(phi)
    aim = _flat(torch.autograd.grad(upper, theta, materialize_grads=True))
    slope = _flat(torch.autograd.grad(lower, theta, create_graph=True, materialize_grads=True))

    def product(p: Tensor) -> Tensor:
        along = torch.autograd.grad(slope, theta, p, retain_graph=True, materialize_grads=True)
        return _flat(along) + damping * p

    v = conjugate_gradient(product, aim, steps)
    return torch.autograd.grad(slope, phi, -v, materialize_grads=True)


def conjugate_gradient(product: Callable[[Tensor], Tensor], aim: Tensor, steps: int) -> Tensor:
    """v (n,) with product(v) = aim (n,), for a symmetric product; started from 0."""
    v, residual, direction = torch.zeros_like(aim), aim, aim
    size = residual @ residual
    enough = _ENOUGH**2 * size
    for _ in range(steps):
        image = product(direction)
        curvature = direction @ image
        if size <= enough or curvature <= 0:
            break
        v = v + size / curvature * direction
        residual = residual - size / curvature * image
        size, before = residual @ residual, size
        direction = residual + size / before * direction
    return v


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
