"""Every command of the README is run as it is written, on small images and for a few steps."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from configs import table4
from jaxbusi.data.phantoms import write_phantoms
from tests import light
from tests.reference import formats

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# What is put behind a training command so that it takes seconds: the words before it stay.
SHORT = ["--config.num_epochs=0.1", "--config.batch_size=4", "--config.data.copies=2"]
SMALL = [
    *SHORT,
    "--config.data.augment.resize=36",
    "--config.data.augment.crop=32",
    "--config.model.vit=Ti16",
]
# Public weights decide the transformer's size, and its patches of 14 pixels that of the images.
SMALL_DINOV2 = [*SHORT, "--config.data.augment.resize=32", "--config.data.augment.crop=28"]
SMALL_STUDY = ["--config.study.seeds=(0,)"]
# Where a command is about images or weights and not about the model, one branch is enough:
# `runs/fusion` has both. It is the model of `configs/resnet18.py`, so that the next command finds
# its programs.
_ONE_BRANCH = ["--config.model.branches=('resnet18',)", "--config.model.hidden=()"]
_LESS = {
    "runs/demo": [*_ONE_BRANCH, "--config.data.phantoms=30"],
    "runs/external": _ONE_BRANCH,
    "runs/table": _ONE_BRANCH,
    "runs/imagenet": _ONE_BRANCH,
}
_DRAWN = {"runs/demo", "runs/external", "runs/table4"}
_ARMS = {
    "configs/table4.py": "('ResNet18',)",
    "configs/table4_dinov2.py": "('ViT',)",
    "configs/protocols.py": "('clean',)",
}


def small(words):
    """What makes a command short."""
    if "--config" not in words:
        return []
    line = " ".join(words)
    more = [*_LESS.get(words[words.index("--workdir") + 1], [])]
    if "jaxbusi.study" in words:
        # A tuple that is named twice on a command line is joined, not replaced.
        if "config.study.seeds" not in line:
            more += SMALL_STUDY
        more.append("--config.study.folds=0")
        if "config.study.arms" not in line:
            more.append(f"--config.study.arms={_ARMS[words[words.index('--config') + 1]]}")
    return (SMALL_DINOV2 if "dinov2" in line else SMALL) + more


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    """Every line of the shell blocks, joined where it goes on, without its comment."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a reader has: the clone's files, BUSI, a second hospital and public weights.

    The second hospital's images are a folder of three classes, and a table without the normals.
    """
    folder = tmp_path_factory.mktemp("clone")
    for name in ("configs", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    write_phantoms(folder / "Dataset_BUSI_with_GT", count=30, seed=0, size=64)
    hospital = folder / "second_hospital"
    write_phantoms(hospital, count=9, seed=1, size=64)
    lines = [
        f"{path.relative_to(hospital).as_posix()},{path.parent.name},{number // 2}\n"
        for number, path in enumerate(sorted(hospital.glob("[bm]*/*).png")))
    ]
    (hospital / "labels.csv").write_text("".join(["image,label,patient\n", *lines]))
    # Told by content: a file of safetensors under torchvision's name is as good.
    save_file(formats.torchvision_resnet18(), folder / "resnet18-f37072fd.pth")
    save_file(formats.dinov2(light.SIZES["S14"]), folder / "dinov2-small.safetensors")
    return folder


def python(words):
    """What a command is run with: few layers where it builds a model that needs no public ResNet.

    Figures are drawn by the first command of each kind; the others have the same.
    """
    if not {"--workdir", "-c"} & set(words) or "resnet18-" in " ".join(words):
        return [sys.executable]
    drawn = _DRAWN.intersection(words) or "--config" not in words
    return [sys.executable, light.__file__, *([] if drawn else ["--undrawn"])]


def run(words, folder):
    result = subprocess.run(
        [*python(words), *words[1:]], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stderr[-2000:]}"


def serve(words, folder):
    """Starts a page, looks at it and ends it."""
    command = [*python(words), *words[1:], "--port", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.match(r"open (http://\S+) ", process.stdout.readline())
            assert found
            with urllib.request.urlopen(found[1]) as page:
                assert b"<!doctype html>" in page.read(100).lower()
        finally:
            process.terminate()
    assert process.returncode == 143


def test_the_python_commands_in_their_order(folder):
    found = [words for words in commands() if words[0] == "python"]
    trained = 0
    for words in found:
        if "jaxbusi.serve" in words:
            serve(words, folder)
            continue
        run([*words, *small(words)], folder)
        if "--config" in words:
            trained += 1
            workdir = folder / words[words.index("--workdir") + 1]
            runs = [workdir]
            if "jaxbusi.study" in words:
                assert all((workdir / name).exists() for name in ("study.json", "study.html"))
                runs = list(workdir.glob("*/seed*"))
                assert len(runs) in (1, 2, 3)
            for name in ("report.html", "results.json", "predictions_test.csv", "split.csv"):
                assert all((one / name).exists() for one in runs)
    assert trained >= 6
    for name, renormalised in (("external", False), ("table", True)):
        assert (folder / f"runs/{name}/predictions_external.csv").exists()
        results = json.loads((folder / f"runs/{name}/results.json").read_text())
        assert results["parts"]["external"]["renormalised"] is renormalised
    assert (folder / "weights/resnet18.safetensors").exists()
    assert (folder / "exported/fusion/model.onnx").exists()
    assert len((folder / "predictions.csv").read_text().splitlines()) == 10

    # The lines of Python follow on the first run of them.
    image = np.zeros((40, 60, 3), np.uint8)
    for block in blocks("python"):
        program = f"import numpy as np\nimage = np.zeros({image.shape}, np.uint8)\n{block}"
        run(
            ["python", "-c", f"{program}\nassert abs(benign + malignant + normal - 1) < 1e-5"],
            folder,
        )


def test_nothing_else_is_in_the_shell_blocks():
    """Other words than `python` are covered by the tests below, or by running the tests at all."""
    others = [words for words in commands() if words[0] != "python"]
    assert others == [
        ["make", "demo"],
        ["make", "test"],
        ["python3", "-m", "venv", ".venv", "&&", "source", ".venv/bin/activate"],
        ["pip", "install", "-c", "constraints.txt", "-e", ".[test]"],
        ["pytest"],
        ["pip", "install", "-c", "constraints.txt", "-e", ".[notebook]"],
        ["jupyter", "lab", "docs/quickstart.ipynb"],  # test_notebook.py runs it
    ]


@pytest.mark.parametrize("target", ["demo", "test"])
def test_make_does_what_the_pip_commands_do(target):
    planned = subprocess.run(
        ["make", "-n", "-B", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    wanted = {"demo": "-m jaxbusi.main --config configs/demo.py --workdir runs/demo"}
    assert "python3 -m venv .venv" in planned
    assert "pip install -q -c constraints.txt -e '.[test]'" in planned
    assert f".venv/bin/python {wanted.get(target, '-m pytest')}" in planned


def test_the_files_and_extras_that_it_names_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for listing in re.findall(r"'\.\[([\w,]+)\]'", README):
        assert set(listing.split(",")) <= set(extras)
    for name in re.findall(r"\]\((?!http)([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(configs/\w+\.py|scripts/\w+\.py)`", README):
        assert (ROOT / name).exists(), name


def test_the_settings_that_it_names_exist():
    config = table4.get_config()  # fusion.py's settings and those of a study
    for key in set(re.findall(r"\bconfig\.([a-z_][\w.]*\w)", README)) - {"json"}:
        node = config
        for part in key.split("."):
            assert part in node, f"config.{key}"
            node = node[part]
