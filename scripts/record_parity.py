"""Records what PyTorch gives for the tests of models, optimizer and checkpoint formats.

    pip install -e '.[parity]'
    python scripts/record_parity.py [dinov2-small.safetensors]

Needed only where a case changes or is added: the tests compare live with PyTorch where it is
installed, and tell when a record is out of date.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from tests.reference import adam, formats, pth, pytorch
from tests.reference.cases import CASES
from tests.reference.results import RECORDED, write_summary


def main() -> None:
    """Writes tests/recorded/."""
    RECORDED.mkdir(exist_ok=True)
    for case in CASES:
        write_summary(case, pytorch.run(case, double=True).summary())
        print(case.name)
    adam.write_recorded(adam.torch_adam_trajectory())
    print("adam")
    formats.record(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    pth.record()
    print("formats")


if __name__ == "__main__":
    main()
