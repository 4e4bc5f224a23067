"""The public Python API, as used by a program."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

from PIL import Image

from conftest import environment
from fork_server import FORKABLE, real_starts
from replicate_mcp.simulator import Simulator


def run(simulator: Simulator, folder: Path, program: str, *, backend: str | None = None) -> str:
    """Run a program in its own process, and return its output."""
    variables = environment(simulator, folder)
    if backend:
        variables["REPLICATE_MCP_BACKEND"] = backend
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKABLE + textwrap.dedent(program)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_program_makes_a_batch_in_one_call(simulator: Simulator, tmp_path: Path) -> None:
    with real_starts():
        printed = run(
            simulator,
            tmp_path,
            """
            import asyncio
            from replicate_mcp import generate_images

            async def main():
                tasks = [{"prompt": f"car {n}", "output_filename": "car.png"} for n in range(60)]
                result = await generate_images(tasks)
                print(result.successful_count, len(result.successful_results))
                print(result.successful_results[1].generated_files[0].filename)

            asyncio.run(main())
            """,
        )
    assert printed.split() == ["60", "60", "car_2.png"]


def test_images_may_be_paths_bytes_or_open_files(simulator: Simulator, tmp_path: Path) -> None:
    folder = tmp_path / "assets"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "blue.png")
    printed = run(
        simulator,
        tmp_path,
        f"""
        import asyncio, os
        from pathlib import Path
        from replicate_mcp import generate_images

        os.chdir({str(tmp_path)!r})
        red = Path("assets/red.png")
        edit, combine = "flux-kontext-max", "google/nano-banana"

        async def main():
            with open("assets/blue.png", "rb") as blue:
                result = await generate_images([
                    {{"prompt": "a", "model": edit, "input_image": red}},
                    {{"prompt": "b", "model": edit, "input_image": "assets/red.png"}},
                    {{"prompt": "c", "model": edit, "input_image": str(red.resolve())}},
                    {{"prompt": "d", "model": edit, "input": {{"input_image": red.read_bytes()}}}},
                    {{"prompt": "e", "model": edit, "input_image": blue}},
                    {{"prompt": "f", "model": edit, "input_image": blue}},
                    {{"prompt": "g", "model": combine, "image_input": (red, red.read_bytes())}},
                ])
            print(result.successful_count)

        asyncio.run(main())
        """,
    )
    assert printed == "7"
    sent = {each["input"]["prompt"]: each["input"] for each in simulator.predictions("acme")}
    red, blue = sent["a"]["input_image"], sent["e"]["input_image"]
    assert red != blue
    assert all(url.startswith(f"{simulator.url}/v1/files/") for url in (red, blue))
    assert [sent[each]["input_image"] for each in "abcdef"] == [red] * 4 + [blue] * 2
    assert sent["g"]["image_input"] == [red, red]


def test_every_unusable_file_is_a_problem_of_its_task(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("notes")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    printed = run(
        simulator,
        tmp_path,
        f"""
        import asyncio, io, json, os
        from pathlib import Path
        from replicate_mcp import generate_images, ReplicateMcpError

        os.chdir({str(tmp_path)!r})
        loop = []
        loop.append(loop)
        given = [Path("none.png"), Path("notes.png"), b"notes", io.StringIO("x"), "none.png",
                 object(), loop, Path("red.png"), Path()]
        tasks = [{{"prompt": "x", "input_image": each}} for each in given]
        tasks += [{{"prompt": b"x"}}, {{"prompt": "x", "seed": "y"}}]

        async def main():
            try:
                await generate_images(tasks, model="flux-kontext-max")
            except ReplicateMcpError as error:
                print(json.dumps([[p.task_index, p.field, p.error] for p in error.problems]))
                assert "never over HTTP" not in str(error)
            result = await generate_images(tasks, model="flux-kontext-max", skip_invalid=True)
            print([row.task_index for row in result.successful_results])
            assert {{row.error_code for row in result.failed_results}} == {{"invalid_input"}}

        asyncio.run(main())
        """,
    )
    reported, made = printed.splitlines()
    problems = json.loads(reported)
    assert [index for index, _, _ in problems] == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]
    sentences = [
        "input_image 'none.png' is not there: ",
        "input_image 'notes.png' is not an image: ",
        "input_image is not an image: ",
        'input_image is a file opened as text: open it with "rb".',
        "input_image 'none.png' is not there: ",
        "input_image is an object of the Python type object, which cannot be sent: give text, ",
        "input_image is nested more than 30 deep.",
        "input_image '.' is a folder, not an image: ",
        "prompt must be text, not bytes.",
        "seed 'y' is not a whole number.",
    ]
    for (_, _, error), sentence in zip(problems, sentences, strict=True):
        assert error.startswith(sentence)
    assert made == "[7]"
    assert simulator.account("acme")["created"] == 1


def test_registering_resizing_and_listing(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        from replicate_mcp import *

        print(register_global_semaphore("team", 5).limit)
        print(register_global_semaphore("team", 9).limit)
        print(resize_global_semaphore("team", 7).limit)
        print(get_global_semaphore("team").available)
        print([s.name for s in list_global_semaphores()])
        try:
            get_global_semaphore("other")
        except ReplicateMcpError as error:
            print(error)
        for wrong in [("a b", 1), ("x", 0)]:
            try:
                register_global_semaphore(*wrong)
            except ReplicateMcpError as error:
                print(error)
        """,
    )
    lines = printed.splitlines()
    assert lines[:5] == ["5", "5", "7", "7", "['replicate-global', 'team']"]
    assert "semaphore 'other' is not registered" in lines[5]
    assert "'a b' is not a name" in lines[6]
    assert "limit 0 must be a whole number from 1" in lines[7]


