"""Confirmation by a person before a batch of many images begins, in both eras of the protocol.

Up to revision 2025-11-25 the server asks while the call waits. Later revisions answer the call with
the question, and the client sends the call again with the answer: possibly twice, and to any
replica. So the sealed state of the question contains the idempotency key under which the batch
begins, and one confirmation begins one batch at most.
"""

import hashlib
import hmac
import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
from mcp.server.mcpserver import Context
from mcp.server.request_state import RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types import (
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
)

from replicate_mcp.auth import Access
from replicate_mcp.errors import InvalidInput, ReplicateMcpError
from replicate_mcp.mcp_server.auth import Request, authenticate
from replicate_mcp.settings import Settings

if TYPE_CHECKING:
    from replicate_mcp.batches.journal import IdempotencyKey
    from replicate_mcp.batches.planning import PlannedTask

SETTING = "REPLICATE_MCP_CONFIRM_ABOVE"

ELICITATION_RESULT_SINCE = "2026-07-28"
"""First protocol revision in which a call is answered with the question and sent again."""

ANSWER_SECONDS = 600.0
"""Seconds a person has to answer, and for which the question's sealed state is valid."""

QUESTION = "confirm"

NOTHING_TO_FILL_IN: dict[str, Any] = {"type": "object", "properties": {}}
"""Schema of an empty form: accepting or declining is the whole answer."""


class Declined(ReplicateMcpError):
    """The person who was asked declined the batch; nothing was created."""

    code = "canceled"


class ElicitationRequired(Exception):
    """The client must send the call again, with a person's answer to the question in `result`."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__()
        self.result = result


class Confirmation:
    """A person's confirmation of a call that creates more than `above` images.

    Args:
        context: the request's context; None if there is no client to ask.
        above: maximum images that need no confirmation; None for any number.
        arguments: the call's arguments.
    """

    def __init__(
        self,
        context: Context[Any, Any] | None,
        *,
        above: int | None,
        arguments: Mapping[str, Any],
    ) -> None:
        self._context = context
        self._above = above
        self._arguments = arguments
        self._state = _read(context.request_state) if context is not None else {}

    @property
    def key(self) -> "IdempotencyKey | None":
        """Idempotency key of the batch, if this call has the answer to a question; else None.

        Raises:
            Declined: the person declined.
        """
        from replicate_mcp.batches.journal import IdempotencyKey

        answer = self._answer
        if answer is None:
            return None
        if answer.action != "accept":
            raise _declined()
        content = json.dumps(dict(self._arguments), sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()
        return IdempotencyKey(f"mcp-confirmation:{self._state['batch']}", digest)

    async def require(self, planned: "Sequence[PlannedTask]") -> None:
        """Return if the planned tasks need no confirmation or have one; raise otherwise.

        Raises:
            ElicitationRequired: the call has to be sent again with a person's answer.
            Declined: the person declined or did not answer in time.
            InvalidInput: confirmation is needed, and the client cannot ask for it.
        """
        images = sum(task.expected_count for task in planned)
        if self._above is None or images <= self._above:
            return
        question = _question(planned, images)
        if self._answer is not None and self._state["asked"] == _digest(question):
            return
        context = self._context
        if context is None or not _can_ask(context):
            asked_for = "1 image" if images == 1 else f"{images} images"
            raise InvalidInput(
                f"This call asks for {asked_for}, more than the {self._above} above which "
                "this server asks a person first, and this client cannot ask: ask for fewer "
                f"images in one call, or have {SETTING} raised where the server is configured."
            )
        if str(context.protocol_version) >= ELICITATION_RESULT_SINCE:
            raise ElicitationRequired(_to_answer(question))
        if (await _answer_to(context, question)).action != "accept":
            raise _declined()

    @property
    def _answer(self) -> ElicitResult | None:
        """The person's answer to the question of the sealed state; None if absent."""
        responses = (self._context.input_responses if self._context is not None else None) or {}
        answer = responses.get(QUESTION)
        return answer if self._state and isinstance(answer, ElicitResult) else None


