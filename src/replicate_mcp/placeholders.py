"""Detection of texts sent in place of a Replicate token: examples, variables, other keys."""

import re

NOT_A_TOKEN = (
    "This is not a Replicate token: {what}. Put one from "  # noqa: S105 - a sentence
    "https://replicate.com/account/api-tokens there (REPLICATE_API_TOKEN, or your request's "
    "credentials); it begins with r8_."
)

_QUOTED = r"[\"'`“”‘’].*|.*[\"'`“”‘’]"
_VARIABLE = r"\$\{.*|\{\{.*|\$\(.*|\$(env:)?[A-Z_]+|%[A-Z_]+%"
_BRACKETS = r"<.*|\[.*\]"
_WORD = r"undefined|null|none|nil|nan|true|false|token|secret|changeme"
_EXAMPLE = (
    r"(r8_)?((your|my|paste|insert|add|put|enter|replace|the)[-_ a-z]*(token|key)[-_ a-z]*"
    r"|x{3,}|\*{2,}|\.{2,}|…|-{2,}|_{2,})?"
)

_REFERENCE = r"[a-z][a-z0-9+.-]*:/.*"
_PATH = r"(~|\.{0,2}|[a-z]:)[/\\].*"
_OTHER_SERVICE = r"(sk-|hf_|gh[opsu]_|github_pat_|xox[abp]-|AIza|AKIA).{16,}"

_PLACEHOLDERS = (
    (_QUOTED, "it has quotation marks around it"),
    (_VARIABLE, "it is the name of a variable that nothing has filled in"),
    (_BRACKETS, "it is text in brackets that stands for a token"),
    (_WORD, "it is a word that stands for no value"),
    (_EXAMPLE, "it is text that stands for a token"),
    (_REFERENCE, "it is a reference to a secret, or a URL, that nothing has resolved"),
    (_PATH, "it is the path of a file, which is not read"),
    (_OTHER_SERVICE, "it is the key of another service"),
)


def placeholder(token: str) -> str | None:
    """Return why `token` is a placeholder, as a clause; None if it is not.

    The clause does not repeat the text: a part of it may be a real token.
    """
    token = token.strip()
    for form, what in _PLACEHOLDERS:
        if token and re.fullmatch(form, token, re.IGNORECASE | re.DOTALL):
            return what
    return None
