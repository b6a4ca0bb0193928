"""What the README shows works, from the first example to the last."""

from __future__ import annotations

import re

import pytest

from experiments import plot
from experiments.results import ROOT

README = ROOT / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
COMMANDS = re.findall(r"^python -m (experiments\.\w+)", README.read_text(), flags=re.M)


@pytest.mark.parametrize("i", range(len(EXAMPLES)))
def test_example_runs(i: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(EXAMPLES[i], f"README example {i + 1}", "exec"), {})
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(COMMANDS)))
def test_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = __import__(name, fromlist=["main"])
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_both_commands_are_there() -> None:
    assert "make demo" in README.read_text()
    assert "make test" in README.read_text()
    assert len(EXAMPLES) >= 3


def test_tables_are_those_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    assert plot.main([str(ROOT / "results"), "--check"]) == 0, capsys.readouterr().out
