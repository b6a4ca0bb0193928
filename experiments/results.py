"""Results on disk: one small JSON a run, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "torch", "gymnasium", "scipy", "lightgbm")
ROOT = Path(__file__).resolve().parents[1]


def write_json(path: str | Path, content: Any) -> None:
    """Write under a temporary name, then rename: a killed run leaves nothing half-written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(content, indent=1, allow_nan=True) + "\n")
    scratch.replace(path)


def provenance() -> dict[str, Any]:
    """What produced a result: command, commit, versions, machine."""
    given = [argument.replace(f"{ROOT}/", "") for argument in sys.argv[1:]]
    return {
        "command": " ".join(["python -m", _module(), *given]),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "-s") else ""),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def _git(*args: str) -> str:
    try:
        answer = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip()
