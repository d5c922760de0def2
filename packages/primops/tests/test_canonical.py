"""Lowering to core ATen: the same values, strides kept, core ops untouched, the rest by way of their decomposition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import fakes
from lamina_dynshape.support.errors import UserError
from lamina_primops import decompositions, interpret, lower, trace, verify
from lamina_primops.canonical import is_canonical

aten = torch.ops.aten
X, Y = torch.rand(3, 4) + 0.1, torch.rand(3, 4) + 0.1
IMAGE = torch.rand(2, 3, 8, 6)


def _lowered(fn, *reals, symbolic=False):
    gm = trace(fn, fakes(*reals, symbolic=symbolic))
    lowered = lower(gm, to="aten")
    verify(lowered, "aten")
    expected = torch.utils._pytree.tree_leaves(fn(*reals))
    for got, want in zip(interpret(lowered, *reals), expected, strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)
    return [n.target for n in lowered.graph.nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]


def test_core_ops_stay():
    assert _lowered(lambda x, y: torch.relu(x + y).sum(1), X, Y) == [aten.add.Tensor, aten.relu.default, aten.sum.dim_IntList]


PROGRAMS = {
    "addcmul": (lambda x, y: torch.addcmul(x, y, y, value=0.5), X, Y), "lerp": (lambda x, y: torch.lerp(x, y, 0.3), X, Y),
    "silu": (lambda x: F.silu(x), X), "mish": (lambda x: F.mish(x), X), "huber": (lambda x, y: F.huber_loss(x, y), X, Y), "frac": (lambda x: torch.frac(x), X),
    "logaddexp": (lambda x, y: torch.logaddexp(x, y), X, Y), "bce": (lambda x, y: F.binary_cross_entropy_with_logits(x, y), X, Y),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE), "tril": (lambda x: x.tril(), X), "roll": (lambda x: x.roll(1, 0), X),
    "unfold": (lambda x: F.unfold(x, 3, padding=1), IMAGE), "foreach": (lambda x, y: torch._foreach_addcdiv([x, y], [y, x], [x, y], 0.5), X, Y),
    "transposed": (lambda x: F.softplus(x.t()), X), "half": (lambda x: F.silu(x.bfloat16()), X), "batch norm": (lambda x: F.batch_norm(x, None, None, training=True), IMAGE),
    "reflect": (lambda x: F.pad(x, (1, 2), mode="replicate"), IMAGE[0]), "cross": (lambda x: torch.linalg.cross(x[:, :3], x[:, 1:]), X),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_other_ops_become_core_ops(name):
    targets = _lowered(*PROGRAMS[name])
    assert [t for t in targets if not is_canonical(t)] == []


@pytest.mark.parametrize("name", ["addcmul", "silu", "huber", "tril"])
def test_symbolic_sizes(name):
    _lowered(*PROGRAMS[name], symbolic=True)


def test_unknown_target_is_refused():
    with pytest.raises(UserError, match="'prims' and 'aten'"):
        lower(trace(lambda x: x + 1, fakes(X)), to="xla")


def test_a_decomposition_of_ones_own():
    library = torch.library.Library("lamina_test_own", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    op = torch.ops.lamina_test_own.twice.default

    @decompositions.register(op)
    def twice(x):
        """x + x."""
        return decompositions.p.add(x, x)

    try:
        lowered = lower(trace(lambda x: op(x), fakes(X)))
        assert [str(n.target) for n in lowered.graph.nodes if n.op == "call_function"] == ["lamina.add.default"]
        torch.testing.assert_close(interpret(lowered, X)[0], X * 2)
    finally:
        del decompositions.DECOMPOSITIONS[op]
