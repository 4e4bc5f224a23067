"""A pytest plugin that hides the modules of POSIX systems: `-p without_posix`.

With it, the suite is collected as on Windows; `tests/platform/test_without_posix.py` does this.
"""

import sys

for name in ("grp", "pty", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # type: ignore[assignment]
