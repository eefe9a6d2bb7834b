"""Questions of many requests to one thread that has the device, several at a time."""

import asyncio
import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from jaxbusi.serve.refusal import Refusal

_Q = TypeVar("_Q")
_A = TypeVar("_A")

WAITING = 64
"""Questions that may wait; further ones are to come again."""

_TOGETHER = 8  # Questions that are answered at a time.
_PATIENCE = 0.005  # Seconds for which others are waited for: little beside an answer.
_SECONDS_AGAIN = 2


class Batcher(Generic[_Q, _A]):
    """Answers questions in the order in which they come, those that wait together."""

    def __init__(self, answer: Callable[[Sequence[_Q]], Sequence[_A]]):
        """Starts the thread; `answer` gives one answer for each question, in their order."""
        self._answer = answer
        self._waiting: queue.Queue[tuple[_Q, concurrent.futures.Future[_A]] | None] = queue.Queue(
            WAITING
        )
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    async def ask(self, question: _Q) -> _A:
        """Waits for the answer; a question whose asker is gone before its turn gets none.

        Raises:
          Refusal: too many wait.
        """
        future: concurrent.futures.Future[_A] = concurrent.futures.Future()
        try:
            self._waiting.put_nowait((question, future))
        except queue.Full:
            raise Refusal(
                503, "too many images wait for an answer; try again", _SECONDS_AGAIN
            ) from None
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ends the thread after the questions that wait."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            asked, more = self._take()
            if not asked:
                continue
            futures = [future for _, future in asked]
            try:
                for future, answer in zip(
                    futures, self._answer([question for question, _ in asked]), strict=True
                ):
                    future.set_result(answer)
            except Exception as error:
                logging.exception("a question was not answered")
                for future in futures:
                    if not future.done():
                        future.set_exception(error)

    def _take(self) -> tuple[list[tuple[_Q, concurrent.futures.Future[_A]]], bool]:
        """The questions that are answered next, and whether there are to be others after them."""
        asked = []
        entry = self._waiting.get()
        until = time.monotonic() + _PATIENCE
        while entry is not None:
            if entry[1].set_running_or_notify_cancel():
                asked.append(entry)
            if len(asked) == _TOGETHER:
                return asked, True
            try:
                entry = self._waiting.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return asked, True
        return asked, False
