"""Consoles that show names and errors as they are: those of files and classes may look like markup, or be escapes."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bundle.text import printable


class PlainConsole(Console):
    """A console without markup, emoji codes and highlighting; what a terminal would not show as it is, is escaped."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """Texts are escaped before their width is measured."""
        return super().render_str(_lines(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is printed comes through here, also what others have made a ``Text`` of."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=_lines(segment.text))


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
