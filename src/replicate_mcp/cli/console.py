"""A console for tables and bars: it writes escape sequences of its own and printable text."""

import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from replicate_mcp.cli.printing import keep_layout, unguarded
from replicate_mcp.platform.terminal import is_msys_terminal


class PrintableConsole(Console):
    """A console on stdout or stderr that shows text as it is: no markup, no emoji codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = unguarded(sys.stderr if stderr else sys.stdout)
        is_msys = is_msys_terminal(stream)
        super().__init__(
            file=stream,
            markup=False,
            emoji=False,
            highlight=False,
            # rich sees a pipe, and would draw with functions of the Windows console.
            force_terminal=True if is_msys else None,
            legacy_windows=False if is_msys else None,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render `renderable`, with spaces for the control characters in its text."""
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(keep_layout(segment.text), segment.style)
            else:
                yield segment
