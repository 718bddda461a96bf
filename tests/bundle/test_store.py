import hashlib
import json
import os
from pathlib import Path

import pytest

from bundle.errors import BundleCorrupt, BundleError, BundleMissing, ManifestInvalid
from bundle.store import MANIFEST, Bundle, check_free, load_bundle, replace_directory, write_bundle
from tests.worker.small_bundle import small_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return small_bundle(tmp_path / "small")


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_what_was_written_is_read(bundle: Bundle) -> None:
    assert bundle.files.keys() == bundle.manifest.files.keys()
    assert tree(bundle.path).keys() == {*bundle.files, MANIFEST}
    assert bundle.digest == hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
    assert bundle.graph(bundle.manifest.detector) == (bundle.path / "model.onnx").read_bytes()
    assert bundle.templates.labels == ("bright", "real")
    assert tuple(bundle.probe.images) == bundle.manifest.probe.images


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    one, other = (small_bundle(tmp_path / name) for name in ("one", "other"))
    assert one.digest == other.digest
    assert tree(one.path) == tree(other.path)


def test_the_digest_in_the_path(bundle: Bundle, tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "new" / "b-{digest}", bundle.manifest, bundle.files)
    assert out == tmp_path / "new" / f"b-{bundle.digest[:12]}"
    assert load_bundle(out).digest == bundle.digest


class TestDamage:
    def test_one_flipped_bit_in_any_file(self, bundle: Bundle) -> None:
        for name, content in bundle.files.items():
            path = bundle.path / name
            for position in (0, len(content) // 2, len(content) - 1):
                damaged = bytearray(content)
                damaged[position] ^= 1
                path.write_bytes(damaged)
                with pytest.raises(BundleCorrupt, match=f"^{path}: has changed: sha256 "):
                    load_bundle(bundle.path)
            path.write_bytes(content)
        assert load_bundle(bundle.path).digest == bundle.digest

    def test_a_missing_file(self, bundle: Bundle) -> None:
        for name, content in bundle.files.items():
            (bundle.path / name).unlink()
            with pytest.raises(BundleCorrupt, match=f"{name}: cannot be read: No such file"):
                load_bundle(bundle.path)
            (bundle.path / name).write_bytes(content)

    def test_no_bundle(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(
                BundleMissing, match=rf"^{path}: no bundle here \(manifest\.json cannot be read: No such"
            ):
                load_bundle(path)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "the document: Invalid JSON"),
            (b"{", "the document: Invalid JSON"),
            (b"\xff\xfe", "the document: Invalid JSON"),
            (b"[]", "the document: Input should be an object"),
            (b"{}", r"name: Field required \(and 11 more\)"),
            (b'{"schema_version": 2}', r"schema_version: Input should be 1 \(and 12 more\)"),
        ],
    )
    def test_no_manifest(self, bundle: Bundle, text: bytes, message: str) -> None:
        (bundle.path / MANIFEST).write_bytes(text)
        with pytest.raises(ManifestInvalid, match=f"^{bundle.path / MANIFEST}: {message}"):
            load_bundle(bundle.path)

    def test_a_file_outside_is_not_read(self, bundle: Bundle, tmp_path: Path) -> None:
        secret = tmp_path / "secret"
        secret.write_bytes(b"secret")
        document = json.loads((bundle.path / MANIFEST).read_bytes())
        document["files"]["../secret"] = hashlib.sha256(b"secret").hexdigest()
        (bundle.path / MANIFEST).write_text(json.dumps(document))
        with pytest.raises(ManifestInvalid, match=r"files\.\.\./secret"):
            load_bundle(bundle.path)

    def test_every_error_is_a_bundle_error(self) -> None:
        assert {BundleMissing, ManifestInvalid, BundleCorrupt} <= set(BundleError.__subclasses__())


