"""What is compiled how often, what is kept over starts, and how waiting is counted."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbusi import xla
from jaxbusi.logs import Pace
from jaxbusi.predict import Predictor
from jaxbusi.train import train_and_evaluate
from tests.runs import make_config


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects the name of every program that is compiled, or read from where it is kept."""
    names: list[str] = []

    def listen(event: str, _: float, **about: str) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_each_step_of_a_run_is_compiled_once(tmp_path, phantoms):
    """24 images x 3 copies in batches of 8, and 6 x 3 in evaluation, whose last batch is short."""
    with compilations() as names:
        train_and_evaluate(make_config(phantoms, **{"data.copies": 3}), tmp_path)
    assert names.count("jit(train_step)") == 1
    assert names.count("jit(eval_step)") == 1


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_any_number_of_images_is_predicted_by_one_program(tmp_path, phantoms):
    train_and_evaluate(make_config(phantoms, num_epochs=0.5), tmp_path)
    predictor = Predictor.load(tmp_path)
    with compilations() as names:
        for count in (1, 16, 17, 40):
            images = [np.zeros((20 + row, 30, 3), np.uint8) for row in range(count)]
            assert predictor(images).shape == (count, 3)
    assert len(names) == 1


def test_a_second_start_finds_what_the_first_has_compiled(tmp_path):
    """In processes of their own, as the commands do it: two starts, one compilation."""
    program = """
from jaxbusi import xla
print(xla.keep_compiled_programs())
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
print(events.count("/jax/compilation_cache/cache_hits"))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, check=True
        )
        .stdout.decode()
        .split()
        for _ in range(2)
    ]
    (folder, before), (same, after) = outputs
    assert folder == same
    assert Path(folder).parent == tmp_path / "jaxbusi"
    assert list(Path(folder).glob("*-cache"))
    assert int(before) == 0
    assert int(after) > 0


def test_a_folder_that_the_user_names_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert xla.keep_compiled_programs() is None
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "elsewhere"
    assert not list(tmp_path.iterdir())


def test_without_a_folder_to_write_to_nothing_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert xla.keep_compiled_programs() is None
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_the_share_of_time_that_is_waited_for_batches():
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.04)
            yield number

    pace = Pace(10)
    for _ in pace.count(slow()):
        time.sleep(0.01)
    values = pace.summary(13, batch_size=4)
    assert 0.3 < values["input_wait"] < 0.99
    assert 0 < values["images_per_second"] < 12 / 0.14
    pace.restart(13)
    time.sleep(0.01)
    assert pace.summary(13, batch_size=4) == {"images_per_second": 0.0, "input_wait": 0.0}
