"""Peak memory of the process: what a run needs of a machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def forget_peak() -> None:
    """Start a new peak, where the system can (Linux): else the next one is the process's own."""
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> float:
    """Largest resident memory in bytes, libraries and log included; NaN where nobody knows."""
    try:
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", (_PROC / "status").read_text())
    except (OSError, ValueError):
        return _of_resource()
    return 1024.0 * int(kilobytes)


def _of_resource() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
