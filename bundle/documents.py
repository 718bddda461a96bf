"""JSON and TOML that anybody may have written."""

import json
import tomllib
from pathlib import Path
from typing import Any

from bundle.files import SMALL_FILE_BYTES, read_regular


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or has a number of too many digits; says which.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:  # Python's advice on its limit of digits is for programmers
        raise ValueError("a number has too many digits") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        OSError: it cannot be read, is no regular file, or has more than ``SMALL_FILE_BYTES``.
        ValueError: it is no TOML, or nested too deeply; says which.
    """
    try:
        return tomllib.loads(read_regular(path, SMALL_FILE_BYTES).decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
