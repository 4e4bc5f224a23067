"""`replicate-mcp generate`: run a batch with a progress bar and a table of results."""

import argparse
import sys
from typing import TYPE_CHECKING

from replicate_mcp.cli.main import INTERRUPTED, SOME_FAILED
from replicate_mcp.cli.options import add_max_mb, folder
from replicate_mcp.cli.printing import OutputFailed, drop_output
from replicate_mcp.errors import BackendUnavailable, InvalidInput, ModelNotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from replicate_mcp.app.app import App
    from replicate_mcp.app.preparation import BatchRequest
    from replicate_mcp.auth import Caller
    from replicate_mcp.cli.interrupts import Interrupts
    from replicate_mcp.cli.progress_bar import ProgressBar
    from replicate_mcp.cli.task_input import TaskInput
    from replicate_mcp.tasks.openapi_schema import InputField
    from replicate_mcp.tasks.result import BatchResult

PROGRESS_POLL_SECONDS = 0.2
"""Interval between updates of the progress bar."""

RETRY_DELAY_SECONDS = 1.0
"""Delay before a cancellation is retried when the backend is unavailable."""

INTERRUPTED_MESSAGE = (
    "Left at once: what was not cancelled yet may run on at Replicate, and is billed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the tasks, the model and the output."""
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw, one an image")
    parser.add_argument(
        "--file",
        metavar="FILE",
        help='tasks instead of prompts: JSON like [{"prompt": "a red car", "output_filename": '
        '"red_car.jpg"}], JSON Lines, a .csv whose columns are inputs, a .txt with one prompt a '
        "line, or - for the standard input",
    )
    parser.add_argument(
        "--filename", action="append", default=[], metavar="NAME", help="one for each prompt"
    )
    parser.add_argument("--model", metavar="MODEL", help="see `replicate-mcp models`")
    parser.add_argument(
        "--semaphore", metavar="NAME", help="a named limit to stay under, beside the account's"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an input of the model for every task, like aspect_ratio=16:9; may be repeated",
    )
    parser.add_argument(
        "--skip-invalid",
        action="store_true",
        help="make the valid tasks, and list those with faults among the failed",
    )
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the results of a new batch."""
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--out", type=folder, metavar="DIR", help="save the images there too")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="with --out: replace files that are there; otherwise the next free name is taken",
    )
    add_max_mb(parser, "with --out: ")


def check_output_arguments(arguments: argparse.Namespace) -> None:
    """Check the options that `add_output_arguments` adds.

    Raises:
        InvalidInput: an option has no effect without `--out`.
    """
    if arguments.out is None:
        for option, value in (
            ("--overwrite", arguments.overwrite),
            ("--max-mb", arguments.max_mb),
        ):
            if value:
                raise InvalidInput(f"{option} goes with --out DIR: without it, no file is saved.")


def run(arguments: argparse.Namespace) -> int:
    """Run the batch, print its results, and save the images if `--out` is given."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.cli.task_input import read_tasks
    from replicate_mcp.settings_loader import load_settings

    check_output_arguments(arguments)
    settings = load_settings(env_file=arguments.env_file)
    given = read_tasks(
        arguments.prompts, arguments.filename, arguments.file, has_inputs=bool(arguments.input)
    )
    if arguments.out is not None:
        from replicate_mcp.cli.downloader import make_folder

        make_folder(arguments.out, _names(given.tasks))  # Fails before anything is created.

    async def generate(app: "App") -> int:
        caller = app.caller()

        async def request() -> "BatchRequest":
            return await _request(app, caller, arguments, given)

        return await run_batch(app, caller, arguments, request, len(given.tasks))

    return run_in_app(settings, generate)


def _names(tasks: "Sequence[object]") -> list[str]:
    """Return the filenames of tasks that have not been validated yet."""
    from replicate_mcp.tasks.filenames import default_name

    names = (
        (task.get("output_filename") if isinstance(task, dict) else None) or default_name(index)
        for index, task in enumerate(tasks)
    )
    return [name for name in names if isinstance(name, str)]


async def run_batch(
    app: "App",
    caller: "Caller",
    arguments: argparse.Namespace,
    request: "Callable[[], Awaitable[BatchRequest]]",
    total: int | None = None,
) -> int:
    """Run a batch, print its results, save its images if asked to, and return the exit code.

    Args:
        app: the app of the command.
        caller: this machine's user.
        arguments: the options of `add_output_arguments`.
        request: returns the request, once Ctrl-C is handled.
        total: number of its tasks; None if that is known only once it has started.
    """
    from replicate_mcp.cli import output
    from replicate_mcp.cli.executable import as_typed
    from replicate_mcp.cli.interrupts import Interrupts
    from replicate_mcp.cli.progress_bar import ProgressBar

    with ProgressBar(total) as bar, Interrupts(lambda: _leave(bar)) as interrupts:
        batch_id = await _start(app, caller, request, interrupts)
        if batch_id is None:
            bar.say("Nothing was made.")
            return INTERRUPTED
        result = await _follow(app, caller, batch_id, bar, interrupts)
    code = output.exit_code(result)
    keeps_batches = app.settings.backend != "memory"
    try:
        output.show(result, as_document=arguments.json)
        sys.stdout.flush()
    except OutputFailed as error:
        # The images are billed, so still report the counts and save the files if --out is given.
        drop_output()
        if not error.was_closed:
            code = SOME_FAILED
            show = as_typed("batches", batch_id) if keeps_batches else ""
            bar.say(f"{error}{' To show the results:' if show else ''}", show)
    can_retry = keeps_batches and any(row.retryable for row in result.failed_results)
    retry = as_typed("retry", batch_id) if can_retry else ""
    bar.say(
        f"{output.summary(result)}{' To make the retryable tasks again:' if retry else ''}", retry
    )
    if arguments.out is not None:
        from replicate_mcp.cli.downloader import Saver

        saver = Saver(
            arguments.out,
            app.settings.replicate_base_url,
            arguments.overwrite,
            arguments.max_mb,
            number=True,
        )
        code = max(code, await saver.save_and_report(result))
    elif result.successful_count and keeps_batches:
        bar.say(
            "The URLs work for one hour. To save the images:",
            as_typed("download", result.batch_id, "--to", "DIR"),
        )
    elif result.successful_count:
        bar.say("The URLs work for one hour. To save the images, give --out DIR next time.")
    return code


def _leave(bar: "ProgressBar") -> None:
    import os

    bar.stop()
    # Bypass the console and its buffers: the signal may have interrupted a write.
    os.write(sys.stderr.fileno(), f"{INTERRUPTED_MESSAGE}\n".encode())


async def _start(
    app: "App",
    caller: "Caller",
    request: "Callable[[], Awaitable[BatchRequest]]",
    interrupts: "Interrupts",
) -> str | None:
    """Start a batch and return its id, or None if Ctrl-C was pressed before it started."""
    import anyio

    batch_id: str | None = None
    async with anyio.create_task_group() as group:

        async def give_up_when_asked() -> None:
            await interrupts.interrupted.wait()
            group.cancel_scope.cancel()

        group.start_soon(give_up_when_asked)
        batch_id = await app.batches.start(caller, await request())
        group.cancel_scope.cancel()
    return batch_id


async def _request(
    app: "App", caller: "Caller", arguments: argparse.Namespace, given: "TaskInput"
) -> "BatchRequest":
    """Return the batch request; command line options override the values from the file."""
    from replicate_mcp.app.preparation import BatchRequest
    from replicate_mcp.cli.task_input import read_cells, read_inputs

    async def fields(name: str | None) -> "Mapping[str, InputField]":
        try:
            schema = await app.model_inputs(caller, name or app.settings.default_model)
        except (InvalidInput, ModelNotFound):
            return {}  # The task that names this model is rejected later, with the proper error.
        return schema.fields if schema else {}

    model = arguments.model or given.model
    inputs = read_inputs(arguments.input, await fields(model)) if arguments.input else {}
    return BatchRequest(
        await read_cells(given, model, fields) if given.has_cells else given.tasks,
        model=model,
        semaphore=arguments.semaphore or given.semaphore,
        concurrency_limit=given.concurrency_limit,
        shared_inputs={**given.shared_inputs, **inputs},
        image_paths="any",
        skip_invalid=arguments.skip_invalid or given.skip_invalid,
    )


async def _follow(
    app: "App", caller: "Caller", batch_id: str, bar: "ProgressBar", interrupts: "Interrupts"
) -> "BatchResult":
    """Wait until the batch ends; Ctrl-C cancels it, also on Replicate."""
    import anyio

    from replicate_mcp.cli.output import not_made

    async def keep_bar() -> None:
        while True:
            if progress := await app.batches.progress(batch_id):
                bar.update(progress.finished, progress.line, progress.notice, total=progress.total)
            await anyio.sleep(PROGRESS_POLL_SECONDS)

    async def stop_when_asked() -> None:
        await interrupts.interrupted.wait()
        progress = await app.batches.progress(batch_id)
        running = progress.running if progress else 0
        # Record the cancellation before announcing it: a second Ctrl-C exits immediately.
        while True:
            try:
                await app.batches.cancel(caller, batch_id)
                break
            except BackendUnavailable as error:
                bar.say(f"{error} Trying again.")
                await anyio.sleep(RETRY_DELAY_SECONDS)
        bar.say(
            f"Stopping: cancelling {running} at Replicate; press Ctrl-C again to leave at once."
        )

    async with anyio.create_task_group() as group:
        group.start_soon(keep_bar)
        group.start_soon(stop_when_asked)
        await app.batches.wait(caller, batch_id, seconds=None)
        await app.batches.wait_until_stopped(batch_id)
        group.cancel_scope.cancel()
    result = await app.batches.result(caller, batch_id)
    made = result.successful_count
    is_whole = made == result.total_tasks
    line = f"{made}/{made} done" if is_whole else f"{made} made{not_made(result)}"
    bar.update(made, line, total=result.total_tasks)
    return result
