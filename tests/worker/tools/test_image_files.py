"""Which files of a folder are images, whatever the folder looks like."""

from pathlib import Path

import pytest

from tests.folders import very_deep
from worker.tools.image_files import find_images


def test_a_very_deep_folder_is_searched_to_its_end(tmp_path: Path) -> None:
    with very_deep(tmp_path / "top") as deepest:
        (deepest / "x.png").touch()
        assert find_images([tmp_path]).paths == [deepest / "x.png"]


def test_endings_are_shown_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    (tmp_path / "a.\x1b]0;title\x07").touch()
    assert find_images([tmp_path]).left_out == r"1 .\x1b]0;title\x07"


def test_of_many_kinds_some_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    for number in range(50):
        (tmp_path / f"a.kind{number}").touch()
    (tmp_path / "b.kind7").touch()
    shown = find_images([tmp_path]).left_out
    assert "2 .kind7" in shown
    assert shown.endswith("30 of 30 other kinds")


def test_a_name_that_nobody_can_look_up_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 300}.png"
    assert find_images([path]).paths == [path]
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_images([tmp_path / "missing.png"])
