"""Every error a caller can meet: a stable code, a sentence for a person, and whether to retry.

The inside raises these; the edges (MCP tools, the command line) translate them.
"""

from typing import Literal, get_args

ErrorCode = Literal[
    "invalid_input",
    "model_not_found",
    "content_flagged",
    "prediction_failed",
    "no_output",
    "canceled",
    "interrupted",
    "deadline_exceeded",
    "create_outcome_unknown",
    "unauthorized",
    "insufficient_credit",
    "daily_limit",
    "replicate_unavailable",
    "backend_unavailable",
]

RefusalCode = Literal[ErrorCode, "too_many_requests"]
"""With the code of what is refused only because much is going on; no task ends with it."""

ERROR_CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)


class ReplicateMcpError(Exception):
    """The root of this package's errors; `str(error)` is a sentence that says what to do.

    Attributes:
        code: one of `ERROR_CODES`, or `too_many_requests`; programs branch on it.
        retryable: whether sending the same request again can help and cannot bill twice.
    """

    code: RefusalCode = "invalid_input"
    retryable: bool = False

    def __str__(self) -> str:
        """The sentence; what it quotes may hold half a character, which cannot be sent."""
        return super().__str__().encode(errors="replace").decode()


class InvalidInput(ReplicateMcpError):
    """The request is wrong as it stands; nothing was created."""

    code = "invalid_input"


class UnknownBatch(InvalidInput):
    """No batch of that id is visible to the caller."""


class KeyReused(InvalidInput):
    """The key under which a request can be sent again belongs to another request."""


class UnknownSemaphore(InvalidInput):
    """No semaphore of that name is registered."""


class SemaphoreInUse(InvalidInput):
    """The semaphore cannot be removed while it is in use or registered."""


class ModelNotFound(ReplicateMcpError):
    """Replicate knows no such model, version or deployment."""

    code = "model_not_found"


class Unauthorized(ReplicateMcpError):
    """There is no token, or Replicate refused it."""

    code = "unauthorized"


class InsufficientCredit(ReplicateMcpError):
    """The account has no credit left."""

    code = "insufficient_credit"


class ReplicateUnavailable(ReplicateMcpError):
    """Replicate could not be reached or answered with a fault of its own."""

    code = "replicate_unavailable"
    retryable = True


class ReplicateUnreachable(ReplicateUnavailable):
    """This machine's TLS or proxy settings prevent every connection to Replicate."""

    retryable = False


class BackendUnavailable(ReplicateMcpError):
    """The place where semaphores and the journal live could not be used."""

    code = "backend_unavailable"
    retryable = True


class TooManyBatches(ReplicateMcpError):
    """Those that run take the memory that a server has for them; nothing was created.

    Attributes:
        is_everybodys: whether all accounts' together do, or those of the caller's account.
    """

    code = "too_many_requests"
    retryable = True

    def __init__(self, *, is_everybodys: bool, most: int) -> None:
        whose = "" if is_everybodys else " of your account"
        super().__init__(
            f"Too many batches{whose} have not ended (their inputs take at most "
            f"{most // 1024**2:,} MiB): try again when some have."
        )
        self.is_everybodys = is_everybodys


class JournalFull(ReplicateMcpError):
    """The account's batches take all of its allowance in the journal; nothing was created."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, *, running: str, keys: str, allowed: str) -> None:
        super().__init__(
            "The journal of your account has no room for this batch: its batches that have not "
            f"ended take {running} of {allowed} MiB, and Idempotency-Keys of the last 24 hours "
            f"{keys} MiB. Nothing was created: wait until some have ended."
        )


class TooManyAttempts(ReplicateMcpError):
    """Too many refused tokens or admin keys came from one address; nothing was created.

    Attributes:
        retry_after: seconds until the address may send another one.
    """

    code = "too_many_requests"
    retryable = True

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "Too many tokens or keys from your address were refused within a minute, so this one "
            f"was not tried and nothing was created: send it again in {retry_after} s."
        )
        self.retry_after = retry_after
