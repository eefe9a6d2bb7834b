"""What tests of whole runs share: a small config, and a signal at a given step."""

import os
import signal

from configs import fusion
from jaxbusi import loop

FULL_CAMPAIGN = os.environ.get("JAXBUSI_FAULTS") == "full"
"""Whether the tests of faults try all they can, as scripts/fault_campaign.py asks them to."""


def make_config(root, **changes):
    """fusion.py for 30 images of 16 pixels: 24 of them x 2 copies are 6 steps of 8 an epoch."""
    config = fusion.get_config()
    config.update_from_flattened_dict(
        {
            "num_epochs": 2.0,
            "batch_size": 8,
            "data.root": str(root),
            "data.copies": 2,
            "data.augment.resize": 18,
            "data.augment.crop": 16,
            **changes,
        }
    )
    return config


def stop_after(monkeypatch, wanted, number=signal.SIGTERM):
    """Sends this process a signal when the loss of step `wanted` has been looked at.

    Returns a function that listens no more.
    """
    update = loop.Progress.update

    def stopping(self, *, step, **values):
        update(self, step=step, **values)
        if step == wanted:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Progress, "update", stopping)
    return lambda: monkeypatch.setattr(loop.Progress, "update", update)


def read(history):
    """Without what depends on the clock."""
    speed = ("images_per_second", "input_wait")
    return [{k: v for k, v in line.items() if k not in speed} for line in history]
