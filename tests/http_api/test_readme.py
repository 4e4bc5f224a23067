"""The README's examples of HTTP work as they are printed."""

import json
import re
import subprocess
from pathlib import Path

from http_api.conftest import Server

README = Path(__file__).parents[2] / "README.md"


def test_the_curl_examples_work_as_printed(server: Server) -> None:
    text = README.read_text("utf-8")
    commands = re.findall(r"^curl (?:.*\\\n)*.*$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", server.url)
        told = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)
        answer = json.loads(told.stdout)
        assert "error" not in answer
        assert answer.get("success", True) is True
