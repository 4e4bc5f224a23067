"""Programs of another user of this machine: a client, and a proxy that adds no headers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

UNPRIVILEGED_UID = 65_534

BECOME_ANOTHER_USER = f"""
import encodings.idna, http.client, json, os, re, socket, sys, threading
from urllib.parse import urlsplit
os.setgroups([])
os.setgid({UNPRIVILEGED_UID})
os.setuid({UNPRIVILEGED_UID})
"""
"""Once all is imported: the interpreter may be where no other user reads."""

CLIENT = """
url, path, body, headers = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
parts = urlsplit(url)
connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
connection.request("POST" if body else "GET", path, body or None, headers)
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""

PROXY = """
parts = urlsplit(sys.argv[1])
def copy(one, other, host):
    while True:
        try:
            data = one.recv(65536)
            if host:
                data = re.sub(rb"(?i)\\r\\nhost: [^\\r]*", b"\\r\\nHost: " + host.encode(), data)
            other.sendall(data)
        except OSError:
            return
        if not data:
            return other.shutdown(socket.SHUT_WR)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    client, _ = listener.accept()
    server = socket.create_connection((parts.hostname, parts.port))
    threading.Thread(target=copy, args=(client, server, parts.netloc), daemon=True).start()
    threading.Thread(target=copy, args=(server, client, ""), daemon=True).start()
"""
"""It names the server's own address in `Host`, and adds no header, as nginx's bare `proxy_pass`."""


def require_another_user() -> None:
    """Skip if no program can run as another user, or a socket's owner cannot be determined."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("another user's programs were NOT tried: that takes root on Linux")


def command(script: str, *words: str) -> list[str]:
    """Return the command that runs a script as another user."""
    return [sys.executable, "-c", BECOME_ANOTHER_USER + script, *words]


def asked_by_another_user(url: str, path: str, body: str, headers: str) -> str:
    """Return the response to another user's program: the status and the JSON body."""
    words = command(CLIENT, url, path, body, headers)
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def hidden_proxy(url: str) -> Iterator[str]:
    """Run another user's proxy in front of a server; yield its address."""
    with subprocess.Popen(command(PROXY, url), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()
