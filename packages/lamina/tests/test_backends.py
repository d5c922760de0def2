"""What happens around a backend: options, failures, reports. The graphs are made by hand: nothing is captured here."""

from __future__ import annotations

import re

import pytest
import torch

import lamina
from lamina import backends
from lamina.exc import CompilerError, Unsupported, UserError
from lamina.options import CompileOptions, option_names, resolve


def graph():
    return torch.fx.symbolic_trace(lambda x: (torch.cos(x) + 1,))


def failing(error, options=CompileOptions()):
    def backend(gm, example_inputs, options):
        raise error

    return backends._protected(backend, options)


@pytest.fixture
def not_strict(monkeypatch, tmp_path):
    monkeypatch.delenv("LAMINA_STRICT")
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("error", [AssertionError("broken"), KeyError("k")])
def test_a_failure_runs_the_captured_graph_and_writes_a_report(error, not_strict):
    x = torch.ones(3)
    with pytest.warns(RuntimeWarning) as caught:
        call = failing(error)(graph(), [x])
    assert torch.equal(call(x)[0], x.cos() + 1) and len(caught) == 1
    text = open(re.search(r"Report: (\S+)", str(caught[0].message)).group(1)).read()
    assert type(error).__name__ in text and "float32 (3,)" in text and "cos" in text and torch.__version__ in text
    assert lamina.counters.total("fallbacks") >= 1


def test_strict_raises():
    with pytest.raises(AssertionError):
        failing(AssertionError("broken"))(graph(), [torch.ones(3)])


def test_what_is_not_supported_runs_the_captured_graph_with_a_recorded_reason():
    x = torch.ones(3)
    before = lamina.counters["fallbacks"]["strange operator"]
    call = failing(Unsupported("strange operator"))(graph(), [x])
    assert torch.equal(call(x)[0], x.cos() + 1)
    assert lamina.counters["fallbacks"]["strange operator"] == before + 1


def test_what_is_not_supported_is_an_error_under_fullgraph():
    with pytest.raises(Unsupported, match="strange operator"):
        failing(Unsupported("strange operator"), CompileOptions(fullgraph=True))(graph(), [torch.ones(3)])


def test_compiler_errors_reach_the_user_unless_fallback_is_set(not_strict):
    def backend(gm, example_inputs, options):
        raise CompilerError("no C++ compiler: tried g++-unit-test")

    with pytest.raises(CompilerError):
        backends._protected(backend, CompileOptions())(graph(), [])
    call = backends._protected(backend, CompileOptions(fallback=True))
    with pytest.warns(RuntimeWarning, match="g\\+\\+-unit-test") as caught:
        for _ in range(2):
            assert torch.equal(call(graph(), [])(torch.zeros(2))[0], torch.full((2,), 2.0))
    assert len(caught) == 1


def test_a_users_backend_gets_what_the_user_gave():
    seen = {}

    def backend(gm, example_inputs, **kwargs):
        seen.update(kwargs)
        return gm.forward

    backends.resolve_backend(backend, None, {"of": "mine"})[0](graph(), [])
    assert seen == {"options": {"of": "mine"}}


def test_an_error_of_a_users_backend_is_the_users():
    def backend(gm, example_inputs):
        raise ZeroDivisionError("mine")

    with pytest.raises(lamina.exc.BackendFailed, match="'backend' raised ZeroDivisionError: mine") as caught:
        backends.resolve_backend(backend, None, None)[0](graph(), [])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_modes_and_options():
    assert resolve(None, None) == CompileOptions()
    assert resolve(None, {"fallback": True}).fallback
    with lamina.config.patch(fallback=True):
        assert resolve("default", None).fallback and not resolve(None, {"fallback": False}).fallback
    known = {"fusion"} & set(option_names())
    for name in known:
        assert resolve(None, {name: False}).backend_options == {name: False}
        with pytest.raises(UserError, match=name):
            resolve(None, {name: "yes"})
