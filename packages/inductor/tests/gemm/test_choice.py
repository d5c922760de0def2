"""The measured choice of matrix product: classes, files, damage."""

import json

import pytest
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.paths import cache_dir
from lamina_inductor.gemm import choice

KIND = choice.shape_class(3, 5, 9, True, False)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(choice.library, "path", lambda path=choice.library.path(): path)  # built outside of the empty folder
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    choice._table.cache_clear()
    yield
    choice._table.cache_clear()


def _measured():
    before = counters["tuning"]["gemm"]
    choice.own_is_faster(KIND)
    return counters["tuning"]["gemm"] - before


def test_classes_are_powers_of_two_and_bounded():
    assert KIND == (4, 8, 16, True, False)
    assert choice.shape_class(10**6, 10**6, 10**6, True, True)[:3] == choice._BOUNDS
    assert choice.shape_class(1, 1, 1, True, True)[:3] == (1, 1, 1)


def test_measured_once_and_kept():
    assert _measured() == 1 and _measured() == 0
    choice._table.cache_clear()  # another process
    assert _measured() == 0


def test_a_torn_file_is_measured_again():
    _measured()
    file, = cache_dir("tuning").glob("gemm-*.json")
    file.write_text(file.read_text()[:5])
    choice._table.cache_clear()
    assert _measured() == 1
    assert json.loads(file.read_text()).keys() == {repr(KIND)}


def test_the_answer_follows_the_measurement(monkeypatch):
    times = iter([2.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr(choice, "_seconds", lambda fn: next(times))
    assert not choice.own_is_faster((1, 2, 2, True, True))
    assert choice.own_is_faster((1, 2, 4, True, True))
