"""One model's own inputs, as Replicate describes them."""

from replicate_mcp.access import Caller
from replicate_mcp.app import App
from replicate_mcp.errors import InvalidInput, ModelNotFound, ReplicateUnavailable, Unauthorized
from replicate_mcp.replicate_api.fault_policy import rule_for
from replicate_mcp.replicate_api.faults import Fault
from replicate_mcp.tasks.model_inputs import InputSchema
from replicate_mcp.tasks.models import ModelName


async def look_up(app: App, caller: Caller, name: str) -> InputSchema | None:
    """The schema of a model's inputs; None where Replicate could not say.

    Raises:
        InvalidInput: that is no model's name.
        ModelNotFound: Replicate knows no such model.
        Unauthorized: Replicate refused the token.
    """
    try:
        parsed = ModelName.parse(name)
    except ValueError as error:
        raise InvalidInput(f"model {error}.") from None
    try:
        model = await (await app.models()).find(parsed, await app.gateway(caller))
    except Fault as fault:
        rule = rule_for(fault)
        kind = Unauthorized if rule.code == "unauthorized" else ReplicateUnavailable
        raise kind(rule.sentence) from None
    if model is None:
        raise ModelNotFound(
            f"Replicate knows no model '{parsed}': check its name, owner/name as on replicate.com."
        )
    return model.schema