def test_contexts_of_threads_and_tasks_stay_within_one_limit(
    simulator: Simulator, tmp_path: Path
) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio, threading, time
        from replicate_mcp import ExternalSemaphoreContext, register_global_semaphore

        register_global_semaphore("team", 3)
        inside = most = entered = 0
        guard = threading.Lock()

        def note(change):
            global inside, most, entered
            with guard:
                inside += change
                entered += change > 0
                most = max(most, inside)

        def in_thread():
            for _ in range(5):
                with ExternalSemaphoreContext("team"):
                    note(1); time.sleep(0.005); note(-1)

        async def in_task():
            async with ExternalSemaphoreContext("team"):
                note(1); await asyncio.sleep(0.005); note(-1)

        async def in_tasks():
            await asyncio.gather(*(in_task() for _ in range(20)))

        threads = [threading.Thread(target=in_thread) for _ in range(4)]
        for thread in threads: thread.start()
        asyncio.run(in_tasks())
        for thread in threads: thread.join()
        print(entered, most, inside)
        """,
    )
    assert printed == "40 3 0"


def test_program_and_server_share_the_account_limit(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio, os
        os.environ["REPLICATE_CONCURRENT_LIMIT"] = "2"
        from replicate_mcp import ExternalSemaphoreContext, generate_images, list_global_semaphores

        async def main():
            async with ExternalSemaphoreContext("replicate-global"):
                (own,) = await asyncio.to_thread(list_global_semaphores)
                print(own.in_use, own.limit)
                result = await generate_images([f"car {n}" for n in range(6)])
                print(result.successful_count)
            (own,) = await asyncio.to_thread(list_global_semaphores)
            print(own.in_use)

        asyncio.run(main())
        """,
    )
    assert printed.split() == ["1", "2", "6", "0"]
    assert simulator.account("acme")["max_in_flight"] == 1


