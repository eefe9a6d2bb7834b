"""Strict promotion and several fake devices for every test; set before JAX starts."""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
).strip()
# Many tests train the same small model: what one has compiled, the others and the commands they
# start find here. An empty folder each time, so that no stale program survives.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

from jaxbusi import train
from jaxbusi.data.phantoms import write_phantoms
from jaxbusi.evaluation import figures, study_figures
from jaxbusi.evaluation.canvas import Picture
from tests.tiny import TinyModel

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


HAS_TORCH = all(map(importlib.util.find_spec, ("torch", "transformers")))
"""Whether the extra `parity` is installed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest file first, so that no process is left with it when the others are done."""
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties.append(("fault", mark.args[0]))
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is marked `torch` without PyTorch, but for what then compares with records."""
    mark = item.get_closest_marker("torch")
    if mark is not None and mark.kwargs.get("required", True) and not HAS_TORCH:
        pytest.skip("PyTorch and transformers (the extra `parity`) are missing")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"])


@pytest.fixture(scope="session")
def busi_root() -> Path:
    """The real BUSI folder, in Kaggle's layout."""
    default = Path(__file__).parents[2] / "shared" / "data" / "Dataset_BUSI_with_GT"
    root = Path(os.environ.get("JAXBUSI_BUSI", default))
    if not root.is_dir():
        pytest.skip(f"needs the BUSI folder, not found at {root}; set JAXBUSI_BUSI to it")
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 synthetic images; not to be written to."""
    folder = tmp_path_factory.mktemp("set") / "phantoms"
    write_phantoms(folder, count=30, seed=0, size=64)
    return folder


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 256 KiB, or of the size that the test's parameter names."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = getattr(request, "param", "256k")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)  # what failed may hold a file open


@pytest.fixture
def tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run trains a model of a few hundred parameters."""
    monkeypatch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Picture]]:
    """Runs and studies draw no figures, which takes half of the time of a tiny run.

    Returns:
      What draws those of a run.
    """
    write_all = figures.write_all
    monkeypatch.setattr(figures, "write_all", lambda *_, **__: [])
    monkeypatch.setattr(study_figures, "write_all", lambda *_, **__: [])
    return write_all


@pytest.fixture(scope="session")
def dinov2_small() -> Path:
    """The real weights of DINOv2-small under Hugging Face's names, in float16."""
    default = Path(__file__).parents[2] / "shared" / "weights" / "dinov2-small.fp16.safetensors"
    path = Path(os.environ.get("JAXBUSI_DINOV2", default))
    if not path.is_file():
        pytest.skip(f"needs DINOv2-small, not found at {path}; set JAXBUSI_DINOV2 to it")
    return path
