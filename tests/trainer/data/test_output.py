import os
from pathlib import Path

import pytest

from trainer.data.output import check_free, check_new_file, check_writable
from trainer.errors import OutputExists, OutputUnwritable


@pytest.mark.parametrize("name", ["a.pt", "there.pt", "new/folder/a.pt", "link/a.pt"])
def test_what_can_be_written_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "there.pt").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    before = sorted(tmp_path.rglob("*"))
    check_new_file(tmp_path / name, force=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.pt").read_text() == "old"


def test_a_path_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_new_file(Path("a.pt"), force=False)
    check_writable(Path("new/a.pt"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "it is a folder; pass the name of a file"),
        ("pipe", "it is no regular file; pass the name of a file"),
        ("file/a.pt", "file: Not a directory; choose another place"),
        ("file/new/a.pt", "file: Not a directory; choose another place"),
        ("nowhere/a.pt", "nowhere: No such file or directory; choose another place"),
        (f"{'a' * 300}/a.pt", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputUnwritable, match=rf"{name}: cannot be written: .*{reason}"):
        check_new_file(tmp_path / name, force=True)


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(**_: object) -> None:  # an administrator, as whom tests may run, has every permission
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("trainer.data.output.TemporaryFile", denied)
    with pytest.raises(OutputUnwritable, match=r"a\.pt: cannot be written: .+: Permission denied; choose another"):
        check_writable(tmp_path / "a.pt")


def test_a_folder_is_free_where_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("")
    for name in ("new", "empty"):
        check_free(tmp_path / name, force=False)
    check_free(tmp_path / "full", force=True)
    with pytest.raises(OutputExists, match="exists and is not empty; choose another place or pass --force"):
        check_free(tmp_path / "full", force=False)
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(OutputExists, match="is the current directory or above it"):
        check_free(tmp_path, force=True)
