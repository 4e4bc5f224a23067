"""Strings for every text field that strangers fill: prompts, names, errors, URLs, headers."""

TERMINAL_CLIPBOARD = "\x1b]52;c;aGk=\x07"
"""OSC 52: writes "hi" to the clipboard of a terminal that prints it."""

TERMINAL_CLEAR = "\x1b[2J"
RIGHT_TO_LEFT = "\u202e"
ISOLATE = "\u2066"
LONE_SURROGATE = "\ud800"
"""Valid in a Python string and as a JSON escape, but not in UTF-8."""

NUL = "\x00"
LINE_BREAK = "\r\n"
SCRIPT_TAG = "<img src=x onerror=alert(1)>"
SCRIPT_URL = "javascript:alert(1)"
LONG = "a" * 64 * 1024

HOSTILE_TEXTS = (
    TERMINAL_CLIPBOARD,
    TERMINAL_CLEAR,
    RIGHT_TO_LEFT,
    ISOLATE,
    LONE_SURROGATE,
    NUL,
    LONG,
    LINE_BREAK,
    SCRIPT_TAG,
    SCRIPT_URL,
    "]]>",
    "{{7*7}}",
    "%0a",
    "../",
    "..\\",
    "CON",
    "a\u0300",
)
"""Each kind once; `LONE_SURROGATE` is the only one that UTF-8 cannot encode."""
