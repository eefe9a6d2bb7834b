"""Checksums: any changed bit shows, and the devices that hold the array do not."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxbusi.checksums import changed, checksums
from jaxbusi.state import make_mesh, replicated

ARRAYS = {
    "float32": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6),
    "bfloat16": np.linspace(-1, 1, 24).astype(ml_dtypes.bfloat16),
    "int32": np.arange(-3, 7, dtype=np.int32),
    "uint8": np.arange(200, dtype=np.uint8),
    "scalar": np.array(3.5, np.float32),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_every_flipped_bit_shows(name):
    array = ARRAYS[name]
    before = checksums([array])
    for place in range(array.nbytes):
        for bit in range(8):
            damaged = bytearray(array.tobytes())
            damaged[place] ^= 1 << bit
            again = np.frombuffer(bytes(damaged), array.dtype).reshape(array.shape)
            assert checksums([again]) != before


def test_nan_and_negative_zero_are_told_apart():
    assert checksums([jnp.float32(0.0)]) != checksums([jnp.float32(-0.0)])
    assert checksums([jnp.float32(jnp.nan)]) == checksums([jnp.float32(jnp.nan)])


def test_arrays_without_elements_and_flags_have_one():
    assert checksums([np.empty((0, 3)), True]) == {"0": 0, "1": checksums([np.uint8(1)])["0"]}


def test_the_devices_do_not_matter():
    array = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    wanted = checksums({"a": {"b": array}})
    assert list(wanted) == ["a/b"]
    assert checksums({"a": {"b": jax.device_put(array, replicated(make_mesh()))}}) == wanted


def test_what_differs_is_named():
    assert changed({"a": 1, "b": 3}, {"a": 1, "b": 4, "c": 0}) == ["b", "c"]
