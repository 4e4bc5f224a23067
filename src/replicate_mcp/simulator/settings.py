"""Settings of the simulator, shared by its command line, control routes and Python API."""

from enum import StrEnum
from typing import Self

from pydantic import Field

from replicate_mcp.simulator.engine.durations import Duration
from replicate_mcp.simulator.engine.fault_injection import Faults, Rate


class ThrottleWording(StrEnum):
    """Text of a 429."""

    PLAIN = "plain"
    """`Request was throttled. Your rate limit resets in ~10s.`"""
    ANNOUNCED = "announced"
    """Preceded by a sentence that names the rate, the burst and the low credit that causes them."""
    ANNOUNCED_WITHOUT_CREDIT = "announced_without_credit"
    """Preceded by a sentence that names the rate and the burst."""
    BARE = "bare"
    """`Request was throttled.`"""


class SimulatorSettings(Faults):
    """Behaviour of the simulated Replicate; all settings can be changed while it runs."""

    # Life cycle of a prediction
    predict_seconds: Duration = Field(
        0.0,
        description='seconds of processing: a number, "1-4", "0.5,1,2" in turn, '
        '"lognormal(2, 0.5)", or "model" for what the model typically takes',
    )
    queue_seconds: Duration = Field(0.0, description="seconds in `starting`, the same way")
    cancel_seconds: float = Field(0, ge=0, description="seconds until a cancel takes effect")
    slow_seconds: float = Field(10, ge=0, description="processing for a prompt with [slow]")
    run_limit_seconds: float = Field(1800, gt=0, description="Replicate's limit of 30 minutes")
    retention_seconds: float = Field(
        3600, ge=0, description="after its end, when input, output and files are deleted"
    )
    minimum_cancel_after_seconds: float = Field(5, ge=0, description="least Cancel-After")
    seed: int = Field(0, description="of durations, outcomes and faults")

    # Rate limits of an account
    requests_per_minute: float = Field(600, gt=0, description="creations, refilled evenly")
    burst: int = Field(600, ge=1, description="creations at once")
    other_requests_per_minute: float = Field(3000, gt=0, description="all other calls")
    other_burst: int = Field(3000, ge=1, description="other calls at once")
    throttle_wording: ThrottleWording = Field(ThrottleWording.PLAIN, description="text of a 429")
    throttle_header: bool = Field(False, description="a 429 carries Retry-After")
    throttle_field: bool = Field(True, description="a 429 carries retry_after in its body")
    throttle_seconds: int = Field(1, ge=0, description="seconds that an injected 429 names")

    # Outcomes, as shares of the predictions
    failing: Rate = Field(0, description="predictions that fail")
    failure_text: str = Field(
        "Prediction failed: the model ran out of luck", description="what those say that fail"
    )
    nsfw: Rate = Field(0, description="predictions that fail as flagged content")
    hanging: Rate = Field(0, description="predictions that never end by themselves")
    no_output: Rate = Field(0, description="predictions that succeed with null or []")
    prompt_words: bool = Field(
        True,
        description="[fail] [nsfw] [nsfw-log] [no-output] [words] [hang] [slow] in a prompt choose "
        "its outcome",
    )

    # Unusual responses
    missing_metrics: Rate = Field(0, description="predictions without metrics")
    output_before_end: Rate = Field(
        0, description="predictions that are `processing` with their final output for a while"
    )
    settle_seconds: float = Field(0.2, ge=0, description="how long that while is")
    files_one_by_one: bool = Field(
        False,
        description="models that give lists are iterators: files show one by one while they run",
    )
    data_url_outputs: Rate = Field(0, description="held answers with data: URLs as output")
    webhook_lost: Rate = Field(0, description="webhooks that are never sent")
    webhook_duplicates: Rate = Field(0, description="webhooks that are sent twice")
    answer_202: Rate = Field(0, description="creations answered 202 instead of 201")
    list_lag_seconds: float = Field(0, ge=0, description="until a prediction is in the list")
    list_deadlines: bool = Field(True, description="the list includes deadlines")
    page_size: int = Field(100, ge=1, description="predictions a page")
    reject_unknown_inputs: bool = Field(True, description="422 for inputs not in the schema")
    delivery_extensions: bool = Field(True, description="output URLs end like .webp")
    page_for_file: Rate = Field(0, description="output files answered 200 with an HTML page")
    empty_file: Rate = Field(0, description="output files answered 200 without a byte")
    clock_offset_seconds: float = Field(
        0, description="added to all timestamps and the Date header"
    )
    public_url: str = Field(
        "", description="where clients reach it, if not at the address it is bound to"
    )

    def changed(self, changes: dict[str, object]) -> Self:
        """Return these settings with some replaced.

        Raises:
            pydantic.ValidationError: a setting is unknown or invalid.
        """
        return self.model_validate({**self.model_dump(), **changes})
