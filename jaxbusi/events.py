"""TensorBoard's event files, written in place: what fails comes out where it fails.

tensorboardX's own `SummaryWriter` writes in a thread. On a full disk the thread dies, and whoever
adds the next values waits for it for ever.
"""

import os
import platform
import time
from pathlib import Path

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter


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
        # TensorBoard reads files in the order of their names, so that the time comes first.
        name = f"events.out.tfevents.{int(time.time())}.{platform.node()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / name))
        self._add(0, file_version="brain.Event:2")
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
        self._records.flush()

    def close(self) -> None:
        """Closes the file, whether the disk takes the rest of it or refuses with an OSError."""
        self._records.close()

    def _add(self, step: int, **content: object) -> None:
        event = Event(step=step, wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
