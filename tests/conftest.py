"""Strict promotion and several fake devices for every test; set before JAX starts."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
).strip()

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def busi_root() -> Path:
    """The real BUSI folder, in Kaggle's layout."""
    default = Path(__file__).parents[2] / "shared" / "data" / "Dataset_BUSI_with_GT"
    root = Path(os.environ.get("JAXBUSI_BUSI", default))
    if not root.is_dir():
        pytest.skip(f"needs the BUSI folder, not found at {root}; set JAXBUSI_BUSI to it")
    return root
