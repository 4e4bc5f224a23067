"""Daily quota of images that an account may request; days are UTC, on the backend's clock."""

DAY_SECONDS = 24 * 3600


def day_of(now: float) -> int:
    """Return the number of the day that contains `now`, in seconds since the epoch."""
    return int(now // DAY_SECONDS)


def seconds_until_reset(now: float) -> float:
    """Return the seconds from `now` until the next day begins, which resets the count."""
    return (day_of(now) + 1) * DAY_SECONDS - now


def sentence(images_per_day: int, seconds: float) -> str:
    """Return why a task was not created, and when it can be.

    Args:
        images_per_day: the quota.
        seconds: seconds until the quota resets.
    """
    minutes = max(1, round(seconds / 60))
    hours, minutes = divmod(minutes, 60)
    left = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return (
        f"The day's {images_per_day} images (REPLICATE_MCP_MAX_IMAGES_PER_DAY) are used up, or too "
        f"few are left for this task. Nothing was billed: send it again after 00:00 UTC, in {left}."
    )
