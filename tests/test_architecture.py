"""This project keeps the rules of `architecture`, and each rule notices what breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from architecture import (
    LAYERS,
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    PACKAGES,
    RULES,
    Rule,
    core_is_layered,
    core_loads_two_libraries,
    files_are_short,
    functions_are_short,
    learners_see_the_log_alone,
    methods_stand_alone,
    no_cycles,
    no_file_runs_code,
    only_plots_draw,
    packages_point_downwards,
    read,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_project_keeps(rule: Rule) -> None:
    violations = rule(ROOT)
    assert not violations, "\n" + "\n".join(violations)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_rules_have_something_to_read(package: str) -> None:
    assert package in {module.name for module in read(ROOT, package)}


def test_each_module_of_the_core_has_a_layer() -> None:
    known = {module.path.stem for module in read(ROOT, "marketing_env")}
    assert set().union(*LAYERS) == known - {"__init__"}


def test_core_loads_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, marketing_env as core\n"
        "for found in pkgutil.iter_modules(core.__path__):\n"
        "    importlib.import_module(f'marketing_env.{found.name}')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    heavy = {"d3rlpy", "matplotlib", "minari", "pandas", "pyarrow", "scipy", "sklearn"}
    heavy |= {"agents", "experiments", "lightgbm", "stable_baselines3", "torch"}
    assert not heavy & set(run.stdout.split())


HOUSE = {
    "marketing_env/__init__.py": "from .config import CampaignConfig\nfrom .exact import plan\n"
    "from .policy import DayView\n",
    "marketing_env/config.py": "import numpy as np\nclass CampaignConfig: ...\n",
    "marketing_env/policy.py": "class DayView: ...\n",
    "marketing_env/exact.py": "from marketing_env import config\ndef plan(): ...\n",
    "marketing_env/export.py": "def to_d3rlpy():\n    import d3rlpy\n",
    "agents/__init__.py": "from .common.knapsack import solve_mckp\n",
    "agents/common/__init__.py": "",
    "agents/common/knapsack.py": "import scipy\ndef solve_mckp(): ...\n",
    "agents/thrifty.py": "from marketing_env import DayView\nfrom .common import knapsack\n",
    "agents/oracle.py": "from marketing_env.exact import plan\nNEEDS_SIMULATOR = True\n",
    "experiments/__init__.py": "",
    "experiments/plot.py": "import matplotlib.pyplot as plt\nfrom agents import thrifty\n",
    "experiments/train.py": "import numpy as np\nnp.load('x', allow_pickle=False)\n",
    "tests/test_plot.py": "import pickle\nfrom experiments import plot\n",
}
LONG_FUNCTION = "def long():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
BROKEN = (
    (packages_point_downwards, "marketing_env/policy.py", "from agents.common import knapsack"),
    (packages_point_downwards, "agents/thrifty.py", "def f():\n    import experiments.plot"),
    (packages_point_downwards, "agents/common/knapsack.py", "from experiments import train"),
    (packages_point_downwards, "experiments/train.py", "from tests import test_plot"),
    (core_loads_two_libraries, "marketing_env/policy.py", "import torch"),
    (core_loads_two_libraries, "marketing_env/export.py", "class A:\n    from pandas import Index"),
    (core_is_layered, "marketing_env/policy.py", "from .exact import plan"),
    (core_is_layered, "marketing_env/config.py", "def f():\n    from . import policy"),
    (core_is_layered, "marketing_env/exact.py", "from .export import to_d3rlpy"),
    (methods_stand_alone, "agents/thrifty.py", "from .oracle import plan"),
    (methods_stand_alone, "agents/thrifty.py", "from agents import oracle"),
    (methods_stand_alone, "agents/thrifty.py", "import agents\nagents.oracle.plan()"),
    (methods_stand_alone, "agents/common/knapsack.py", "from ..thrifty import DayView"),
    (learners_see_the_log_alone, "agents/thrifty.py", "from marketing_env.exact import plan"),
    (learners_see_the_log_alone, "agents/thrifty.py", "from marketing_env import exact"),
    (learners_see_the_log_alone, "agents/thrifty.py", "from marketing_env import plan"),
    (learners_see_the_log_alone, "agents/thrifty.py", "def f():\n    import marketing_env.config"),
    (learners_see_the_log_alone, "agents/thrifty.py", "import marketing_env as m\nm.plan()"),
    (learners_see_the_log_alone, "agents/thrifty.py", "import marketing_env\nmarketing_env.exact"),
    (
        learners_see_the_log_alone,
        "agents/thrifty.py",
        "import marketing_env.policy as p, marketing_env.export\nmarketing_env.plan()",
    ),
    (learners_see_the_log_alone, "agents/common/knapsack.py", "import marketing_env.users"),
    (only_plots_draw, "experiments/train.py", "def f():\n    from matplotlib import pyplot"),
    (no_cycles, "marketing_env/config.py", "def f():\n    from .exact import plan"),
    (no_cycles, "marketing_env/config.py", "from marketing_env import DayView"),
    (no_cycles, "experiments/train.py", "from .train2 import x"),
    (files_are_short, "experiments/train.py", "x = 1\n" * MAX_FILE_LINES),
    (files_are_short, "tests/test_plot.py", "x = 1\n" * MAX_FILE_LINES),
    (functions_are_short, "agents/thrifty.py", LONG_FUNCTION),
    (functions_are_short, "tests/test_plot.py", LONG_FUNCTION),
    (no_file_runs_code, "agents/thrifty.py", "from pickle import loads"),
    (no_file_runs_code, "agents/thrifty.py", "import torch\ntorch.load('model')"),
    (no_file_runs_code, "agents/thrifty.py", "from torch import load"),
    (no_file_runs_code, "agents/thrifty.py", "def f():\n    return eval('1')"),
    (no_file_runs_code, "experiments/train.py", "exec('x = 1')"),
    (no_file_runs_code, "experiments/train.py", "np.load('x', allow_pickle=True)"),
)


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_sound_project_passes(rule: Rule, tmp_path: Path) -> None:
    assert not rule(build(tmp_path, HOUSE))


@pytest.mark.parametrize(("rule", "file", "code"), BROKEN)
def test_violation_is_found(rule: Rule, file: str, code: str, tmp_path: Path) -> None:
    helper = {"experiments/train2.py": "from . import train\nx = train\n"}
    root = build(tmp_path, HOUSE | helper | {file: HOUSE[file] + code + "\n"})
    violations = rule(root)
    assert len(violations) >= 1
    assert all(Path(file).stem in violation for violation in violations)


@pytest.mark.parametrize("rule", [no_cycles, core_loads_two_libraries], ids=lambda r: r.__name__)
def test_type_checking_imports_load_nothing(rule: Rule, tmp_path: Path) -> None:
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
    typing += "    from .exact import plan\n"
    assert not rule(build(tmp_path, HOUSE | {"marketing_env/policy.py": typing}))


def test_each_rule_is_broken_once() -> None:
    assert {rule for rule, _, _ in BROKEN} == set(RULES)
