"""Runs a notebook in an empty folder and keeps what it prints and draws in the file.

    python scripts/run_notebook.py docs/quickstart.ipynb

What is kept depends on no machine: no times, no versions. Needs the extra `test`.
"""

import argparse
import os
import tempfile
from pathlib import Path

# Jupyter looks for its settings where the system wants them, and warns where nobody has said so.
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")

import nbformat
from nbclient import NotebookClient

SECONDS = 600
"""Longest that a cell may take."""


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Runs all cells of a notebook.

    Args:
      path: the notebook, which stays as it is.
      folder: where the cells run, and write.

    Returns:
      The notebook with what its cells gave.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
      nbclient.exceptions.CellTimeoutError: a cell took longer than `SECONDS`.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}  # without the version
    return notebook


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(run(path, Path(folder)), path)


if __name__ == "__main__":
    main()
