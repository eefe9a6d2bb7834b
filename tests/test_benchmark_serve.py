"""What the benchmark of the server sends and measures; the table is in docs/serving.md."""

import time
import types

import pytest

from scripts import benchmark_serve


def test_every_image_is_sent_in_turn_and_every_answer_timed():
    sent = []

    def ask(endpoint, image):
        sent.append((endpoint, image))
        time.sleep(0.05)
        return float(len(image))

    server = types.SimpleNamespace(ask=ask)
    clock, seconds = benchmark_serve.measure(server, "classify", [b"1", b"22"], 5, 5)
    assert sorted(sent) == [("classify", b"1")] * 3 + [("classify", b"22")] * 2
    assert sorted(seconds) == [1, 1, 1, 2, 2]
    assert 0.05 <= clock < 5 * 0.05 + 1


def test_a_server_that_does_not_start_is_an_error(tmp_path, monkeypatch):
    silent = types.SimpleNamespace(readline=lambda: "")
    process = types.SimpleNamespace(stdout=silent, wait=lambda: 2)
    monkeypatch.setattr(benchmark_serve.subprocess, "Popen", lambda *_, **__: process)
    with pytest.raises(RuntimeError, match="ended with 2"):
        benchmark_serve.Server(tmp_path)
