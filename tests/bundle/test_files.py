import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from bundle.files import open_regular, read_regular


def test_a_regular_file_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b", 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes") as refused:
        read_regular(tmp_path / "a", 2)
    assert refused.value.errno == errno.EFBIG
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "b", os.O_NOFOLLOW)


def test_what_may_never_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(OSError, match="not a regular file") as refused:
            read_regular(tmp_path / name, 10)
        assert refused.value.errno == errno.EINVAL
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path, 10)


def test_a_file_costs_the_memory_that_it_has_and_not_what_it_may_have(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "a", 2**40) == bytes(100)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_file_of_the_kernel_that_says_it_has_no_bytes_is_read() -> None:
    assert read_regular("/proc/self/stat", 2**20).startswith(b"%d " % os.getpid())


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        read_regular(tmp_path / "sparse", 1000)


def test_a_stretch_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    assert read_regular(tmp_path / "a", 3, 2, 3) == b"cde"
    assert read_regular(tmp_path / "a", 3, 4) == b"ef"
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_regular(tmp_path / "a", 3, 1, 2**40)
