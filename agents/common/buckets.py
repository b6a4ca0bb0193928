"""What a user's bucket decides beside the part of a mixture that he follows."""

from __future__ import annotations

import numpy as np

from agents.common.mckp.keys import hashes
from agents.common.types import Array


def left_out(bucket: Array, members: int) -> Array:
    """(n,) the member that does not serve a user.

    From late digits of the bucket, the early ones say which part of a mixture the user follows.
    """
    return np.asarray(bucket * 2.0**26 % members).astype(np.int64)


def redrawn(bucket: Array, day: int) -> Array:
    """(n,) numbers in [0, 1] by which users draw anew on a day: no day tells of another."""
    key = (bucket * 2.0**53).astype(np.uint64) | np.uint64(day << 53)
    return hashes(None, key) / 2.0**64
