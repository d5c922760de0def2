"""The section "Bad input": each gives a clear error or a warning, never a wrong result."""

from __future__ import annotations

import re
import traceback
import warnings

import pytest
import torch
from torch import nn

import lamina


def test_fullgraph_on_a_break_names_the_line_and_a_hint():
    def f(x):
        y = x + 1
        input("hello")
        return y

    with pytest.raises(lamina.exc.Unsupported) as caught:
        lamina.compile(f, fullgraph=True)(torch.ones(2))
    said = str(caught.value)
    assert "test_bad_input.py" in said and 'input("hello")' in said and "saw:" in said and "try:" in said


def test_user_exception_keeps_type_message_and_frames():
    def inner(x):
        if x.shape[0] == 3:
            raise KeyError("three is refused")
        return x + 1

    def f(x):
        return inner(x * 2)

    compiled = lamina.compile(f)
    assert compiled(torch.ones(2)).sum() == 6
    for _ in range(2):
        with pytest.raises(KeyError, match="three is refused") as caught:
            compiled(torch.ones(3))
        names = [frame.name for frame in traceback.extract_tb(caught.tb)]
        assert "inner" in names and "f" in names


def test_wrong_shapes_give_eagers_error():
    model = nn.Linear(4, 2)
    with pytest.raises(RuntimeError) as eager:
        model(torch.ones(3, 5))
    with pytest.raises(RuntimeError) as ours:
        lamina.compile(model)(torch.ones(3, 5))
    assert str(ours.value) == str(eager.value)


def test_wrong_arguments_give_eagers_error():
    def f(x, y):
        return x + y

    with pytest.raises(TypeError) as eager:
        f(torch.ones(1))
    with pytest.raises(TypeError) as ours:
        lamina.compile(f)(torch.ones(1))
    assert str(ours.value).split("()")[1] == str(eager.value).split("()")[1]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_no_compiler_is_one_clear_error(monkeypatch, empty_cache):
    compiled = lamina.compile(lambda x: x.sin() * 41)
    monkeypatch.setenv("LAMINA_CXX", "/nowhere/g++")
    with pytest.raises(lamina.exc.CompilerError, match="/nowhere/g\\+\\+"):
        compiled(torch.ones(5))


def test_failing_compiler_shows_its_log(monkeypatch, empty_cache, tmp_path):
    script = tmp_path / "cxx"
    script.write_text('#!/bin/sh\nif [ "$1" = --version ]; then echo broken 1; exit 0; fi\necho "I am broken" >&2\nexit 3\n')
    script.chmod(0o755)
    compiled = lamina.compile(lambda x: x.sin() * 42)
    monkeypatch.setenv("LAMINA_CXX", str(script))
    with pytest.raises(lamina.exc.CompilerError) as caught:
        compiled(torch.ones(5))
    assert str(script) in str(caught.value) and "I am broken" in str(caught.value)


def test_no_compiler_with_fallback_runs_eagerly_with_one_warning(monkeypatch, empty_cache):
    monkeypatch.setenv("LAMINA_CXX", "/nowhere/other-g++")
    with pytest.warns(RuntimeWarning, match="other-g\\+\\+") as caught:
        for n in (43, 44):
            compiled = lamina.compile(lambda x, n=n: x.sin() * n, options={"fallback": True})
            assert torch.equal(compiled(torch.ones(5)), torch.ones(5).sin() * n)
    assert len(caught) == 1


def test_an_error_of_the_compiler_itself_is_reported_and_the_result_is_eagers(monkeypatch, no_strict, empty_cache):
    import lamina_aotgrad

    def broken(*args, **kwargs):
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(lamina_aotgrad, "aot_function", broken)
    compiled = lamina.compile(lambda x: x.cos() + 1)
    with pytest.warns(RuntimeWarning, match="a bug of ours") as caught:
        assert torch.equal(compiled(torch.ones(3)), torch.ones(3).cos() + 1)
        assert torch.equal(compiled(torch.ones(3)), torch.ones(3).cos() + 1)
    assert len(caught) == 1
    path = re.search(r"Report: (\S+)", str(caught[0].message)).group(1)
    text = open(path).read()
    assert "a bug of ours" in text and "captured graph" in text and "cos" in text and "float32 (3,)" in text


def test_an_error_of_the_compiler_itself_is_raised_when_strict(monkeypatch):
    import lamina_aotgrad

    def broken(*args, **kwargs):
        raise AssertionError("a bug of ours")

    monkeypatch.setattr(lamina_aotgrad, "aot_function", broken)
    with pytest.raises(AssertionError, match="a bug of ours"):
        lamina.compile(lambda x: x.cos() + 1)(torch.ones(3))


def test_an_error_of_capture_is_reported_and_the_result_is_eagers(monkeypatch, no_strict, empty_cache):
    from lamina_dynamo import convert

    def broken(*args, **kwargs):
        raise AssertionError("a bug of capture")

    monkeypatch.setattr(convert, "convert_frame", broken)
    compiled = lamina.compile(lambda x: x.cos() + 2, backend="eager")
    with pytest.warns(RuntimeWarning, match="a bug of capture") as caught:
        assert torch.equal(compiled(torch.ones(3)), torch.ones(3).cos() + 2)
    assert "eport: " in str(caught[0].message)


@pytest.mark.parametrize("bad", ["file", "proc"])
def test_cache_folder_that_cannot_be_written(monkeypatch, tmp_path, bad):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(blocked) if bad == "file" else "/proc/nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = lamina.compile(lambda x: x.exp() * 45)
        torch.testing.assert_close(compiled(torch.ones(5)), torch.ones(5).exp() * 45)


def test_cache_folder_deleted_between_calls(empty_cache):
    import shutil

    for n in (46, 47):
        compiled = lamina.compile(lambda x, n=n: x.exp() * n)
        torch.testing.assert_close(compiled(torch.ones(5)), torch.ones(5).exp() * n)
        shutil.rmtree(empty_cache, ignore_errors=True)


def test_every_file_of_the_cache_damaged(empty_cache):
    """Truncate, then fill with garbage, every file that a compilation left: the next one neither fails nor errs."""
    f = lambda x: (x.exp() * 48).softmax(-1)
    x = torch.randn(4, 5)
    for damage in (lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\x7fELF" + b"x" * len(data)):
        lamina.reset()
        torch.testing.assert_close(lamina.compile(f)(x), f(x))
        for path in [p for p in empty_cache.rglob("*") if p.is_file()]:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(damage(data))
    lamina.reset()
    torch.testing.assert_close(lamina.compile(f)(x), f(x))


def test_pickling_a_compiled_module_is_refused():
    import pickle

    with pytest.raises(lamina.exc.UserError, match="_orig_mod"):
        pickle.dumps(lamina.compile(nn.Linear(2, 2)))


def test_a_users_backend_that_fails_reaches_the_user(no_strict):
    def backend(gm, example_inputs):
        raise ZeroDivisionError("my backend")

    with pytest.raises(lamina.exc.BackendFailed, match="my backend"):
        lamina.compile(lambda x: x + 1, backend=backend)(torch.ones(1))
