"""Starts of `python -m replicate_mcp` by fork from a process that has imported the package.

A start takes 0.6 to 1.9 s of CPU, nearly all of it imports, and the tests start it over a thousand
times. After `install`, `subprocess` (and what is built on it) gets the same process, as its own
child, with 0.1 s. So do the simulator, and the scripts of `python -c` that begin with `FORKABLE`.
`--thorough` turns it off; `make soak` passes it.
"""

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

MODULES = ("replicate_mcp", "replicate_mcp.simulator")
FORKABLE = "# Forked in tests.\n"

PR_SET_CHILD_SUBREAPER = 36
MAX_REQUEST_BYTES = 1_000_000

LATE_MODULES = (
    "anyio._backends._asyncio",
    "certifi",
    "fastapi.telemetry._runtime",
    "httpcore",
    "jsonschema",
    "packaging.version",
    "platformdirs",
    "replicate",
    "rich.logging",
    "uvicorn.lifespan.on",
)
"""What commands and servers import during their first call."""


class Request(NamedTuple):
    """A process to start; strings as `os.fsdecode` makes them.

    Attributes:
        option: `-m` or `-c`, as of the interpreter.
        warnings: the action of `-W`, or an empty string.
        program: the module or the script.
        process_group: as of `subprocess.Popen`; -1 for the fork server's.
    """

    option: str
    warnings: str
    program: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    new_session: bool
    process_group: int
    umask: int


class ForkServer:
    """The client's side of a fork server; closed with the process that uses it."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._libc = ctypes.CDLL(None)
        with other:
            self._process = _popen(
                [sys.executable, __file__, str(other.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            )

    def fork(self, request: Request, streams: Sequence[int]) -> int:
        """Start a process with these three streams and return its id: a child of the caller.

        The process that forks it ends at once, and the system gives orphans to the nearest
        subreaper above.
        """
        with self._lock:
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], list(streams))
                return int(self._socket.recv(32))
            finally:
                self._libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def stop(self) -> None:
        """End the fork server; the processes that it started go on."""
        self._socket.close()
        self._process.wait()


_popen = subprocess.Popen
_servers: dict[tuple[tuple[str, str], ...], ForkServer] = {}


_is_paused = False


@contextmanager
def real_starts() -> Iterator[None]:
    """Start all processes as users do while the block runs."""
    global _is_paused
    _is_paused = True
    try:
        yield
    finally:
        _is_paused = False


def install() -> None:
    """Start matching commands of `subprocess` by fork from now on, on Linux."""
    if sys.platform != "linux":
        return
    module: Any = subprocess
    fork_exec = module._fork_exec

    def fork_or_exec(*values: Any) -> int:
        started = None if _is_paused else _fork(*values)
        return fork_exec(*values) if started is None else started

    module._fork_exec = fork_or_exec


def uninstall() -> None:
    """Stop the fork servers."""
    while _servers:
        _servers.popitem()[1].stop()


def _fork(*values: Any) -> int | None:
    """Start the process if it is a Python program of ours and needs nothing special.

    Takes the arguments of `_posixsubprocess.fork_exec`, the same since Python 3.11.
    """
    arguments, _, close_fds, kept, folder, environment = values[:6]
    streams = values[6], values[9], values[11]
    error_pipe, _, new_session, group, gid, groups, uid, umask, preexec = values[13:22]
    words = [os.fsdecode(word) for word in arguments]
    if words[1:2] == ["-P"]:
        del words[1]
    warnings = ""
    if words[1:2] == ["-W"]:
        warnings = words[2]
        del words[1:3]
    changes = (gid, groups, uid, preexec)
    plain = close_fds and tuple(kept) == (error_pipe,) and changes == (None,) * 4
    if len(words) < 3 or words[0] != sys.executable or not plain:
        return None
    option, program = words[1:3]
    if not (option == "-m" and program in MODULES) and not (
        option == "-c" and program.startswith(FORKABLE)
    ):
        return None
    variables = _decoded(environment)
    interpreter = {name: text for name, text in variables.items() if _is_of_interpreter(name)}
    if any(os.environ.get(name) != interpreter[name] for name in interpreter.keys() - LOCALE):
        return None
    key = tuple(sorted(interpreter.items()))
    if key not in _servers:
        own = {"PATH": os.environ.get("PATH", ""), "OPENBLAS_NUM_THREADS": "1"}  # no threads
        _servers[key] = ForkServer(own | interpreter)
    request = Request(
        option,
        warnings,
        program,
        words[3:],
        str(Path.cwd() / os.fsdecode(folder or "")),
        variables,
        new_session,
        group,
        umask,
    )
    return _servers[key].fork(
        request, [number if fd == -1 else fd for number, fd in enumerate(streams)]
    )


LOCALE = {"LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LC_NUMERIC", "LC_TIME"}


def _is_of_interpreter(name: str) -> bool:
    """Return whether the variable is read while the interpreter starts."""
    return name in LOCALE or name.startswith(("PYTHON", "LD_"))


def _decoded(environment: Sequence[bytes] | None) -> dict[str, str]:
    if environment is None:
        return dict(os.environ)
    pairs = (os.fsdecode(pair).partition("=") for pair in environment)
    return {name: text for name, _, text in pairs}


# The other side.


def _serve(requests: socket.socket) -> tuple[Request, list[int]] | None:
    """Fork at each request. Return it in the new process, and None in this one at the end."""
    while True:
        content, streams, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 3)
        if not content:
            return None
        ends = os.pipe()
        parent = os.fork()
        if not parent:
            child = os.fork()
            if not child:
                os.close(ends[0])
                os.close(ends[1])
                return Request(*json.loads(content)), streams
            os.write(ends[1], str(child).encode())
            os._exit(0)
        os.waitpid(parent, 0)
        requests.send(os.read(ends[0], 32))
        for number in (*ends, *streams):
            os.close(number)


def _become(request: Request, streams: list[int]) -> None:
    """Make this process what `subprocess` would have started."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.new_session:
        os.setsid()
    if request.process_group >= 0:
        os.setpgid(0, request.process_group)
    if request.umask >= 0:
        os.umask(request.umask)
    os.chdir(request.folder)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request.environment)
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        raw = io.FileIO(number, "w" if number else "r", closefd=False)
        by_line = number == 2 or raw.isatty()
        file: Any = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
        new = io.TextIOWrapper(file, old.encoding, old.errors, None, by_line, unbuffered)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)
    if request.warnings:
        warnings.simplefilter(cast(Any, request.warnings))
    sys.argv = [request.option, *request.arguments]


def _run(request: Request) -> None:
    if request.option == "-m":
        runpy.run_module(request.program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(request.program, "<string>", "exec"), {"__name__": "__main__"})


def _exit(code: int) -> None:
    """End this process as the interpreter does, but leave its memory to the system.

    Freeing every imported module takes 50 ms.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except OSError:
        sys.exit(code)
    os._exit(code & 0xFF)


def _import_all() -> None:
    package = importlib.import_module("replicate_mcp")
    for module in pkgutil.walk_packages(package.__path__, "replicate_mcp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in LATE_MODULES:
        importlib.import_module(name)


def main() -> None:
    """Import the package and fork until the client closes its socket."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = ""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group.
    _import_all()
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()
    request = _serve(requests)
    requests.close()
    if request:
        _become(*request)
        try:
            _run(request[0])
        except SystemExit as end:
            if end.code is not None and not isinstance(end.code, int):
                raise
            _exit(end.code or 0)
        _exit(0)


if __name__ == "__main__":
    main()
