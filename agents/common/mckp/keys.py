"""Who is served first: edges in the order of falling slope, equal slopes by a hash of the user id.

The order is fair and repeatable, and does not depend on how rows are sorted or distributed. Equal
keys, which only repeated user ids can have, are taken together or not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from agents.common.types import Array


def read_ids(user_id: ArrayLike | None, n: int) -> Array | None:
    """User ids (n,), or nothing for row numbers; raises ValueError for another shape."""
    if user_id is None:
        return None
    ids = np.asarray(user_id)
    if ids.shape != (n,):
        raise ValueError(f"user_id has shape {ids.shape}; value has {n} rows")
    return ids


def hashes(ids: Array | None, rows: Array) -> Array:
    """Return uint64 hashes: splitmix64's finaliser of integers, BLAKE2b of anything else."""
    picked = rows if ids is None else ids[rows]
    if picked.dtype.kind not in "iu":
        digest = (hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in picked)
        return np.frombuffer(b"".join(digest), dtype="<u8")
    z = picked.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key_of(ids: Array | None, rows: Array) -> Callable[[int], int]:
    """The hash of one user, by its position in `rows`."""
    return lambda i: int(hashes(ids, rows[i : i + 1])[0])


def in_order(slope: Array, rows: Array, ids: Array | None) -> Array:
    """The order of edges; hashes are made only for the slopes that are not unique."""
    return by_two(-slope, lambda some: hashes(ids, rows[some]))


def by_two(first: Array, second: Callable[[Array], Array]) -> Array:
    """The order by a first key (m,), and by a second where the first ones of some are equal.

    second: returns the keys of those indices.
    """
    order = np.argsort(first)
    rising = first[order]
    same = rising[1:] == rising[:-1]
    if not same.any():
        return order
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    among = order[tied]
    order[tied] = among[np.lexsort((second(among), rising[tied]))]
    return order


def whole_keys(count: int, slope: Array, key: Callable[[int], int], *, up: bool = False) -> int:
    """The nearest number of edges, at most `count` or at least it, that splits no equal keys."""
    while 0 < count < len(slope) and slope[count - 1] == slope[count]:
        if key(count - 1) != key(count):
            break
        count += 1 if up else -1
    return count
