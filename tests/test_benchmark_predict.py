"""What the benchmark of predictions makes and measures; the table is in docs/predicting.md."""

import sys

import pytest

from jaxbusi.data.images import decode_image
from jaxbusi.data.inputs import find_inputs
from scripts import benchmark_predict


def test_many_names_of_few_files(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_predict, "_DIFFERENT", 3)
    monkeypatch.setattr(benchmark_predict, "_IN_A_FOLDER", 4)
    for count in (2, 9):
        benchmark_predict.write_images(tmp_path / f"{count}", count, tmp_path / "different")
        assert len(find_inputs([str(tmp_path / f"{count}")])) == count
    files = sorted(tmp_path.glob("9/*/*.png"))
    assert [path.parent.name for path in files] == ["0000"] * 4 + ["0001"] * 4 + ["0002"]
    assert len({path.read_bytes() for path in files}) == 3
    assert decode_image(files[0].read_bytes(), "image").shape == (64, 64, 3)


def test_what_a_process_takes(tmp_path):
    work = "x = bytearray(200 << 20); sum(range(10**6))"
    measured = benchmark_predict.measure([sys.executable, "-c", work], tmp_path)
    assert measured.mib > 200  # or what this process had when it forked
    assert 0 < measured.processor < measured.clock * 2
    with pytest.raises(RuntimeError, match="no such thing"):
        benchmark_predict.measure([sys.executable, "-c", "exit('no such thing')"], tmp_path)
