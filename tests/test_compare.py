"""Two folders of results: differences, what is missing, what changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up import made_up, put

from experiments import compare


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    before, after = tmp_path / "A", tmp_path / "B"
    for seed in (1, 2):
        put(before / "main" / "here", made_up("mixed_policy", seed, 90, {"folds": 4}),
            made_up("dfcl", seed, 70))  # fmt: skip
        changed = made_up("mixed_policy", seed, 92 + seed, {"folds": 2}) | {"commit": "fed4321"}
        put(after / "main" / "here", changed, made_up("cluster", seed, 60))
    put(before / "main" / "there", made_up("cluster", 1))
    put(after / "main" / "there", made_up("cluster", 1, log_users=7))
    return before, after


def test_what_is_in_both_is_subtracted(folders: tuple[Path, Path]) -> None:
    found = compare.compared(*map(compare.rows_of, folders))
    assert list(found) == ["main/here"]
    (row,) = found["main/here"]
    assert row["method"] == "mixed_policy"
    # Student's t with one degree of freedom: 12.706 * 0.707 / sqrt(2).
    assert row["at 10 %"] == row["mean"] == "+3.5 ± 6.4"
    assert (row["clear"], row["common seeds"]) == ("no", "2")


def test_what_is_not_the_same_is_named(folders: tuple[Path, Path]) -> None:
    assert list(compare.changes(*map(compare.rows_of, folders))) == [
        "only in A: main/here: dfcl",
        "only in B: main/here: cluster",
        "config: main/here, mixed_policy: folds 4 → 2",
        "not comparable: main/there, cluster: log_users 2000 → 7",
        "commits: abc1234 → abc1234, fed4321",
    ]


def test_a_folder_is_equal_to_itself(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    a = folders[0]
    assert compare.main([str(a), str(a)]) == 0
    said = capsys.readouterr().out
    assert "| mixed_policy | +0.0 ± 0.0 | +0.0 ± 0.0 | +0.0 ± 0.0 | no |" in said
    assert not list(compare.changes(compare.rows_of(a), compare.rows_of(a)))


def test_wrong_folders_are_named(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for wrong, says in (("lost", "no such folder"), ("empty", "no results")):
        with pytest.raises(SystemExit) as stop:
            compare.main([str(folders[0]), str(tmp_path / wrong)])
        assert stop.value.code == 2
        assert f"{tmp_path / wrong}: {says}" in capsys.readouterr().err
