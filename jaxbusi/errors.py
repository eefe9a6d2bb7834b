"""What went wrong, as a command says it: in one line, and an exit status."""

import argparse
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

_LONGEST = 10_000


class UserError(Exception):
    """Bad input or settings.

    The message is one line that says what is wrong, with which file or key, and what to do.
    Commands print it without a traceback and exit with status 2; library callers may catch it.
    What it quotes may come out of a hostile file: see `one_line`.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    """Text as one line of at most 10,000 characters.

    Line ends, and all that a terminal would obey in place of showing it, are shown as `repr` shows
    them; of what is longer the middle is left out.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1000]} … {text[-900:]}"
    return text


class Stopped(Exception):  # noqa: N818 - an order that was obeyed, not an error
    """A signal ended the run after its state was saved; `status` is the exit status."""

    def __init__(self, signal_number: int, step: int | None = None):
        """Takes the signal, and the step that was saved where one program did all of it."""
        saved = "the states of the runs" if step is None else f"step {step}"
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after saving {saved}; "
            "the same command goes on from there"
        )
        self.status = 128 + signal_number


class Interrupted(Stopped):
    """A signal ended a command that saves no steps; `state` says what there is and what to do."""

    def __init__(self, signal_number: int, state: str):
        Exception.__init__(self, f"stopped by {signal.Signals(signal_number).name}; {state}")
        self.status = 128 + signal_number


def say(message: str) -> None:
    """Prints what ends a command, in one line."""
    print(f"jaxbusi: {one_line(' '.join(message.split()))}", file=sys.stderr)


def fail(message: str) -> NoReturn:
    """Ends a command: prints one line and exits with status 2."""
    say(message)
    sys.exit(2)


class Parser(argparse.ArgumentParser):
    """Of the commands without a config: refuses in one line, as all do."""

    def error(self, message: str) -> NoReturn:
        """Ends the command for a wrong command line."""
        fail(f"{message}; --help says more")


def images_from(least: int) -> Callable[[str], int]:
    """What reads a number of images off the command line; `least` is the fewest."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            words = f"{text} is no number of images; give {least} or more"
            raise argparse.ArgumentTypeError(words)
        return int(text)

    return read
