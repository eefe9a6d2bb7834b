"""Work that releases Python's lock, on all cores, in order and a bounded number ahead."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from jaxbusi.data.store import usable_cores

_T = TypeVar("_T")
_R = TypeVar("_R")

_AHEAD = 64  # Images in flight: enough for every core, too few for memory to grow.


def in_threads(
    work: Callable[[_T], _R], items: Iterable[_T], *, ahead: int = _AHEAD
) -> Generator[_R]:
    """Maps `work` over `items` in order with one thread a core.

    OpenCV and the decoders release the GIL. `Executor.map` would queue all items at once, and a
    consumer that stops early would wait for them.

    Args:
      work: what is done to an item; an error comes out when its turn is.
      items: consumed as results are.
      ahead: the most items that are in work, or done and not yet consumed.
    """
    pool = concurrent.futures.ThreadPoolExecutor(min(usable_cores(), ahead), "work")
    waiting: collections.deque[concurrent.futures.Future[_R]] = collections.deque()
    source = iter(items)
    try:
        waiting += [pool.submit(work, item) for item in itertools.islice(source, ahead)]
        while waiting:
            yield waiting.popleft().result()
            waiting += [pool.submit(work, item) for item in itertools.islice(source, 1)]
    finally:
        pool.shutdown(cancel_futures=True)
