"""What `compile` accepts, what it refuses, and what it says."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import lamina
from lamina.exc import UserError


def f(x):
    return x.sin() + 1


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"backend": "nope"}, ["'nope'", "aot_eager", "eager", "inductor"]),
        ({"backend": 3}, ["name or a callable"]),
        ({"mode": "fast"}, ["'fast'", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]),
        ({"options": {"speed": 1}}, ["'speed'", "fallback"]),
        ({"options": {"fallback": 1}}, ["fallback", "bool"]),
        ({"options": 3}, ["dict"]),
        ({"mode": "default", "options": {}}, ["not both"]),
        ({"fullgraph": 1}, ["fullgraph", "bool"]),
        ({"dynamic": "yes"}, ["dynamic"]),
    ],
)
def test_bad_arguments_name_the_valid_ones(kwargs, said):
    with pytest.raises(UserError) as caught:
        lamina.compile(f, **kwargs)
    assert all(word in str(caught.value) for word in said), str(caught.value)


@pytest.mark.parametrize("bad", [3, "f", torch.nn.Linear])
def test_only_callables_that_are_no_classes(bad):
    with pytest.raises(UserError, match="function or a module"):
        lamina.compile(bad)


def test_disable_gives_the_model_back():
    assert lamina.compile(f, disable=True) is f


def test_register_lookup_list():
    def mine(gm, example_inputs):
        return gm.forward

    lamina.register_backend(mine, name="mine_for_test")
    assert "mine_for_test" in lamina.list_backends() and lamina.lookup_backend("mine_for_test") is mine
    assert lamina.lookup_backend(mine) is mine
    with pytest.raises(UserError, match="registered already"):
        lamina.register_backend(lambda gm, ex: gm, name="mine_for_test")
    with pytest.raises(UserError, match="callable"):
        lamina.register_backend(3, name="x")
    assert {"eager", "aot_eager", "inductor"} <= set(lamina.list_backends())


def test_config_is_typed():
    with lamina.config.patch(recompile_limit=3):
        assert lamina.config.recompile_limit == 3
    with pytest.raises(UserError, match="recompile_limit"), lamina.config.patch(recompil_limit=3):
        pass


def test_import_is_light():
    code = (
        "import sys, torch, lamina; "
        "assert 'sympy' not in sys.modules and 'lamina_inductor' not in sys.modules; "
        "assert not [m for m in sys.modules if m.startswith(('torch._dynamo', 'torch._inductor'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_entry_point_for_torch_compile_names_the_backend():
    import importlib
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["torch_dynamo_backends"]["lamina"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert project["dependencies"] == [f"lamina-{p}" for p in ("dynshape", "primops", "dynamo", "aotgrad", "inductor")]
