"""Peak memory: it sees what is used, and forgets what was."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run_alone(code: str) -> list[float]:
    """What a process of its own prints: libraries' threads here may free memory at any time."""
    head = "import numpy as np\nfrom experiments.memory import forget_peak, peak_memory\n"
    command = [sys.executable, "-c", head + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [float(word) for word in done.stdout.split()]


def test_a_large_array_shows_and_its_peak_stays() -> None:
    before, with_array, after = run_alone(
        "before = peak_memory()\n"
        "array = np.ones(8_000_000)\n"  # 64 MB, every page written
        "with_array = peak_memory()\n"
        "del array\n"
        "print(before, with_array, peak_memory())"
    )
    assert with_array - before > 50e6
    assert after > with_array - 5e6  # the system counts pages of threads with delay


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
def test_a_forgotten_peak_is_gone() -> None:
    peak, after = run_alone(
        "array = np.ones(8_000_000)\n"
        "peak = peak_memory()\n"
        "del array\n"
        "forget_peak()\n"
        "print(peak, peak_memory())"
    )
    assert after < peak - 50e6