def request_state_security(
    settings: Settings, access: Access, *, is_local: bool
) -> RequestStateSecurity:
    """Return how the states of questions are sealed: for one caller, and for 600 s.

    The key is derived from the server's own token, so that all replicas with the same token can
    read a state; else from the admin key. Without either the key is the process's own, and a call
    has to be sent again to the process that asked.
    """
    if settings.confirm_above is None:
        return RequestStateSecurity.ephemeral()
    return RequestStateSecurity(
        keys=[_sealing_key(settings)],
        ttl=ANSWER_SECONDS,
        bind_principal=lambda request: _name_of_caller(access, request, is_local),
    )


def _sealing_key(settings: Settings) -> bytes:
    purpose = b"replicate-mcp/request-state/1"
    if settings.token:
        return hmac.digest(settings.token.encode(), purpose, "sha256")
    if settings.admin_api_key:
        # People choose this key: a sealed state must not be a cheap way to test guesses.
        key = settings.admin_api_key.get_secret_value().encode()
        return hashlib.scrypt(key, salt=purpose, n=2**14, r=8, p=1)
    return secrets.token_bytes(32)


def _name_of_caller(access: Access, request: Request, is_local: bool) -> str:
    try:
        return authenticate(access, request, is_local=is_local).name
    except ReplicateMcpError:
        return ""  # The call itself fails with the reason.


def _can_ask(context: Context[Any, Any]) -> bool:
    capabilities = context.client_capabilities
    asks = capabilities.elicitation if capabilities is not None else None
    # A client that names no modes is older than modes, and supports forms.
    by_form = asks is not None and (asks.form is not None or asks.url is None)
    waits = str(context.protocol_version) < ELICITATION_RESULT_SINCE
    return by_form and (context.session.can_send_request or not waits)


async def _answer_to(context: Context[Any, Any], question: str) -> ElicitResult:
    """Return the answer of a client that is asked while its call waits."""
    with anyio.move_on_after(ANSWER_SECONDS):
        try:
            answer: ElicitResult = await context.session.elicit_form(
                question, NOTHING_TO_FILL_IN, context.request_context.request_id
            )
            return answer
        except MCPError as error:
            raise InvalidInput(
                "Nothing was created: the client could not ask for confirmation "
                f"({error.error.message})."
            ) from None
    raise Declined("Nothing was created: the confirmation was not answered.")


def _to_answer(question: str) -> InputRequiredResult:
    state = {"batch": secrets.token_hex(16), "asked": _digest(question)}
    form = ElicitRequestFormParams(message=question, requested_schema=NOTHING_TO_FILL_IN)
    return InputRequiredResult(
        input_requests={QUESTION: ElicitRequest(params=form)}, request_state=json.dumps(state)
    )


def _read(state: str | None) -> dict[str, str]:
    """Parse an unsealed state; the SDK passes it on only if it was sealed for this very call."""
    found: dict[str, str] = json.loads(state) if state else {}
    return found


def _declined() -> Declined:
    return Declined("Nothing was created: the person who was asked does not want these images.")


def _question(planned: "Sequence[PlannedTask]", images: int) -> str:
    from replicate_mcp.tasks.model_name import ModelName
    from replicate_mcp.tasks.recommended_models import BY_NAME, PRICES

    counts: Counter[str] = Counter()
    for task in planned:
        counts[task.model] += task.expected_count
    parts = []
    for model, count in counts.most_common():
        name = ModelName.parse(model)
        known = BY_NAME.get(name.path) if name.kind != "deployment" else None
        price = f"{known.price}, {PRICES[known.price]} an image" if known else "price not known"
        parts.append(f"{count} with {model} ({price})")
    return f"Make {images} images on Replicate? {'; '.join(parts)}."


def _digest(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()
