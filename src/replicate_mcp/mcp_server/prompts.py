"""Prompts for people to start from; each asks the model for one call of generate_images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
)

from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.recommended_models import BY_NAME, CATALOGUE
from replicate_mcp.text import escaped

MAX_IMAGES = 100
"""Maximum images of one prompt: the model has to write a task for each."""

EDITING_MODEL = "black-forest-labs/flux-kontext-pro"

_THEN = (
    "When the answer has a next_step, do as it says until all are there. Show me every image with "
    "its URL, which works for one hour, and say in a few words what sets it apart."
)


class Arguments:
    """A prompt's arguments, validated when they are read.

    Raises:
        MCPError: an argument is missing, unknown or invalid; the message says what is allowed.
    """

    def __init__(self, prompt: Prompt, given: Mapping[str, str]) -> None:
        self._name = prompt.name
        names = [argument.name for argument in prompt.arguments or ()]
        for name in given:
            if name not in names:
                raise _invalid(
                    f"The prompt {self._name} has no argument '{escaped(name[:60])}': it takes "
                    f"{', '.join(names)}."
                )
        self._given = {name: value.strip() for name, value in given.items() if value.strip()}
        for argument in prompt.arguments or ():
            if argument.required and argument.name not in self._given:
                raise _invalid(
                    f"The prompt {self._name} needs {argument.name}: {argument.description}."
                )

    def text(self, name: str) -> str:
        """Return the argument without surrounding whitespace; empty if it is absent."""
        # Imported here to keep an idle server small.
        from replicate_mcp.tasks.task import MAX_PROMPT_CHARACTERS

        value = self._given.get(name, "")
        if len(value) > MAX_PROMPT_CHARACTERS:
            raise _invalid(f"{name} has over {MAX_PROMPT_CHARACTERS} characters: give less.")
        return value

    def number(self, name: str, default: int) -> int:
        """Return the argument as an integer from 1 to `MAX_IMAGES`."""
        value = self.text(name) or str(default)
        if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= MAX_IMAGES:
            raise _invalid(f"{name} must be a whole number from 1 to {MAX_IMAGES}.")
        return int(value)

    def model(self, default: str = "") -> str:
        """Return the full name of the model; `default` if none was given."""
        value = self.text("model")
        if not value:
            return default
        try:
            return str(ModelName.parse(value))
        except ValueError as error:
            raise _invalid(f"model {error}") from None


def variations(arguments: Arguments) -> str:
    """Make a batch of variations of one idea, in one call."""
    count = arguments.number("count", 8)
    model = arguments.model()
    return (
        f"Make {count} variations of one idea: {arguments.text('idea')}\n\n"
        f"Write {count} prompts that each stand alone. The idea stays; let each differ from all "
        "others in something that can be seen, such as composition, viewpoint, light, palette, "
        f"medium or mood. Then call generate_images once, with all {count} tasks"
        f"{_with(model)}. Name each by what is special about it, like "
        f"output_filename 'variation_01_low_sun.webp'.\n\n{_THEN}"
    )


def storyboard(arguments: Arguments) -> str:
    """Draw a story in matching panels, in one call."""
    panels = arguments.number("panels", 6)
    style = arguments.text("style")
    model = arguments.model()
    drawn = f" The style is {style}." if style else ""
    return (
        f"Draw a storyboard of {panels} panels: {arguments.text('story')}\n\n"
        f"First settle in a sentence or two what all panels share: who is in them, how they look "
        f"and dress, the place, the palette and the style.{drawn} Begin every prompt with these "
        "words, unchanged, because each panel is drawn without knowing of the others; then say "
        f"what happens in it, and how near the camera is. Then call generate_images once, with all "
        f"{panels} tasks{_with(model)}, aspect_ratio '16:9' in each, and output_filename "
        f"'panel_01.webp' and so on.\n\n{_THEN}"
    )


def edit_image(arguments: Arguments) -> str:
    """Edit one image in several ways, in one call."""
    image = arguments.text("image")
    edits = [each.strip() for each in arguments.text("edits").replace("\n", ";").split(";")]
    edits = [each for each in edits if each]
    if not edits:
        raise _invalid("edits is empty: say how the image is to be changed, one way a line.")
    if len(edits) > MAX_IMAGES:
        raise _invalid(f"{len(edits)} edits are more than {MAX_IMAGES}: give fewer.")
    model = arguments.model(EDITING_MODEL)
    listed = "\n".join(f"{number}. {edit}" for number, edit in enumerate(edits, 1))
    return (
        f"Edit this image in {len(edits)} ways: {image}\n\n{listed}\n\n"
        f"Write a prompt for each that says what changes, and what stays as it is. Then call "
        f"generate_images once, with all {len(edits)} tasks, model '{model}', and the image in "
        f"each task {_image_input(model)}. Name each by its edit, like output_filename "
        f"'edit_1_at_night.png'.\n\n{_THEN}"
    )


def _with(model: str) -> str:
    return f" and model '{model}'" if model else ""


def _image_input(model: str) -> str:
    known = BY_NAME.get(model)
    if known is None:
        return f"under the name that find_models with model='{model}' lists for it"
    if not known.edits_by_prompt:
        able = ", ".join(each.name for each in CATALOGUE if each.edits_by_prompt)
        lacks = "takes no prompt" if known.image_input else "does not start from an image"
        raise _invalid(f"{model} {lacks}: choose one of {able}.")
    a_list = ", in a list" if f"{known.image_input}[]" in known.inputs else ""
    return f"as {known.image_input}{a_list}"


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """A prompt as it is listed, and the function that writes its text."""

    prompt: Prompt
    write: Callable[[Arguments], str]


def _spec(
    write: Callable[[Arguments], str], title: str, arguments: Sequence[PromptArgument]
) -> PromptSpec:
    prompt = Prompt(
        name=write.__name__,
        title=title,
        description=write.__doc__,
        arguments=list(arguments),
    )
    return PromptSpec(prompt, write)


def _needed(name: str, description: str) -> PromptArgument:
    return PromptArgument(name=name, description=description, required=True)


def _optional(name: str, description: str) -> PromptArgument:
    return PromptArgument(name=name, description=description, required=False)


PROMPTS = {
    spec.prompt.name: spec
    for spec in (
        _spec(
            variations,
            "Variations of one idea",
            [
                _needed("idea", "what the images show"),
                _optional("count", f"how many, 1 to {MAX_IMAGES} (8)"),
                _optional("model", "owner/name (the server's default)"),
            ],
        ),
        _spec(
            storyboard,
            "Storyboard",
            [
                _needed("story", "what happens"),
                _optional("panels", f"how many, 1 to {MAX_IMAGES} (6)"),
                _optional("style", "how it is drawn, like ink and watercolour"),
                _optional("model", "owner/name (the server's default)"),
            ],
        ),
        _spec(
            edit_image,
            "Edit one image in several ways",
            [
                _needed("image", "the image's URL, or a path where the server reads paths"),
                _needed("edits", "the ways, one a line or between semicolons"),
                _optional("model", f"owner/name ({EDITING_MODEL})"),
            ],
        ),
    )
}


def write(name: str, given: Mapping[str, str] | None) -> GetPromptResult:
    """Return a prompt with its arguments filled in.

    Raises:
        MCPError: no prompt has this name, or an argument is missing, unknown or invalid.
    """
    if name not in PROMPTS:
        raise _invalid(
            f"There is no prompt '{escaped(name[:60])}': there are {', '.join(PROMPTS)}."
        )
    spec = PROMPTS[name]
    text = spec.write(Arguments(spec.prompt, given or {}))
    message = PromptMessage(role="user", content=TextContent(type="text", text=text))
    return GetPromptResult(description=spec.prompt.description, messages=[message])


def _invalid(sentence: str) -> MCPError:
    return MCPError(code=INVALID_PARAMS, message=sentence)
