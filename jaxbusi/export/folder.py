"""A run into a folder that holds its model and all that using it needs, checked before it is there.

The exported model is run on images before anything is written: a folder that exists gives the
run's probabilities.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from safetensors import numpy as safetensors_numpy

from jaxbusi import atomic, train
from jaxbusi.data.phantoms import draw_phantom
from jaxbusi.errors import UserError
from jaxbusi.export import preprocessing
from jaxbusi.export.evidence import Evidence
from jaxbusi.export.model_card import model_card
from jaxbusi.export.program import Program
from jaxbusi.fingerprint import fingerprint
from jaxbusi.predictor import Predictor
from jaxbusi.state import make_mesh

Format = Literal["stablehlo", "onnx"]

TOLERANCE = 1e-4
"""Most by which a probability may differ from the run's own."""

_NEEDED = {"stablehlo": (("flatbuffers",), "export"), "onnx": (("onnx", "onnxruntime"), "onnx")}
"""What a format needs, and the extra that brings it."""

Files = dict[str, bytes]
"""Contents by name: the model, and where they are apart from it the weights."""

Run = Callable[[np.ndarray], np.ndarray]
"""An exported model: uint8[B, s, s, 3] to float32[B, 3]."""


def export_run(workdir: Path, form: Format, out: Path) -> float:
    """Writes the model of a run with its description and its card.

    Args:
      workdir: a folder that `python -m jaxbusi.main` wrote, with its results.
      form: of the model.
      out: the folder to make; it is absent or empty.

    Returns:
      The largest difference between a probability of the exported model and the run's own.

    Raises:
      UserError: the extra of the format is not installed, `out` is not free, the workdir holds no
        results of the weights that it would export, or the exported model differs.
    """
    _require(form)
    atomic.check_free(out)
    evidence = Evidence.read(workdir)
    # Accelerators round the products of float32; this compares programs, and needs no speed.
    cpu = jax.local_devices(backend="cpu")[:1]
    with jax.default_device(cpu[0]):
        run = train.load_model(workdir, make_mesh(cpu))
        evidence.check_step(run.step)
        _check_type(run, form, workdir)
        about_run = fingerprint(run, workdir)
        program = Program.of(run)
        files, exported = _WRITERS[form](program, about_run)
        predictor = Predictor(run.model, run.variables, program.image_size, make_mesh(cpu))
        difference = largest_difference(predictor, exported)
    logging.info("the exported model's probabilities are the run's to %.1e", difference)
    if not difference <= TOLERANCE:
        raise UserError(
            f"the exported model's probabilities differ from those of {workdir} by "
            f"{difference:.1e}, more than {TOLERANCE:g}; nothing was written, another --format may "
            "do better"
        )
    about_run["files_sha256"] = {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()
    }
    about = preprocessing.describe(program, form, tuple(files), about_run)
    with atomic.new_folder(out) as folder:
        for name, data in files.items():
            (folder / name).write_bytes(data)
        (folder / "preprocessing.json").write_text(json.dumps(about, indent=2) + "\n")
        (folder / "MODEL_CARD.md").write_text(model_card(evidence, program, about, difference))
    return difference


def largest_difference(predictor: Predictor, exported: Run) -> float:
    """Compares an exported model with the run that it is of, in batches of six images and of one.

    The run computes in batches of the same sizes: in bfloat16 its own probabilities depend on them
    by more than `TOLERANCE`.

    Returns:
      The largest difference of a probability; NaN where either gives no numbers.
    """
    side = predictor.image_size
    rng = np.random.default_rng(0)
    scans = [draw_phantom(rng, number % 3, 96)[0] for number in range(6)]
    gray = np.stack([predictor.square(np.repeat(scan[:, :, None], 3, axis=2)) for scan in scans])
    noise = rng.integers(0, 256, (1, side, side, 3), np.uint8)  # in colour
    differences = [
        np.abs(np.asarray(predictor.start(batch).probabilities) - exported(batch))
        for batch in (gray, noise)
    ]
    return float(np.max(np.concatenate(differences)))


def _require(form: Format) -> None:
    modules, extra = _NEEDED[form]
    for name in modules:
        try:
            import_module(name)
        except ImportError as error:
            raise UserError(
                f"--format {form} needs {name} ({error}); pip install 'jaxbusi[{extra}]'"
            ) from error


def _check_type(run: train.TrainedRun, form: Format, workdir: Path) -> None:
    if form == "onnx" and run.settings.compute_dtype != "float32":
        raise UserError(
            f"{workdir} computes in {run.settings.compute_dtype}, for which ONNX runtimes lack "
            "operators; export with --format stablehlo"
        )


# What is run to be compared are the bytes that are written.


def _stablehlo(program: Program, fingerprint: Mapping[str, Any]) -> tuple[Files, Run]:
    from jaxbusi.export.stablehlo import run_stablehlo, to_stablehlo

    model = to_stablehlo(program)
    # One entry: the library writes several in any order, and the same run is to give the same file.
    metadata = {"jaxbusi.export": json.dumps(fingerprint)}
    weights = safetensors_numpy.save(program.weights, metadata=metadata)
    run = functools.partial(run_stablehlo, model, safetensors_numpy.load(weights))
    return {"model.stablehlo": model, "weights.safetensors": weights}, run


def _onnx(program: Program, fingerprint: Mapping[str, Any]) -> tuple[Files, Run]:
    import onnxruntime
    from onnx import helper

    from jaxbusi.export.onnx_model import to_onnx

    names = (preprocessing.BATCH, preprocessing.INPUT, preprocessing.OUTPUT)
    model = to_onnx(program.probabilities, program.weights, program.images, names=names)
    helper.set_model_props(model, {key: str(value) for key, value in fingerprint.items()})
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        return session.run([preprocessing.OUTPUT], {preprocessing.INPUT: images})[0]

    return {"model.onnx": data}, run


_WRITERS = {"stablehlo": _stablehlo, "onnx": _onnx}
