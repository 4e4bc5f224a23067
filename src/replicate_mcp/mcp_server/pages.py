"""Pages of a batch's results, as text and as structured content, and the call for the next page."""

from typing import TYPE_CHECKING, Any, TypedDict

from replicate_mcp.text import one_line

if TYPE_CHECKING:
    from replicate_mcp.tasks.result import BatchCounts, BatchResult

PAGE_ROWS = 50
PAGE_CHARACTERS = 48_000
"""Maximum rows and characters of a page: hosts pass at most 25,000 tokens to a model, and a token
of URLs and JSON has about 2.4 characters. A character beyond ASCII counts as its UTF-8 bytes: a
Chinese one is about one token."""

MAX_PAGE_ROWS = 1_000
MAX_PAGE_CHARACTERS = 900_000
"""Maximum rows and characters of a page if the caller sets the number of rows: Claude Desktop
refuses results over 1,048,576 characters."""

NEXT_WAIT_SECONDS = 45
"""Seconds that `next_step` asks a model to wait for further results, so that it does not poll
continuously."""

MAX_FAILURE_CHARACTERS = 800
"""Maximum characters of a failed task's line: its filename has up to 200, its error 500."""


class PageSize(TypedDict):
    """Maximum rows of a page, and maximum characters of all its rows together."""

    limit: int
    characters: int


def page_size(limit: int | None = None, *, default_rows: int = PAGE_ROWS) -> PageSize:
    """Return the size of a page: `limit` rows if the caller set it, else what fits a model."""
    if limit is not None:
        return {"limit": limit, "characters": MAX_PAGE_CHARACTERS}
    return {"limit": default_rows, "characters": PAGE_CHARACTERS}


def next_step(page: "BatchResult") -> str | None:
    """Return the call that gets what follows a page; None if nothing follows."""
    call = f"get_batch with batch_id={page.batch_id} and after={page.cursor}"
    left = page.successful_count + page.failed_count - page.cursor
    if left > 0:
        return f"{left} more finished results are ready: call {call}."
    if page.status == "running":
        call += f" and wait_seconds={NEXT_WAIT_SECONDS}"
        if page.is_stopping:
            return f"The batch is being stopped: call {call} to see how it ended."
        return f"The batch is still running: call {call} for what finishes next."
    return None


def page_as_json(page: "BatchResult") -> dict[str, Any]:
    """Return a page as structured content, with `next_step` if something follows."""
    from replicate_mcp.tasks.result import as_json

    step = next_step(page)
    return as_json(page) | ({"next_step": step} if step else {})


def page_as_text(page: "BatchResult") -> str:
    """Return a page as lines: the counts, each file, each failed task, and `next_step`.

    The last page has the call that repeats failed tasks in its place, if any of its tasks can be.
    """
    lines = [counts_line(page)]
    for success in page.successful_results:
        made_of = ", ".join(map(str, success.sources or ()))
        for file in success.generated_files:
            note = f" (from {made_of})" if made_of else ""
            note += " (expired)" if file.expired else ""
            lines.append(f"{file.filename} {file.url}{note}")
    lines += [
        one_line(
            f"task {failed.task_index} ({failed.output_filename}) failed, {failed.error_code}: "
            f"{failed.error}",
            MAX_FAILURE_CHARACTERS,
        )
        for failed in page.failed_results
    ]
    if step := next_step(page):
        lines.append(step)
    elif any(failed.retryable for failed in page.failed_results):
        lines.append(
            f"To make failed tasks again: generate_images with retry_of={page.batch_id} repeats "
            "those that are retryable."
        )
    return "\n".join(lines)


def counts_line(counts: "BatchCounts") -> str:
    """Return a sentence with a batch's state and counts."""
    line = (
        f"Batch {counts.batch_id} is {counts.state}: {counts.successful_count} of "
        f"{counts.total_tasks} made"
    )
    if counts.failed_count:
        line += f", {counts.failed_count} failed"
    if counts.pending_count:
        # A stopping batch's tasks are not "to come": a model would promise them.
        line += f", {counts.pending_count} {'left' if counts.is_stopping else 'to come'}"
    return line + "."