class TestWholeOrNotAtAll:
    @pytest.mark.parametrize("fails_at", [1, 3, 5])
    def test_a_write_that_fails_leaves_nothing(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
    ) -> None:
        calls = 0

        def full(_descriptor: int) -> None:
            nonlocal calls
            calls += 1
            assert not (tmp_path / "new" / "b").exists()
            if calls == fails_at:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_bundle(tmp_path / "new" / "b", bundle.manifest, bundle.files)
        assert list((tmp_path / "new").iterdir()) == []

    def test_a_replacement_that_fails_leaves_the_old_one(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        before = tree(bundle.path)

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_bundle(bundle.path, bundle.manifest, bundle.files, force=True)
        assert tree(bundle.path) == before
        assert list(bundle.path.parent.iterdir()) == [bundle.path]

    def test_a_last_rename_that_fails_leaves_the_old_one(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        before, rename = tree(bundle.path), Path.rename

        def refuse_the_new(self: Path, target: Path) -> Path:
            if target == bundle.path and not self.name.endswith(".replaced"):
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", refuse_the_new)
        with pytest.raises(OSError, match="Input/output"):
            write_bundle(bundle.path, bundle.manifest, bundle.files, force=True)
        assert tree(bundle.path) == before
        assert list(bundle.path.parent.iterdir()) == [bundle.path]

    def test_nothing_is_replaced_unasked(self, bundle: Bundle) -> None:
        with pytest.raises(FileExistsError, match=f"{bundle.path} exists; choose another place or pass --force"):
            write_bundle(bundle.path, bundle.manifest, bundle.files)

    def test_force_replaces_the_whole_bundle(self, bundle: Bundle) -> None:
        (bundle.path / "left over").write_bytes(b"")
        renamed = bundle.manifest.model_copy(update={"name": "new"})
        write_bundle(bundle.path, renamed, bundle.files, force=True)
        assert load_bundle(bundle.path).manifest.name == "new"
        assert tree(bundle.path).keys() == {*bundle.files, MANIFEST}
        assert list(bundle.path.parent.iterdir()) == [bundle.path]

    @pytest.mark.parametrize("kind", ["file", "folder"])
    def test_force_replaces_nothing_but_bundles(self, bundle: Bundle, tmp_path: Path, kind: str) -> None:
        precious = tmp_path / "home"
        if kind == "folder":
            precious.mkdir()
        file = precious if kind == "file" else precious / "thesis.tex"
        file.write_bytes(b"years of work")
        with pytest.raises(FileExistsError, match="home exists and is no bundle; choose another place"):
            write_bundle(precious, bundle.manifest, bundle.files, force=True)
        assert file.read_bytes() == b"years of work"

    def test_what_a_link_leads_to_is_replaced(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "links").mkdir()
        link = tmp_path / "links" / "current"
        link.symlink_to(bundle.path)
        renamed = bundle.manifest.model_copy(update={"name": "new"})
        assert write_bundle(link, renamed, bundle.files, force=True) == link
        assert link.is_symlink()
        assert load_bundle(bundle.path).manifest.name == "new"
        assert list(link.parent.iterdir()) == [link]
        assert sorted(bundle.path.parent.iterdir()) == sorted([bundle.path, link.parent])

    @pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
    def test_nothing_is_left_of_a_replaced_file_or_link(self, tmp_path: Path, kind: str) -> None:
        out, staging, target = (tmp_path / name for name in ("out", "staging", "target"))
        staging.mkdir()
        if kind == "file":
            out.write_text("replaced")
        else:
            out.symlink_to(target)
        if kind == "link":
            target.mkdir()
            (target / "mine").write_text("kept")
        replace_directory(out, staging)
        assert out.is_dir()
        assert not out.is_symlink()
        assert sorted(tmp_path.iterdir()) == [out, *([target] if kind == "link" else [])]
        assert kind != "link" or (target / "mine").exists()

    def test_the_current_directory_is_not_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here" / "below").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here" / "below")
        for out in (Path(), Path(".."), tmp_path / "here"):
            with pytest.raises(FileExistsError, match="is the current directory or above it"):
                check_free(out, force=True)

    def test_an_empty_folder_is_taken(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert load_bundle(write_bundle(tmp_path / "empty", bundle.manifest, bundle.files)).digest == bundle.digest
