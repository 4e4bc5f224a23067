"""Detection of content refusals in a model's messages.

Replicate has no field for them: a refusal is reported in `error`, in the `logs` of a prediction
that succeeds without a file, or as text where a file should be. Each pattern below matches the
messages of one provider. Words that occur in ordinary failures, too ("sensitive", "safety
checker"), never suffice.
"""

import re
from typing import NamedTuple


class RefusalPattern(NamedTuple):
    """A pattern of text that reports refused content.

    Attributes:
        pattern: matched anywhere in the text, ignoring case.
        source: the models or providers that print such text, with examples.
    """

    pattern: str
    source: str


PATTERNS = (
    RefusalPattern(
        r"(?<!no )(?<!any )(?<!0 )nsfw (?:(?:content|images?|concepts?|outputs?) )?"
        r"(?:(?:was|were|has been) )?(?:detected|found|blocked|filtered)\b"
        r"(?!:? ?\W?(?:false|no|none|0)\b)"
        r"|\b(?:contain(?:s|ed)|flagged as|possibly|detected) (?:potential(?:ly)? )?nsfw\b",
        "Models that Replicate packages (Stable Diffusion, SDXL, FLUX, Qwen Image): 'NSFW content "
        "detected. Try running it again, or try a different prompt', 'All generated images "
        "contained NSFW content'; diffusers, in logs: 'Potential NSFW content was detected'",
    ),
    RefusalPattern(
        r"\bE005\b|\bflagged\b[^.]{0,60}\b(?:sensitive|unsafe|inappropriate|moderation|safety)\b",
        "Replicate, for official models: 'The input or output was flagged as sensitive. (E005)'",
    ),
    RefusalPattern(
        r"\b(?:content|request|prompt|input|output|image)s? (?:was |were |is |has been )?"
        r"(?:moderated|flagged)\b|\bmoderation_blocked\b|\bcontent_moderated\b",
        "Black Forest Labs: 'Request Moderated', 'Content Moderated'; OpenAI: moderation_blocked; "
        "older models on Replicate: 'Prompt flagged'",
    ),
    RefusalPattern(
        r"\b(?:rejected|blocked|filtered(?: out)?|caught)\b[^.]{0,60}"
        r"\b(?:safety (?:system|filter|check|polic)|moderation\b|(?:content|usage|our) polic)",
        "OpenAI: 'rejected as a result of our safety system'; xAI: 'rejected by content "
        "moderation'; Google: 'blocked by safety filters'",
    ),
    RefusalPattern(
        r"\bviolat\w+\b[^.]{0,60}\b(?:polic(?:y|ies)|guidelines?|guardrails?|responsible ai)\b",
        "Google Imagen: 'may violate our policies', 'violated safety policies', 'violated Google's "
        "Responsible AI practices'; OpenAI: 'may violate our guardrails'; Recraft",
    ),
    RefusalPattern(
        r"\bcontent_(?:policy_violation|filter(?:ed)?)\b|\bcontent policy violation\b"
        r"|\bblocked by (?:the |our )?content filter",
        "OpenAI and Azure: content_policy_violation, content_filter",
    ),
    RefusalPattern(
        r"\bprohibited[_ ]content\b|\bimage_(?:safety|prohibited_content)\b"
        r"|\bfinish_?reason\W{1,4}(?:\w+\.)?safety\b|\bresponsible ai practices\b",
        "Google Gemini's image models (Nano Banana): PROHIBITED_CONTENT, IMAGE_SAFETY, "
        "'finish_reason: SAFETY'",
    ),
    RefusalPattern(
        r"(?:text|image)(?:risk|sensitive(?:content)?)\w*detected\b"
        r"|\bsensitive (?:information|words?|content|material)\b",
        "ByteDance Seedream: InputTextSensitiveContentDetected, 'may contain sensitive "
        "information'; MiniMax: 'sensitive content'; Google Imagen: 'contains sensitive words'",
    ),
    RefusalPattern(
        r"\b(?:failed|did not pass|triggered) (?:(?:the|our|a) )?(?:\w+ )?"
        r"(?:safety|moderation) (?:filter|check|system)s?\b",
        "Ideogram: 'Prompt failed safety check'; Luma: 'failed moderation check'",
    ),
    RefusalPattern(
        r"\bdatainspectionfailed\b|\b(?:inappropriate|unsafe) content\b",
        "Alibaba (Qwen, Wan): DataInspectionFailed, 'may contain inappropriate content'",
    ),
)

_REFUSED = re.compile("|".join(f"(?:{each.pattern})" for each in PATTERNS), re.IGNORECASE)

_ADVICE = re.compile(
    r"(?:(?<=[.!?;:,]\s)|^|(?<=[.!?]))(?:or )?(?:please,? )?(?:you can )?"
    r"(?:try|retry|re-?run|run it|resubmit)\b[^.!?(]*[.!?]?\s*",
    re.IGNORECASE,
)


def reports_refused_content(text: str) -> bool:
    """Return whether `text`, a model's message, reports that the content was refused."""
    return _REFUSED.search(text) is not None


def refusing_line(logs: str) -> str:
    """Return the first line of `logs` that reports refused content; "" if absent."""
    return next((line for line in logs.splitlines() if reports_refused_content(line)), "")


def without_advice(text: str) -> str:
    """Return `text` without its advice to try again, which contradicts the task's result."""
    return " ".join(_ADVICE.sub("", text).split()).rstrip(" ,;:")
