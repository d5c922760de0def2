"""Every functional `_foreach_*` overload, its arguments made from its schema, against eager."""

from __future__ import annotations

import pytest
import torch
from helpers import fakes
from lamina_primops import interpret, lower, trace
from lamina_primops.decompositions import DECOMPOSITIONS

FOREACH = [o for o in DECOMPOSITIONS if o._schema.name.startswith("aten::_foreach_")]
g = torch.Generator().manual_seed(0)
SHAPES = ((3, 4), (), (5,))


def _tensors(square=False):
    return [torch.rand((3, 3) if square else s, generator=g) * 0.8 + 0.1 for s in SHAPES]


def _arguments(overload):
    """Positive operands below 1, so that every op is defined; numbers differ by position."""
    name, made = overload._schema.name, []
    for a in overload._schema.arguments:
        kind = str(a.type)
        if a.kwarg_only or (a.has_default_value() and kind not in ("number", "List[number]")):
            continue
        if kind == "List[Tensor]":
            made.append(_tensors(name.endswith("_mm")))
        elif kind == "List[number]":
            made.append([1.5, 2.0, 3.0])
        elif kind == "Tensor":
            made.append(torch.tensor([1.5, 2.0, 3.0]) if a.name == "scalars" else torch.tensor(1.5))
        else:
            made.append(2.5)
    return made


@pytest.mark.parametrize("overload", FOREACH, ids=str)
def test_every_overload_is_the_op_on_each_tensor(overload):
    args = _arguments(overload)
    flat, spec = torch.utils._pytree.tree_flatten(args)
    reals = [t for t in flat if isinstance(t, torch.Tensor)]

    def call(*tensors):
        given = iter(tensors)
        return overload(*torch.utils._pytree.tree_unflatten([next(given) if isinstance(x, torch.Tensor) else x for x in flat], spec))

    expected = call(*reals)
    lowered = lower(trace(call, fakes(*reals)))
    assert not [n for n in lowered.graph.nodes if "fallback" in n.meta and n.meta["fallback"] == "no decomposition"]
    for got, want in zip(interpret(lowered, *reals), expected, strict=True):
        torch.testing.assert_close(got, want, check_stride=False)
    for got, want in zip(DECOMPOSITIONS[overload].rule(*args), expected, strict=True):
        torch.testing.assert_close(got, want, check_stride=False)


def test_all_functional_overloads_are_there():
    assert len(FOREACH) > 70, len(FOREACH)


def test_keywords_go_along():
    xs, ys = _tensors(), _tensors()
    for overload, args, kwargs in (
        (torch.ops.aten._foreach_add.List, (xs, ys), {"alpha": 3}), (torch.ops.aten._foreach_addcmul.Scalar, (xs, ys, ys), {"value": 0.5}),
        (torch.ops.aten._foreach_norm.Scalar, (xs, 1), {"dtype": torch.float64}), (torch.ops.aten._foreach_norm.Scalar, (xs, float("inf")), {}),
    ):  # fmt: skip
        for got, want in zip(DECOMPOSITIONS[overload].rule(*args, **kwargs), overload(*args, **kwargs), strict=True):
            torch.testing.assert_close(got, want)
