"""A console for tables and bars: it writes escape sequences of its own and printable text."""

import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from replicate_mcp.cli.printing import keep_layout, unguarded


class PrintableConsole(Console):
    """A console on stdout or stderr that shows text as it is: no markup, no emoji codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = unguarded(sys.stderr if stderr else sys.stdout)
        super().__init__(file=stream, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render `renderable`, with spaces for the control characters in its text."""
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(keep_layout(segment.text), segment.style)
            else:
                yield segment
