"""Text of others, such as the names of files, as a terminal may show it."""

import reprlib
from typing import Final
from unicodedata import category

_BRIEF: Final = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80
_CONTROLS: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of signs that control a terminal or the direction of writing, or begin a line."""


def has_controls(text: str) -> bool:
    r"""Whether a name holds what would not be shown but obeyed, as the escape of colours or U+202E does.

    >>> has_controls("Stable Diffusion\x1b[31m"), has_controls("caf\xe9")
    (True, False)
    """
    return any(category(sign) in _CONTROLS for sign in text)


def printable(text: object) -> str:
    r"""Any text, such as a path, in one line; what a terminal would not show as it is, is escaped: ``caf\xe9.png``."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in str(text))


def brief(value: object) -> str:
    """The beginning of a value's ``repr`` for an error, however long or deep the value is: at most 80 characters."""
    try:
        return _BRIEF.repr(value)[:80]
    except ValueError:  # 0xfff... may have more decimal digits than Python writes
        return "a number of many digits"


def counted(count: int, noun: str) -> str:
    """A number and what it counts: ``1 image``, ``2 images``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # Python's stand-in for a byte of a path that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()
