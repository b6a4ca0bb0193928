"""How long a task takes, beside a plain read of its data, and how much memory it needs.

Time is that of the processor, all threads together: what a core would need that has nothing else to
do, also where other programs run.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from agents.common.mckp.sweep import threads
from marketing_env.config import Array

_LONG = 10.0  # seconds; what takes longer is run once


class Timing(NamedTuple):
    answer: Any
    seconds: float  # of the processor; median over the runs
    reads: float  # median of seconds / seconds of a plain read just before; nan without data
    memory: float  # MB beyond what there was, at the peak; libraries' own allocations are not seen


def timed(task: Callable[[], Any], data: Sequence[Array] = (), repeats: int = 5) -> Timing:
    """Run a task once under `tracemalloc`, which warms it up, and then `repeats` times.

    data: the contiguous arrays that the task reads, for the comparison with only reading them.
    """
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    answer, took = _run(task)
    memory = (tracemalloc.get_traced_memory()[1] - before) / 1e6
    tracemalloc.stop()
    runs = repeats if took < _LONG else 1  # tracing slows a task down: it is never what is timed
    pairs = [(_run(lambda: read(data))[1], _run(task)[1]) for _ in range(runs)]
    seconds = float(np.median([own for _, own in pairs]))
    reads = float(np.median([own / plain for plain, own in pairs])) if len(data) else np.nan
    return Timing(answer, seconds, reads, memory)


def read(data: Sequence[Array]) -> None:
    """Touch every byte once, on as many threads as the allocator uses, as fast as numpy can."""
    workers = threads()
    words = [x.reshape(-1, order="A").view(np.uint32) for x in data]
    pieces = [piece for word in words for piece in np.array_split(word, workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(np.bitwise_xor.reduce, pieces))


def _run(task: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    answer = task()
    return answer, time.process_time() - start