def test_misuse_raises_instead_of_hanging(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import ExternalSemaphoreContext, ReplicateMcpError
        from replicate_mcp import get_global_semaphore, register_global_semaphore

        register_global_semaphore("team", 1)

        async def main():
            try:
                with ExternalSemaphoreContext("team"): pass
            except RuntimeError as error:
                print("async with" in str(error))
            async with ExternalSemaphoreContext("team"):
                try:
                    async with ExternalSemaphoreContext("team"): pass
                except RuntimeError as error:
                    print("wait for itself" in str(error))
            try:
                async with ExternalSemaphoreContext("nope"): pass
            except ReplicateMcpError as error:
                print("not registered" in str(error))

        asyncio.run(main())
        print(get_global_semaphore("team").in_use)
        """,
        backend="memory",
    )
    assert printed.split() == ["True", "True", "True", "0"]


def test_task_started_inside_a_context_may_enter_its_own_afterwards(
    simulator: Simulator, tmp_path: Path
) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import ExternalSemaphoreContext
        from replicate_mcp import get_global_semaphore, register_global_semaphore

        register_global_semaphore("team", 1)

        async def work(prompts):
            while prompt := await prompts.get():
                try:
                    async with ExternalSemaphoreContext("team"):
                        print(prompt)
                except RuntimeError:
                    print("refused:", prompt)
                prompts.task_done()

        async def main():
            prompts = asyncio.Queue()
            async with ExternalSemaphoreContext("team"):
                worker = asyncio.create_task(work(prompts))
                await prompts.put("one inside")
                await prompts.join()
            for prompt in ("two", "three", ""):
                await prompts.put(prompt)
            await worker

        asyncio.run(main())
        print(get_global_semaphore("team").in_use)
        """,
        backend="memory",
    )
    assert printed.splitlines() == ["refused: one inside", "two", "three", "0"]


def test_cancelled_wait_leaves_no_trace(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import ExternalSemaphoreContext
        from replicate_mcp import get_global_semaphore, register_global_semaphore

        register_global_semaphore("team", 1)

        async def use(entered=None):
            async with ExternalSemaphoreContext("team"):
                if entered: entered.set()
                await asyncio.sleep(3600)

        async def main():
            entered = asyncio.Event()
            first = asyncio.create_task(use(entered))
            await entered.wait()
            others = [asyncio.create_task(use()) for _ in range(5)]
            while (await asyncio.to_thread(get_global_semaphore, "team")).waiting < 5:
                await asyncio.sleep(0.01)
            for task in [*others, first]:
                task.cancel()
            await asyncio.gather(first, *others, return_exceptions=True)
            async with asyncio.timeout(5), ExternalSemaphoreContext("team"):
                print("in")
            state = await asyncio.to_thread(get_global_semaphore, "team")
            print(state.in_use, state.waiting)

        asyncio.run(main())
        """,
    )
    assert printed.split() == ["in", "0", "0"]


def test_context_exits_cleanly_with_a_full_disk_and_its_unit_is_released(
    simulator: Simulator, tmp_path: Path
) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import resource
        from replicate_mcp import ExternalSemaphoreContext, ReplicateMcpError
        from replicate_mcp import get_global_semaphore, register_global_semaphore

        usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)

        def largest_file(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))

        register_global_semaphore("team", 1)
        with ExternalSemaphoreContext("team"):
            largest_file(0)
            try:
                register_global_semaphore("other", 1)
            except ReplicateMcpError as error:
                print(error.code)
        largest_file(usual)
        with ExternalSemaphoreContext("team"):
            print("in")
        print(get_global_semaphore("team").in_use)
        """,
    )
    assert printed.splitlines() == ["backend_unavailable", "in", "0"]


def test_cancelled_call_cancels_its_batch_at_replicate(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=30)
    run(
        simulator,
        tmp_path,
        f"""
        import asyncio
        from replicate_mcp import generate_images
        from replicate_mcp.simulator import Simulator

        async def main():
            simulator = Simulator("{simulator.url}")
            task = asyncio.create_task(generate_images(["a", "b"]))
            await simulator.reached(account="acme", in_flight=2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await simulator.reached(account="acme", in_flight=0, within=20)

        asyncio.run(main())
        """,
    )
    assert simulator.account("acme")["creations_seen"] == 2


