"""The one exception that a command turns into one line and exit status 2."""

import sys
from typing import NoReturn


class UserError(Exception):
    """Bad input or settings.

    The message is one line that says what is wrong, with which file or key, and what to do.
    Commands print it without a traceback and exit with status 2; library callers may catch it.
    """


def fail(message: str) -> NoReturn:
    """Ends a command: prints one line and exits with status 2."""
    print(f"jaxbusi: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
