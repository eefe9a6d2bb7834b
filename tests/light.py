"""Runs a Python program with models of a few layers, as `python` would run it with the full ones.

    python tests/light.py [--undrawn] -m jaxbusi.main --config …

A program that builds a model spends most of its time on tracing and compiling it, layer by layer.
"""

import dataclasses
import os
import runpy
import sys

from jaxbusi.models import resnet, vit

SIZES = {name: dataclasses.replace(size, depth=2) for name, size in vit.SIZES.items()}


def lighten() -> None:
    """From here on this process builds models of a few layers."""
    vit.SIZES.update(SIZES)
    resnet.STAGES, resnet.BLOCKS = resnet.STAGES[:2], 1


def main(arguments: list[str]) -> None:
    """Runs `-m MODULE …` or `-c PROGRAM`; after `--undrawn` runs and studies draw no figures."""
    lighten()
    if arguments[0] == "--undrawn":
        from jaxbusi.evaluation import figures, study_figures

        figures.write_all = study_figures.write_all = lambda *_, **__: []
        arguments = arguments[1:]
    option, what, *rest = arguments
    sys.path[0] = os.getcwd()
    sys.argv = [option, *rest]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert option == "-c", arguments
        exec(what, {"__name__": "__main__"})


if __name__ == "__main__":
    main(sys.argv[1:])
