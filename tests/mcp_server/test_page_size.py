"""The size of a results page in tokens of a model."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_server.conftest import Connect
from npm import installed
from replicate_mcp.simulator import Simulator

HERE = Path(__file__).parent / "tokeniser"

MAX_TOKENS = 25_000
"""What hosts hand to a model of an answer."""

ADDRESS_OF_OUTPUTS = "https://replicate.delivery/xezq/Qm7RkZp2VtXc9LwYb4Nd"
"""As long and as hard to abbreviate as the real ones."""

SENTENCE = "a quiet harbour at dawn, fishing boats under low fog, soft light and film grain"
WORDS = SENTENCE.split()
CHINESE = "清晨宁静的港湾，渔船停泊在低雾之下，柔和的光线与胶片颗粒感。"


def text_of(answer: Any) -> str:
    """Return the text and the structured content together."""
    # As JavaScript hosts serialise it: non-ASCII characters are not escaped.
    return str(answer.content[0].text) + json.dumps(answer.structured_content, ensure_ascii=False)


def tokens(text: str) -> int:
    installed(HERE)
    done = subprocess.run(
        ["node", "count.js"], cwd=HERE, input=text, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def english(number: int, words: int) -> str:
    return " ".join(WORDS[(number + k) % len(WORDS)] for k in range(words))


def chinese(number: int, characters: int) -> str:
    start = number % len(CHINESE)
    return (CHINESE * 40)[start : start + characters]


@pytest.mark.parametrize("era", ["auto"])
@pytest.mark.parametrize(
    ("prompt_of", "length", "outputs"),
    [
        pytest.param(english, 15, 1, id="usual", marks=pytest.mark.soak),
        pytest.param(english, 15, 4, id="four each", marks=pytest.mark.soak),
        pytest.param(english, 300, 1, id="long prompts", marks=pytest.mark.soak),
        pytest.param(chinese, 900, 1, id="Chinese"),
    ],
)
async def test_each_page_of_a_large_batch_fits_the_limit_of_hosts(
    connect: Connect,
    simulator: Simulator,
    prompt_of: Callable[[int, int], str],
    length: int,
    outputs: int,
) -> None:
    simulator.configure(public_url=ADDRESS_OF_OUTPUTS)
    prompts = [prompt_of(number, length) for number in range(500)]
    tasks = [
        {"prompt": prompt, "output_filename": f"harbour_at_dawn_{n:03}.webp"}
        | ({"num_outputs": outputs} if outputs > 1 else {})
        for n, prompt in enumerate(prompts)
    ]
    seen: list[int] = []
    async with connect(REPLICATE_CONCURRENT_LIMIT="200") as client:
        answer = await client.call_tool("generate_images", {"tasks": tasks, "wait_seconds": 50})
        batch = answer.structured_content["batch_id"]
        longest = ""
        while True:
            page = answer.structured_content
            rows = page["successful_results"]
            longest = max(longest, text_of(answer), key=len)
            seen += [row["task_index"] for row in rows]
            if page["status"] == "completed" and len(seen) == 500:
                break
            answer = await client.call_tool(
                "get_batch", {"batch_id": batch, "after": page["cursor"], "wait_seconds": 20}
            )
    assert sorted(seen) == list(range(500)), "every row came once"
    assert tokens(longest) < MAX_TOKENS
