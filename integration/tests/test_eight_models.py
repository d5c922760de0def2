"""The eight models: one graph each, correct by the float64 rule, inference and training, on the main path."""

from __future__ import annotations

import pytest
import torch

import lamina
from integration import models
from integration.demo.measure import Case, run_case

# the short suite takes these through C++; `-m slow` takes all
SHORT = ("resnet18", "bert", "gpt2")


@pytest.mark.parametrize("name", models.EIGHT)
def test_captured_as_one_graph_and_equal(name):
    built = models.build(name)
    compiled = lamina.compile(built.module, backend="eager", fullgraph=True)
    with torch.no_grad():
        got, expected = built(compiled), built()
    for g, e in zip(_tensors(got), _tensors(expected), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-4)


def _tensors(value):
    from integration.compare import flatten

    return list(flatten(value).values())


@pytest.mark.parametrize("kind", ["inference", "training"])
@pytest.mark.parametrize("name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.slow) for name in models.EIGHT])
def test_compiled_is_correct(name, kind):
    row = run_case(Case(name, kind), peer=False, seconds=0.0, progress=lambda row: None)
    assert row.verdict == "correct" and row.breaks == 0
