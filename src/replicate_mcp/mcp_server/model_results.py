"""Results about models, as self-contained text lines and as structured content."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.text import one_line

if TYPE_CHECKING:
    from replicate_mcp.replicate_api.model_search import ModelSummary
    from replicate_mcp.tasks.openapi_schema import InputField

MAX_DESCRIPTION_CHARACTERS = 400
"""Maximum characters of an input's description: some schemas contain whole manuals."""

MAX_LINE_CHARACTERS = 1_200
"""Maximum characters of the line on one input, with its values."""

MAX_INPUTS, MAX_CHOICES = 200, 200
"""Maximum inputs of a model, and values of one input, that are listed."""

INPUTS_UNKNOWN = (
    "This model's inputs are not available at the moment; Replicate checks what is sent."
)


async def found_models(
    app: App, query: str | None, caller: Callable[[], Caller]
) -> tuple[str, dict[str, Any]]:
    """Return the models that match `query`, one per line, and as structured content."""
    from replicate_mcp.tasks.recommended_models import PRICE_CLASSES

    found = await app.find_models(query, caller)
    lines = [_model_line(model) for model in found.models]
    answer: dict[str, Any] = {
        "models": [_model(model) for model in found.models],
        "count": len(found.models),
    }
    if found.note:
        answer["note"] = found.note
        lines.append(found.note)
    if not found.models:
        lines.append("No model was found: try other words, or none for the table of known models.")
    elif any(model.known for model in found.models):
        lines.append(f"Prices: {PRICE_CLASSES}. find_models with model lists all inputs of one.")
    return "\n".join(lines), answer


async def model_inputs(app: App, caller: Caller, name: str) -> tuple[str, dict[str, Any]]:
    """Return the inputs of a model, one per line, and as structured content."""
    from replicate_mcp.tasks.model_name import ModelName

    schema = await app.model_inputs(caller, name)
    full_name = str(ModelName.parse(name))
    if schema is None:
        return f"{full_name}: {INPUTS_UNKNOWN}", {
            "model": full_name,
            "inputs": [],
            "note": INPUTS_UNKNOWN,
        }
    fields = list(schema.fields.values())[:MAX_INPUTS]
    lines = [f"{full_name} takes:", *(_input_line(field) for field in fields)]
    return "\n".join(lines), {"model": full_name, "inputs": [_input(field) for field in fields]}


def _model_line(model: "ModelSummary") -> str:
    known = model.known
    if known is None:
        runs = "" if model.runs is None else f" ({model.runs:,} runs)"
        return f"{model.name}{runs}: {model.description}"
    alias = f" or {known.alias}" if known.alias else ""
    inputs = ", ".join(known.inputs)
    return f"{model.name}{alias} ({known.price}): {known.good_at}. Inputs: {inputs}"


def _model(model: "ModelSummary") -> dict[str, Any]:
    known = model.known
    fields = {
        "name": model.name,
        "alias": known.alias if known else None,
        "description": model.description,
        "price": known.price if known else None,
        "inputs": list(known.inputs) if known else None,
        "runs": model.runs,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _input_line(field: "InputField") -> str:
    facts = [field.full_type]
    if field.allowed:
        facts.append(field.allowed)
    if field.required:
        facts.append("required")
    elif field.shown_default:
        facts.append(f"default {_described(field.shown_default)}")
    described = _described(field.description)
    line = f"{field.name} ({'; '.join(facts)})" + (f": {described}" if described else "")
    return one_line(line, MAX_LINE_CHARACTERS)


def _input(field: "InputField") -> dict[str, Any]:
    fields = {
        "name": field.name,
        "type": field.full_type,
        "required": field.required or None,
        "default": field.default,
        "choices": list(field.choices)[:MAX_CHOICES] if field.choices else None,
        "minimum": field.minimum,
        "maximum": field.maximum,
        "description": _described(field.description) or None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _described(text: str) -> str:
    return one_line(text, MAX_DESCRIPTION_CHARACTERS)
