"""Text of others, such as the names of files, as a terminal may show it."""


def printable(text: object) -> str:
    r"""Any text, such as a path, in one line; what a terminal would not show as it is, is escaped: ``caf\xe9.png``."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in str(text))


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # Python's stand-in for a byte of a path that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()
