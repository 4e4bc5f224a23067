"""The day in which an account's images are counted, and the message of an exhausted quota."""

import pytest

from replicate_mcp.semaphores.daily_quota import day_of, seconds_until_reset, sentence

DAY = 86_400


def test_quota_day_begins_at_midnight_utc() -> None:
    assert [day_of(now) for now in (0, DAY - 0.1, DAY, 2 * DAY + 1)] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("now", "seconds"), [(0, DAY), (DAY - 1, 1), (DAY, DAY), (DAY + 60, DAY - 60)]
)
def test_next_quota_day_opens_at_the_end_of_this_one(now: float, seconds: float) -> None:
    assert seconds_until_reset(now) == seconds


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "in 1 min"), (29, "in 1 min"), (91, "in 2 min"), (3_570, "in 1 h 0 min"),
        (3_569, "in 59 min"), (7_260, "in 2 h 1 min"), (86_399, "in 24 h 0 min"),
    ],
)  # fmt: skip
def test_exhausted_quota_message_has_the_limit_and_reset_time(seconds: float, said: str) -> None:
    text = sentence(50, seconds)
    assert "The day's 50 images (REPLICATE_MCP_MAX_IMAGES_PER_DAY)" in text
    assert "Nothing was billed" in text
    assert text.endswith(f"00:00 UTC, {said}.")
