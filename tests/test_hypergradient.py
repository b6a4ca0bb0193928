"""Hypergradients against closed forms and against solving the lower problem again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.common.one_day.hypergradient import conjugate_gradient, hypergradient

torch.set_num_threads(1)


def symmetric(n: int, seed: int, eigenvalues: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.double))
    return q @ torch.diag(eigenvalues.double()) @ q.T


@given(st.integers(1, 8), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_conjugate_gradient_solves_in_as_many_steps_as_unknowns(n: int, seed: int) -> None:
    a = symmetric(n, seed, torch.linspace(0.5, 3.0, n))
    aim = torch.arange(1.0, n + 1, dtype=torch.double)
    found = conjugate_gradient(lambda p: a @ p, aim, n)
    assert torch.allclose(found, torch.linalg.solve(a, aim), atol=1e-8)


def test_few_steps_solve_part_of_a_system() -> None:
    a, aim = symmetric(20, 0, torch.linspace(0.1, 10.0, 20)), torch.ones(20, dtype=torch.double)
    error = [
        float((a @ conjugate_gradient(lambda p: a @ p, aim, steps) - aim).norm())
        for steps in (0, 3, 10, 20)
    ]
    assert error == sorted(error, reverse=True)
    assert error[0] == float(aim.norm())
    assert error[-1] < 1e-6


def test_products_are_not_asked_for_when_nothing_is_left() -> None:
    asked: list[Tensor] = []

    def identity(p: Tensor) -> Tensor:
        asked.append(p)
        return p

    aim = torch.tensor([3.0, 4.0])
    assert torch.equal(conjugate_gradient(identity, aim, 50), aim)
    assert len(asked) <= 2
    assert torch.equal(conjugate_gradient(identity, torch.zeros(2), 50), torch.zeros(2))


def test_a_concave_direction_ends_the_iteration() -> None:
    """Along the first axis the lower problem bends down: what was found before it stays."""
    aim = torch.tensor([0.0, 1.0, 1.0])
    down = torch.diag(torch.tensor([-1.0, 1.0, 2.0]))
    assert torch.isfinite(conjugate_gradient(lambda p: down @ p, aim, 50)).all()
    assert torch.equal(
        conjugate_gradient(lambda p: -p, torch.tensor([1.0, 0.0]), 50), torch.zeros(2)
    )


def regression(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows to learn from, some with wrong labels, and true rows."""
    rng = torch.Generator().manual_seed(seed)
    x, fresh = (torch.randn(n, 3, generator=rng, dtype=torch.double) for n in (12, 30))
    truth = torch.tensor([1.0, -2.0, 0.5], dtype=torch.double)
    wrong = (torch.arange(12) < 4) * 3.0
    return x, x @ truth + wrong, fresh, fresh @ truth


def descend(lower: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The lower solution by Newton steps."""
    for _ in range(30):
        theta = theta.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(lower(theta), theta)
        hessian = torch.autograd.functional.hessian(lower, theta)
        theta = theta - torch.linalg.solve(hessian, slope)
    return theta.detach().requires_grad_(True)


@pytest.mark.parametrize("convexity", [0.0, 0.1])
def test_the_gradient_is_the_finite_difference_of_solving_again(convexity: float) -> None:
    """Weights phi of rows; the lower loss is a weighted regression, quadratic or not."""
    x, y, fresh, told = regression(0)
    phi = torch.linspace(-1, 1, 12, dtype=torch.double)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        weighted = (torch.sigmoid(phi) * (x @ theta - y) ** 2).mean()
        return weighted + 0.05 * (theta**2).sum() + convexity * (theta**4).sum()

    def upper(theta: Tensor) -> Tensor:
        return ((fresh @ theta - told) ** 2).mean()

    def solved(phi: Tensor) -> Tensor:
        return descend(lambda theta: lower(theta, phi), torch.zeros(3, dtype=torch.double))

    theta, variable = solved(phi), phi.clone().requires_grad_(True)
    (found,) = hypergradient(
        upper(theta), lower(theta, variable), [theta], [variable], steps=10, damping=0.0
    )
    step, differences = 1e-4, torch.empty(12, dtype=torch.double)
    for row in range(12):
        up, down = phi.clone(), phi.clone()
        up[row], down[row] = phi[row] + step, phi[row] - step
        differences[row] = (upper(solved(up)) - upper(solved(down))).detach() / (2 * step)
    assert torch.allclose(found, differences, rtol=1e-4, atol=1e-6)


def test_damping_is_that_of_the_system() -> None:
    """L = theta' A theta / 2 - phi' theta, U = g' theta: the gradient is (A + mu I)^-1 g."""
    a, g = symmetric(4, 1, torch.tensor([0.0, 1.0, 2.0, 3.0])), torch.ones(4, dtype=torch.double)
    for mu in (0.1, 1.0):
        theta = torch.zeros(4, dtype=torch.double, requires_grad=True)
        phi = torch.zeros(4, dtype=torch.double, requires_grad=True)
        lower = theta @ a @ theta / 2 - phi @ theta
        (found,) = hypergradient(g @ theta, lower, [theta], [phi], steps=10, damping=mu)
        expected = torch.linalg.solve(a + mu * torch.eye(4, dtype=torch.double), g)
        assert torch.allclose(found, expected, atol=1e-8)


def test_several_tensors_and_unused_ones() -> None:
    one = torch.tensor([2.0], requires_grad=True)
    unused = torch.zeros(3, requires_grad=True)
    phi, idle = torch.tensor(1.0, requires_grad=True), torch.zeros(2, requires_grad=True)
    lower = ((one - phi) ** 2).sum()  # theta = phi
    found = hypergradient((one**2).sum(), lower, [one, unused], [phi, idle], steps=5, damping=0.0)
    assert torch.allclose(found[0], torch.tensor(4.0))
    assert torch.equal(found[1], torch.zeros(2))
