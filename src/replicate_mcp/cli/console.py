"""Console for tables and progress bars: escape sequences of its own, printable text otherwise."""

import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from replicate_mcp.cli.printing import keep_layout, unguarded
from replicate_mcp.platform.terminal import is_msys_terminal


class PrintableConsole(Console):
    """Console on stdout or stderr that prints text literally, without markup or emoji codes."""

    def __init__(self, *, stderr: bool = False) -> None:
        stream = unguarded(sys.stderr if stderr else sys.stdout)
        is_msys = is_msys_terminal(stream)
        super().__init__(
            file=stream,
            markup=False,
            emoji=False,
            highlight=False,
            # rich detects a pipe, and would otherwise use the Windows console API.
            force_terminal=True if is_msys else None,
            legacy_windows=False if is_msys else None,
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Render `renderable`, replacing control characters in its text with spaces."""
        for segment in super().render(renderable, options):
            if segment.control is None:
                yield Segment(keep_layout(segment.text), segment.style)
            else:
                yield segment
