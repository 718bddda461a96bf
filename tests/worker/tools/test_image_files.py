"""Which files of a folder are images, whatever the folder looks like."""

from pathlib import Path

import pytest

from tests.folders import very_deep
from worker.tools.image_files import find_images

EVERYTHING = ["a/photos/in/x.png", "a/photos/y.png", "b/drawings/y.png", "b/photos/y.png", "photos/y.png", "z.png"]


def test_a_very_deep_folder_is_searched_to_its_end(tmp_path: Path) -> None:
    with very_deep(tmp_path / "top") as deepest:
        (deepest / "x.png").touch()
        assert find_images([tmp_path]).paths == [deepest / "x.png"]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["a/photos"], ["in/x.png", "y.png"]),
        (["a/photos", "a/photos/"], ["in/x.png", "y.png"] * 2),
        (["a/photos", "b/drawings"], ["photos/in/x.png", "photos/y.png", "drawings/y.png"]),
        (["a/photos", "b/drawings/y.png"], ["photos/in/x.png", "photos/y.png", "b/drawings/y.png"]),
        (["b/drawings/y.png", "z.png"], ["b/drawings/y.png", "z.png"]),
        (["b", "b/drawings"], ["drawings/y.png", "b/photos/y.png", "drawings/y.png"]),
        (["a/photos", "b/photos"], ["a/photos/in/x.png", "a/photos/y.png", "b/photos/y.png"]),
        (["b/photos", "photos/y.png"], ["b/photos/y.png", "photos/y.png"]),
        (["b/photos", "."], ["b/photos/y.png", *EVERYTHING]),
        (
            ["a/photos", "b/photos/.."],
            ["a/photos/in/x.png", "a/photos/y.png", "b/photos/../drawings/y.png", "b/photos/../photos/y.png"],
        ),
    ],
)
def test_people_read_paths_that_differ_where_the_files_do(
    arguments: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in EVERYTHING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = find_images([Path(argument) for argument in arguments])
    assert [str(found.name(path)) for path in found.paths] == shown


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
