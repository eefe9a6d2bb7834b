"""A small state dict in the containers that `torch.save` has had, recorded as files."""

import collections

import numpy as np

from tests.reference.results import RECORDED

FILES = ("small_zip.pth", "small_legacy.pth")


def expected() -> dict[str, np.ndarray]:
    """What the files hold, under `state_dict`, each name after `module.`."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {
        "plain": base,
        "transposed": base.T,
        "part": base[1:, 2:],
        "half": base.astype(np.float16) / 8,
        "brain": base * 0.5,
        "count": np.array(7),
        "empty": np.zeros((0, 4), np.float32),
        "parameter": base + 1,
    }


def record() -> None:
    """Writes the files; needs PyTorch."""
    import torch

    arrays = expected()
    base = torch.from_numpy(arrays["plain"])
    state = collections.OrderedDict(
        plain=base,
        transposed=base.T,  # shares its storage
        part=base[1:, 2:],
        half=torch.from_numpy(arrays["half"]),
        brain=torch.from_numpy(arrays["brain"]).to(torch.bfloat16),
        count=torch.tensor(7),
        empty=torch.zeros(0, 4),
        parameter=torch.nn.Parameter(torch.from_numpy(arrays["parameter"])),
    )
    named = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())
    content = {"epoch": 3, "best": 0.5, "arch": "small", "state_dict": named}
    for name, zipped in zip(FILES, (True, False), strict=True):
        torch.save(content, RECORDED / name, _use_new_zipfile_serialization=zipped)
