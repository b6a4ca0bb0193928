"""Work on a Dask cluster: the same functions as on one machine, called elsewhere.

    python -m experiments.allocate --cluster tcp://scheduler:8786 ...
    python -m experiments.log_data --cluster tcp://scheduler:8786 ...
    python -m experiments.sweep --cluster tcp://scheduler:8786 ...

Workers need this project and the files that the functions name, at the same paths. A worker that
dies takes nothing with it: its calls are made again on another, and answers depend on the arguments
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

_RETRIES = 3  # of a call whose worker dies, or that cannot read a file yet


class OnCluster:
    """Calls a function with each of some numbers, on the workers of a client."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __call__(self, work: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
        """Answers as they come; a ValueError of a worker is raised here."""
        from distributed import as_completed

        futures = self.client.map(work, numbers, pure=False, retries=_RETRIES)
        for future in as_completed(futures):
            yield future.result()
            future.release()


def on_cluster(address: str) -> OnCluster:
    """A cluster by the address of its scheduler.

    Raises:
        ImportError: if Dask is not installed.
        OSError: if no scheduler answers there.
    """
    return OnCluster(_connect(address))


@contextmanager
def pool_on(address: str) -> Iterator[tuple[Executor, int]]:
    """A cluster as a pool of processes, and how many they are.

    Raises:
        ImportError, OSError: as `on_cluster`.
        ValueError: if there is no worker, or one that would do several calls at once: they would
            share torch's generator and the process whose memory is measured.
    """
    with _connect(address) as client:
        threads = client.nthreads()
        if not threads or max(threads.values()) > 1:
            raise ValueError(
                f"{address} has workers with {sorted(threads.values())} threads: allowed is at "
                "least one, with one thread each (dask worker --nthreads 1)"
            )
        yield client.get_executor(pure=False), len(threads)


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError("Dask is not installed: pip install 'marketing-env[dask]'") from error
    return Client(address)
