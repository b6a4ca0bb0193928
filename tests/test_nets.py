"""Rounded products end where learning ends, whoever leaves first."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agents.common.nets import bfloat16_products

PRODUCTS: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})


def test_products_are_rounded_inside_alone() -> None:
    before = PRODUCTS.fp32_precision
    with bfloat16_products():
        assert PRODUCTS.fp32_precision == "bf16" != before
    assert PRODUCTS.fp32_precision == before


def test_an_error_inside_ends_the_rounding() -> None:
    before = PRODUCTS.fp32_precision
    with pytest.raises(KeyError), bfloat16_products():
        raise KeyError
    assert PRODUCTS.fp32_precision == before


def test_two_at_once_end_with_the_last() -> None:
    before = PRODUCTS.fp32_precision
    first, second = bfloat16_products(), bfloat16_products()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert PRODUCTS.fp32_precision == "bf16"
    second.__exit__(None, None, None)
    assert PRODUCTS.fp32_precision == before


def test_other_processors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": False})
    before = PRODUCTS.fp32_precision
    with bfloat16_products():
        assert PRODUCTS.fp32_precision == before