def test_importing_the_package_imports_no_heavy_modules() -> None:
    heavy = {"mcp", "replicate", "pydantic", "httpx", "rich", "PIL", "anyio"}
    printed = subprocess.run(
        [sys.executable, "-c", "import replicate_mcp, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert not heavy & set(printed.split())


def test_context_cancelled_before_it_is_enqueued_takes_nothing(
    simulator: Simulator, tmp_path: Path
) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import ExternalSemaphoreContext, list_global_semaphores

        async def main():
            try:
                async with asyncio.timeout(0.01), ExternalSemaphoreContext("replicate-global"):
                    print("in at once")
            except TimeoutError:
                print("given up")
            async with asyncio.timeout(10), ExternalSemaphoreContext("replicate-global"):
                (own,) = await asyncio.to_thread(list_global_semaphores)
                print(own.in_use)

        asyncio.run(main())
        """,
    )
    assert printed.splitlines()[-1] == "1"


def test_ctrl_c_in_a_program_cancels_its_batch_at_replicate(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=30)
    program = """
import asyncio, signal
from replicate_mcp import generate_images
signal.signal(signal.SIGINT, signal.default_int_handler)  # Else ignored in a shell's background.
asyncio.run(generate_images(["a", "b", "c"]))
"""
    around = {**os.environ, **environment(simulator, tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", FORKABLE + program], env=around, stderr=subprocess.PIPE
    ) as process:
        simulator.wait_for(account="acme", in_flight=3)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert simulator.account("acme")["in_flight"] == 0


def test_program_retries_failed_and_chosen_tasks(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import ReplicateMcpError, generate_images, retry_batch

        async def main():
            first = await generate_images(["[fail] a", "b"])
            again = await retry_batch(first.batch_id)
            print(again.retry_of == first.batch_id, again.failed_results[0].retried_task_index)
            new = await retry_batch(first.batch_id, task_indexes=[1], new_seed=True)
            print(new.successful_results[0].seed != first.successful_results[0].seed)
            try:
                await retry_batch(first.batch_id, replicate_api_token="r8_other_1")
            except ReplicateMcpError as error:
                print(type(error).__name__)

        asyncio.run(main())
        """,
    )
    assert printed.split() == ["True", "0", "True", "UnknownBatch"]


def test_program_without_an_event_loop_gets_progress_and_the_result(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds="0.3,0.6,0.9")
    printed = run(
        simulator,
        tmp_path,
        """
        import threading
        from replicate_mcp import BatchResult, Progress, TaskFailure, generate_images_sync

        reports = []

        def show(progress):
            assert isinstance(progress, Progress)
            reports.append((progress.finished, threading.current_thread().name))

        result = generate_images_sync(["a", "[fail] b", "c"], on_progress=show)
        assert isinstance(result, BatchResult)
        print(result.successful_count, type(result.failed_results[0]) is TaskFailure)
        print(reports[-1], [count for count, _ in reports] == sorted(c for c, _ in reports))
        """,
    )
    assert printed.splitlines() == ["2 True", "(3, 'MainThread') True"]


def test_sync_call_in_an_event_loop_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio
        from replicate_mcp import generate_images_sync

        async def main():
            try:
                generate_images_sync(["a"])
            except RuntimeError as error:
                print(error)

        asyncio.run(main())
        """,
    )
    assert printed == (
        "generate_images_sync would block the running event loop: await generate_images."
    )
    assert not simulator.predictions()


def test_failing_progress_function_does_not_stop_the_batch(
    simulator: Simulator, tmp_path: Path
) -> None:
    printed = run(
        simulator,
        tmp_path,
        """
        import asyncio, logging
        from replicate_mcp import generate_images

        logging.disable()

        def show(progress):
            raise ValueError("no")

        async def main():
            result = await generate_images(["a", "b"], on_progress=show)
            print(result.successful_count)

        asyncio.run(main())
        """,
    )
    assert printed == "2"


def test_public_names_are_importable_and_listed() -> None:
    import replicate_mcp

    for name in replicate_mcp.__all__:
        assert getattr(replicate_mcp, name).__name__ == name
    assert replicate_mcp.__all__ == sorted(replicate_mcp.__all__)
