"""Writes a folder of images as one array_record set: see `jaxbusi.data.busi.prepare`.

python scripts/prepare_tfds.py --root Dataset_BUSI_with_GT --out prepared
"""

import argparse
import sys

from jaxbusi.data.prepared import prepare
from jaxbusi.errors import UserError


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Write a folder of images as array_record.")
    parser.add_argument("--root", required=True, help="folder with one sub-folder per class")
    parser.add_argument("--out", required=True, help="folder to write to; busi/1.0.0 is made in it")
    arguments = parser.parse_args()
    try:
        print(f"ready: --config.data.root={prepare(arguments.root, arguments.out)}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
