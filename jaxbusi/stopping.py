"""How a run is told to stop: by a signal, to one process or to any of several."""

import collections
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxbusi.state import batch_sharding, replicated


class StopSignals:
    """Turns SIGTERM and SIGINT into a wish to stop that the loop obeys after a step.

    A second SIGINT ends the process at once, as if nobody listened. SIGTERM may come again while
    the state is saved: at a time limit SLURM sends it twice within a second, once through srun.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Listens while the block runs; outside the main thread, where Python forbids it, not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        watched = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


class Agreement:
    """Whether any process was told to stop: all learn of it after the same step."""

    def __init__(self, mesh: Mesh, behind: int):
        """Asks over all devices of `mesh`; looks at an answer `behind` steps later."""
        self._sharding = batch_sharding(mesh)
        self._behind = behind
        self._largest = jax.jit(jnp.max, out_shardings=replicated(mesh))
        self._asked: collections.deque[jax.Array] = collections.deque()

    def after_step(self, received: int | None) -> int | None:
        """Call once a step. Returns the signal to stop for, or None.

        Args:
          received: the number of the signal that this process has received, or None.
        """
        if jax.process_count() == 1:
            return received
        told = np.full(len(jax.local_devices()), received or 0, np.int32)
        local = jax.make_array_from_process_local_data(self._sharding, told)
        self._asked.append(self._largest(local))
        if len(self._asked) <= self._behind:
            return None
        return int(jax.device_get(self._asked.popleft())) or None
