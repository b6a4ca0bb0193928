"""Peak memory: it sees what is used, and forgets what was."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from experiments.memory import forget_peak, peak_memory


def test_a_large_array_shows_and_its_peak_stays() -> None:
    forget_peak()
    before = peak_memory()
    array = np.ones(8_000_000)  # 64 MB, every page written
    with_array = peak_memory()
    assert with_array - before > 50e6
    del array
    assert peak_memory() > with_array - 5e6  # the system counts pages of threads with delay


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_a_forgotten_peak_is_gone() -> None:
    array = np.ones(8_000_000)
    peak = peak_memory()
    del array
    forget_peak()
    assert peak_memory() < peak - 50e6
