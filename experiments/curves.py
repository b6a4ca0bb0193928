"""Learning curves: one CSV and one TensorBoard event file per training."""

from __future__ import annotations

import csv
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class Curves:
    """A `track` for `fit`: writes `curves.csv` (tag, step, value) and TensorBoard events."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / "curves.csv").open("w", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(["tag", "step", "value"])
        self._board = SummaryWriter(str(self.folder / "tensorboard"))

    def __call__(self, tag: str, value: float, step: int) -> None:
        self._rows.writerow([tag, step, repr(float(value))])
        self._board.add_scalar(tag, value, step)

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._board.close()


def read_curves(path: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of every tag in a `curves.csv`."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            steps, values = found.setdefault(row["tag"], ([], []))
            steps.append(int(row["step"]))
            values.append(float(row["value"]))
    return found
