"""What went wrong, as a command says it: in one line, and an exit status."""

import argparse
import signal
import sys
from typing import NoReturn


class UserError(Exception):
    """Bad input or settings.

    The message is one line that says what is wrong, with which file or key, and what to do.
    Commands print it without a traceback and exit with status 2; library callers may catch it.
    """


class Stopped(Exception):  # noqa: N818 - an order that was obeyed, not an error
    """A signal ended the run after a checkpoint was saved; `status` is the exit status."""

    def __init__(self, signal_number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after saving step {step}; "
            "the same command goes on from there"
        )
        self.status = 128 + signal_number


class Interrupted(Stopped):
    """A signal ended a command that saves no steps; `state` says what there is and what to do."""

    def __init__(self, signal_number: int, state: str):
        Exception.__init__(self, f"stopped by {signal.Signals(signal_number).name}; {state}")
        self.status = 128 + signal_number


def fail(message: str) -> NoReturn:
    """Ends a command: prints one line and exits with status 2."""
    print(f"jaxbusi: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Of the commands without a config: refuses in one line, as all do."""

    def error(self, message: str) -> NoReturn:
        """Ends the command for a wrong command line."""
        fail(f"{message}; --help says more")
