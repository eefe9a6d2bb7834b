"""The command: what it writes, that others can use it without this program, and what it refuses."""

import csv
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from jaxbusi import atomic
from jaxbusi.data.busi import read_records
from jaxbusi.errors import UserError
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.export import folder as folders
from jaxbusi.export.evidence import Evidence
from jaxbusi.export.folder import export_run
from jaxbusi.export.model_card import model_card
from jaxbusi.export.program import Program
from jaxbusi.fingerprint import fingerprint
from jaxbusi.predictor import Judged
from jaxbusi.state import make_mesh
from jaxbusi.train import load_model, train_and_evaluate
from jaxbusi.workdir import config_sha256
from tests.runs import make_config

DOC = (Path(__file__).parents[1] / "docs" / "exporting.md").read_text()
FORMATS = {"stablehlo": "from jax import export", "onnx": "import onnxruntime"}

# In front of a consumer: what is None in sys.modules cannot be imported.
BANNED = {"stablehlo": ("jaxbusi", "flax"), "onnx": ("jaxbusi", "flax", "jax", "onnx")}
GUARD = "import sys\nsys.modules.update(dict.fromkeys({names}))\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms):
    """A workdir of a ResNet18 whose head has learnt a little: its own gradient takes long."""
    workdir = tmp_path_factory.mktemp("export") / "run"
    config = make_config(
        phantoms,
        num_epochs=0.5,
        batch_size=4,
        **{
            "data.augment.resize": 36,
            "data.augment.crop": 32,
            "model.branches": ("resnet18",),
            "freeze.resnet18": -1.0,
            "data.views": 1,
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxbusi.evaluation.figures.write_all", lambda *_, **__: [])  # takes seconds
        train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, run, tmp_path_factory):
    """The format and a folder of it."""
    out = tmp_path_factory.mktemp(request.param) / "new" / "folder"
    assert export_run(run, request.param, out) < 1e-6
    return request.param, out


def consumer(form):
    """The program of docs/exporting.md."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if FORMATS[form] in block]
    assert len(block.splitlines()) <= 32
    return block


def test_consumers_give_the_runs_probabilities(exported, run, phantoms, tmp_path):
    form, out = exported
    rows = Predictions.read_csv(run / "predictions_test.csv")
    files = {record.name: str(record.image) for record in read_records(phantoms)}
    first = [index for index, copy in enumerate(rows.copy) if copy == 0]
    given = [files[rows.image[index]] for index in first]
    result = subprocess.run(
        [sys.executable, "-c", GUARD.format(names=BANNED[form]) + consumer(form), out, *given],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in lines] == given
    found = np.array([[line[name] for name in ("benign", "malignant", "normal")] for line in lines])
    assert np.ptp(found, axis=0).max() > 1e-3
    np.testing.assert_allclose(found, rows.probabilities[first], atol=1e-5)


def test_the_guard_keeps_modules_out():
    program = GUARD.format(names=("jaxbusi",)) + "import jaxbusi"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ModuleNotFoundError: import of jaxbusi halted" in result.stderr


def test_the_folder_says_what_is_in_it(exported, run):
    form, out = exported
    about = json.loads((out / "preprocessing.json").read_text())
    files = {"stablehlo": ["model.stablehlo", "weights.safetensors"], "onnx": ["model.onnx"]}[form]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["MODEL_CARD.md", "preprocessing.json", *files]
    )
    assert list(about["files"].values()) == files
    assert about["input"]["shape"] == ["batch", 32, 32, 3]
    assert about["resize"]["size"] == [32, 32]
    assert about["output"]["classes"] == ["benign", "malignant", "normal"]
    for name in files:
        data = (out / name).read_bytes()
        assert about["fingerprint"]["files_sha256"][name] == hashlib.sha256(data).hexdigest()
        assert str(Path(folders.__file__).parents[2]).encode() not in data  # no folder of ours
    assert about["fingerprint"]["config_sha256"] == config_sha256(run)
    assert about["fingerprint"]["checkpoint_step"] == 6
    card = (out / "MODEL_CARD.md").read_text()
    for value in (about["fingerprint"]["weights_sha256"], *about["files"].values()):
        assert f"`{value}`" in card
    if form == "onnx":
        model = onnx.load(out / "model.onnx")
        properties = {entry.key: entry.value for entry in model.metadata_props}
        assert properties["weights_sha256"] == about["fingerprint"]["weights_sha256"]


def test_writing_again_gives_the_same_bytes(exported, run):
    """From another place in a program, too."""
    form, out = exported
    loaded = load_model(run, make_mesh())
    again, _ = folders._WRITERS[form](Program.of(loaded), fingerprint(loaded, run))
    assert len(again) == {"stablehlo": 2, "onnx": 1}[form]
    for name, data in again.items():
        assert (out / name).read_bytes() == data, name


def test_the_card_has_the_runs_numbers(exported, run):
    card = (exported[1] / "MODEL_CARD.md").read_text()
    results = json.loads((run / "results.json").read_text())
    images = results["parts"]["test"]["images"]
    value, low, high = (100 * images["accuracy"][key] for key in ("value", "low", "high"))
    space = "\N{NO-BREAK SPACE}"
    assert f"| Accuracy | {value:.1f}{space}% ({low:.1f} to {high:.1f}{space}%)" in card
    for name, row in zip(("benign", "malignant", "normal"), images["confusion"], strict=True):
        assert f"| {name} | {row[0]} | {row[1]} | {row[2]} |" in card
    with (run / "split.csv").open(newline="") as file:
        train = [row for row in csv.DictReader(file) if row["part"] == "train"]
    counts = [sum(row["label"] == name for row in train) for name in ("benign", "malignant")]
    assert f"| train | {counts[0]} ({2 * counts[0]}) | {counts[1]} ({2 * counts[1]}) |" in card
    assert "For research only" in card
    assert "Synthetic images" not in card  # they are a folder as any other
    assert "the latest checkpoint" in card


def test_the_card_tells_leakage_and_quotes_names_literally(exported, run):
    about = json.loads((exported[1] / "preprocessing.json").read_text())
    evidence = Evidence.read(run)
    program = dataclasses.make_dataclass("P", ["weights", "image_size"])({}, 32)
    assert "No score here profits" in model_card(evidence, program, about, 0.0)
    config = json.loads(json.dumps(evidence.config))
    config["config"]["data"]["root"] = "sets/<b>*BUSI*|\udcff"
    leaked = dataclasses.replace(
        evidence,
        config=config,
        results={
            **evidence.results,
            "leakage": {"test": {"near_copy_in_training": 2, "images": 6}},
        },
    )
    card = model_card(leaked, program, about, 0.0)
    assert "2 of 6 test images (33.3\N{NO-BREAK SPACE}%) have a near-copy" in card
    assert "higher than they would be on new patients" in card
    assert r"\<b\>\*BUSI\*\|?: 30 images" in card
    assert "Images kept apart from the training images. With" in card
    leaky = dataclasses.replace(leaked, results={**leaked.results, "protocol": "leaky"})
    card = model_card(leaky, program, about, 0.0)
    assert "Images most of which were trained on, themselves or in other copies. With" in card
    assert "have a near-copy in the training part, or are in it themselves." in card
    assert "kept apart" not in card
    config["config"]["data"] |= {"root": "", "phantoms": 30}
    assert "**Synthetic images.**" in model_card(leaked, program, about, 0.0)
    broken = dataclasses.replace(evidence, results={**evidence.results, "parts": {"test": {}}})
    with pytest.raises(UserError, match="not as this version writes them"):
        model_card(broken, program, about, 0.0)


def copy_of(run, folder):
    """The run's text files without its checkpoints."""
    folder.mkdir()
    for name in ("config.json", "results.json", "split.csv"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_a_run_without_results_is_refused(run, tmp_path):
    workdir = copy_of(run, tmp_path / "copy")
    for text, words in (
        ('{"protocol": "paper", "leakage": {}, "parts": {}}', "no results"),
        ('{"parts": ', "cannot be read"),
        ("[]", "cannot be read"),
    ):
        (workdir / "results.json").write_text(text)
        with pytest.raises(UserError, match=f"{words}.*--mode=evaluate"):
            export_run(workdir, "onnx", tmp_path / "out")
    (workdir / "results.json").unlink()
    with pytest.raises(UserError, match="no results"):
        export_run(workdir, "onnx", tmp_path / "out")
    with pytest.raises(UserError, match="holds no run"):
        export_run(tmp_path / "none", "onnx", tmp_path / "out")
    with pytest.raises(UserError, match="weights of step 6, and the run's are of step 7"):
        Evidence.read(run).check_step(7)
    assert not (tmp_path / "out").exists()


def test_what_is_in_the_way_is_kept(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("out", "file"):
        with pytest.raises(UserError, match="is not an empty folder"):
            export_run(run, "onnx", tmp_path / name)
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.parametrize("wrong", [1 / 3, np.nan])
def test_a_model_that_differs_is_not_written(wrong, run, tmp_path, monkeypatch):
    def write(*_):
        return {"model.onnx": b""}, lambda images: np.full((len(images), 3), wrong)

    monkeypatch.setitem(folders._WRITERS, "onnx", write)
    with pytest.raises(UserError, match=r"differ .* by (\d.\de-\d\d|nan), .* nothing was written"):
        export_run(run, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_largest_difference_sees_one_image_of_either_batch():
    class Own:
        image_size = 32

        def square(self, image):
            return image[:32, :32]

        def start(self, batch):
            return Judged(np.full((len(batch), 3), 1 / 3), None)

    def exported(wrong):
        def run(batch):
            rows = np.full((len(batch), 3), 1 / 3)
            if len(batch) == wrong:
                rows[-1] += (0.25, -0.25, 0)
            return rows

        return run

    assert folders.largest_difference(Own(), exported(0)) == 0
    assert folders.largest_difference(Own(), exported(1)) == pytest.approx(0.25)
    assert folders.largest_difference(Own(), exported(6)) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [("stablehlo", "flatbuffers", "export"), ("onnx", "onnxruntime", "onnx")],
)
def test_a_missing_extra_is_named(form, module, extra, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module}.*pip install 'jaxbusi\[{extra}\]'"):
        export_run(run, form, tmp_path / "out")


def fill(path, size, error=None):
    with atomic.new_folder(path) as folder:
        (folder / "a").write_bytes(bytes(size))
        if error:
            raise error


def test_folders_are_whole_or_absent(tmp_path, small_disk):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with atomic.new_folder(tmp_path / "link") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "empty" / "a").exists()
    assert (tmp_path / "empty" / "a").read_text() == "1"
    with pytest.raises(KeyError):
        fill(tmp_path / "new", 1, KeyError)
    with pytest.raises(UserError, match="No space left"):
        fill(small_disk / "new", 2**20)
    assert [path.name for path in small_disk.iterdir()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "small"]


def test_a_folder_that_cannot_be_made_is_known_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/new/x: cannot be written \(Not a directory\)"):
        atomic.check_free(tmp_path / "file" / "new" / "x")
    atomic.check_free(tmp_path / "new" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bfloat16_is_no_onnx():
    settings = dataclasses.make_dataclass("S", ["compute_dtype"])("bfloat16")
    run = dataclasses.make_dataclass("R", ["settings"])(settings)
    folders._check_type(run, "stablehlo", Path("run"))
    with pytest.raises(UserError, match="--format stablehlo"):
        folders._check_type(run, "onnx", Path("run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--workdir"),
        (["--workdir=w", "--out=o", "--format=tflite"], "tflite"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, words, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "jaxbusi.export", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("jaxbusi: ")
    assert words in line
    assert "Traceback" not in result.stderr
