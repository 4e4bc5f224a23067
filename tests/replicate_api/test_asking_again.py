"""Questions that create nothing are asked again, and not for ever."""

import anyio
import pytest

from replicate_mcp.replicate_api import asking_again
from replicate_mcp.replicate_api.asking_again import answered
from replicate_mcp.replicate_api.faults import LostAnswer


async def test_a_question_that_is_never_answered_counts_as_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking_again, "ASKED_SECONDS", 0.2)
    with anyio.fail_after(10), pytest.raises(LostAnswer, match="not within"):
        await answered(anyio.sleep_forever)
