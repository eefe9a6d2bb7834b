"""TensorBoard's event files, written in place: what fails comes out where it fails.

tensorboardX's own `SummaryWriter` writes in a thread. On a full disk the thread dies, and whoever
adds the next values waits for it for ever.
"""

import os
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class EventFile:
    """A new event file in a folder."""

    def __init__(self, folder: Path, *, purge_step: int):
        """Opens it.

        Args:
          folder: made where absent.
          purge_step: what older files say of this step and later ones, TensorBoard forgets.

        Raises:
          OSError: the folder or the disk refuses.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # The name holds the second and the host; a run may start twice in one.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._add(purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Adds a point of a curve."""
        self._add(step, summary=summary.scalar(name, value))

    def images(self, name: str, images: np.ndarray, step: int) -> None:
        """Adds uint8[N, H, W, 3] as one picture, side by side."""
        self._add(step, summary=summary.image(name, images, dataformats="NHWC"))

    def flush(self) -> None:
        """Waits until everything is on disk.

        Raises:
          OSError: the disk refuses.
        """
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _add(self, step: int, **content: object) -> None:
        self._writer.write_event(Event(step=step, wall_time=time.time(), **content))
