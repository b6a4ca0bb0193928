"""Models on disk: a folder with `model.safetensors` and `model.json`. Loading runs no code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError

from agents.common.types import Array

if TYPE_CHECKING:  # serving reads descriptions without torch
    from torch import Tensor, nn

FORMAT = 1
W = TypeVar("W")  # a tensor or an array


def check_folder(folder: str | Path) -> Path:
    """The folder, if a model may be written there: ask before training, not after it.

    Raises:
        ValueError: if the folder exists and holds something that is not a model.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "model.json").exists():
        raise ValueError(f"{folder} exists and is no model folder: choose another one")
    return folder


def save_model(
    folder: str | Path, method: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Write a model folder in one rename, so that a killed run leaves no half of it.

    Raises:
        ValueError: if the folder exists and holds something that is not a model.
    """
    from safetensors.torch import save_file

    folder = check_folder(folder)
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}")
    scratch.mkdir(parents=True)
    # Copies, because the format refuses tensors that share memory.
    copies = {k: v.contiguous().clone() for k, v in tensors.items()}
    save_file(copies, scratch / "model.safetensors")
    described = {"format": FORMAT, "method": method, **meta}
    (scratch / "model.json").write_text(json.dumps(described, indent=1) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    scratch.rename(folder)


def describe(folder: str | Path, **facts: Any) -> None:
    """Add facts to the description of a saved model, in one rename."""
    path = Path(folder) / "model.json"
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps({**read_meta(folder), **facts}, indent=1) + "\n")
    scratch.replace(path)


def learned_columns(folder: str | Path) -> tuple[str, ...] | None:
    """Names of the columns that a model learned from, in order, if its description has them."""
    return tuple(read_meta(folder).get("columns", ())) or None


def read_meta(folder: str | Path) -> dict[str, Any]:
    """The description of a saved model.

    Raises:
        ValueError: if the folder is no model, or of a format this version does not know.
    """
    path = Path(folder) / "model.json"
    if not path.exists():
        raise ValueError(f"{folder} is no model folder: it has no model.json")
    meta = json.loads(path.read_text())
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path}: format {found!r}, allowed is {FORMAT}")
    return dict(meta)


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """The weights of a saved model.

    Raises:
        ValueError: if their file is missing or damaged.
    """
    from safetensors.torch import load_file

    return _weights(folder, load_file)


def read_arrays(folder: str | Path) -> dict[str, Array]:
    """The same without torch."""
    from safetensors.numpy import load_file

    return _weights(folder, load_file)


def _weights(folder: str | Path, load_file: Callable[[Path], dict[str, W]]) -> dict[str, W]:
    path = Path(folder) / "model.safetensors"
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} holds no weights: {error}") from error


def prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's weights and buffers under a prefix, to keep several in one file."""
    return {f"{prefix}.{k}": v for k, v in module.state_dict().items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that `prefixed` stored under a prefix."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
