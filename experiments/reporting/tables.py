"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], title: str = "") -> None:
    """Print the given columns of the rows."""
    table = Table(*(c.replace("_", " ") for c in columns), title=title or None)
    for row in rows:
        table.add_row(*(_cell(row.get(c, "")) for c in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
