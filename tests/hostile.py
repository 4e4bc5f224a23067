"""Hostile strings for every foreign text field: prompts, names, errors, URLs, headers."""

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

UNUSABLE_URLS = (
    *HOSTILE_TEXTS,
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "java\nscript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:alert(1)",
    "file:///etc/passwd",
    "blob:null/x",
    "https://[x/",
    "//elsewhere.example/x.png",
    "\\\\elsewhere.example\\x.png",
)
"""Not the address of a web page: scripts, other schemes, no scheme, malformed ones."""

FOREIGN_URLS = (
    "https://elsewhere.example/x.png",
    "https://elsewhere.example/replicate.delivery",
    "https://replicate.delivery.elsewhere.example/x.png",
    "https://elsewherereplicate.delivery/x.png",
    "https://replicate.delivery@elsewhere.example/x.png",
    "https://user@replicate.delivery/x.png",
    "https://replicate.delivery:444/x.png",
    "http://replicate.delivery/x.png",
)
"""Addresses of web pages that are none of Replicate's deliveries."""
