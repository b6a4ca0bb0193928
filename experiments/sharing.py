"""One pass over a log serves all methods that play the same game with its best responses."""

from __future__ import annotations

import inspect
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from agents import Model
from agents.common.nets import Track
from agents.common.values.responses import Responses, Settings
from experiments.methods import method


@dataclass(frozen=True)
class Effort:
    """What training takes."""

    seconds: float  # of the clock
    cpu_seconds: float  # of the processor, all threads together

    @staticmethod
    def now() -> Effort:
        return Effort(time.perf_counter(), time.process_time())

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)

    def __sub__(self, other: Effort) -> Effort:
        return Effort(self.seconds - other.seconds, self.cpu_seconds - other.cpu_seconds)


# Settings of plans, not of the responses that plans mix.
_PLANNING = ("risk", "leeway")


class Oracles:
    """Best responses learned from one log so far, by the settings that they were learned with."""

    def __init__(self) -> None:
        self.known: dict[Hashable, tuple[Responses, Effort]] = {}

    def fit(
        self, name: str, log: Any, config: Mapping[str, Any], seed: int, track: Track
    ) -> tuple[Model, Effort]:
        """Train a method, with best responses that are there already if it can use them.

        Returns:
            The model, and what its training takes if it is alone.
        """
        module = method(name)
        settings, given, spared = module.Config(**config), {}, Effort(0.0, 0.0)
        shares = "responses" in inspect.signature(module.fit).parameters
        key = (seed, _oracle(settings)) if shares else None
        if key in self.known:
            responses, spared = self.known[key]
            given["responses"] = responses.planned(settings.risk, settings.leeway)
        start = Effort.now()
        model: Model = module.fit(log, settings, seed, track=track, **given)
        effort = Effort.now() - start + spared
        if key is not None:
            # The first to learn them is a method that does little else.
            self.known.setdefault(key, (model.responses, effort))  # type: ignore[attr-defined]
        return model, effort


def _oracle(settings: Any) -> Hashable:
    """What best responses depend on."""
    return getattr(settings, "contacts", False), *(
        getattr(settings, f.name) for f in fields(Settings) if f.name not in _PLANNING
    )
