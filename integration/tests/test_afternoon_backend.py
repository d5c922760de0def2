"""The NumPy backend: each prim against its reference, then programs and models against eager."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lamina
from integration.afternoon_backend import DTYPES, TABLE, afternoon, supports
from integration.compare import compare
from integration.models import THREE, build
from lamina_primops import PRIMS, lower, split_by_support, trace
from lamina_primops.prims.samples import prim_samples


def test_the_table_has_every_prim():
    assert {prim.overload for prim in PRIMS.values()} == set(TABLE)


def _arrays(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return [_arrays(v) for v in value] if isinstance(value, list) else value


def _in_numpy(args) -> bool:
    tensors = [t for a in args for t in (a if isinstance(a, list) else [a])]
    return all((t if isinstance(t, torch.dtype) else t.dtype) in DTYPES for t in tensors if isinstance(t, (torch.Tensor, torch.dtype)))


@pytest.mark.parametrize("name", sorted(PRIMS))
def test_prims_follow_their_reference(name):
    samples = [args for n, args in prim_samples() if n == name and _in_numpy(args)]
    assert samples
    for args in samples:
        want = PRIMS[name].overload(*args)
        with np.errstate(all="ignore"):
            got = TABLE[PRIMS[name].overload](*_arrays(list(args)))
        for g, w in zip(got if isinstance(want, tuple) else [got], want if isinstance(want, tuple) else [want], strict=True):
            assert np.asarray(g).dtype == DTYPES[w.dtype]
            torch.testing.assert_close(torch.from_numpy(np.array(g, order="C")), w, rtol=2e-5, atol=1e-6, equal_nan=True, check_stride=False)


def test_integer_powers_and_divisions_beyond_the_samples():
    a, b = torch.tensor([-7, 7, -1, 1, 2, 0]), torch.tensor([2, -2, -3, -2, -1, 5])
    for name in ("pow", "truncdiv", "floordiv", "remainder", "fmod", "shift_left", "shift_right"):
        x, y = (a[:5], b[:5]) if name == "pow" else (a, b)
        want = PRIMS[name].overload(x, y)
        assert TABLE[PRIMS[name].overload](x.numpy(), y.numpy()).tolist() == want.tolist(), name
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        TABLE[PRIMS["floordiv"].overload](a.numpy(), np.zeros_like(a.numpy()))


@pytest.mark.parametrize("transposed, stride, padding, dilation, extra", [(False, 2, 1, 2, 0), (True, 2, 1, 1, 1), (True, 1, 3, 1, 0), (True, 3, 0, 2, 2)])
def test_convolutions(transposed, stride, padding, dilation, extra):
    x, w = torch.randn(2, 4, 7, 6), torch.randn(4, 3, 3, 2) if transposed else torch.randn(6, 2, 3, 2)
    args = (x, w, None, [stride] * 2, [padding] * 2, [dilation] * 2, transposed, [extra] * 2, 2)
    got = TABLE[PRIMS["convolution"].overload](*[a.numpy() if isinstance(a, torch.Tensor) else a for a in args])
    torch.testing.assert_close(torch.from_numpy(np.ascontiguousarray(got)), torch.convolution(*args), rtol=1e-4, atol=1e-4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2)
        return self.out(nn.functional.dropout(x.flatten(2).softmax(-1).mean(-1), 0.5, self.training))


def test_training_follows_eager_with_what_numpy_lacks_left_to_pytorch():
    plain = Net()
    model = copy.deepcopy(plain)
    compiled = lamina.compile(model, backend=afternoon, fullgraph=True)
    x = torch.randn(2, 3, 8, 8)
    for call, owner in ((plain, plain), (compiled, model)):
        torch.manual_seed(0)
        call(x).square().mean().backward()
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-6, msg=name)
    torch.testing.assert_close(model.norm.running_mean, plain.norm.running_mean)


def test_low_precision_stays_with_pytorch():
    def program(x):
        return (x.bfloat16() @ x.bfloat16().t()).float() * 2

    x = torch.randn(4, 4)
    torch.testing.assert_close(lamina.compile(program, backend=afternoon)(x), program(x))
    from lamina_dynshape import FakeMode

    split = split_by_support(lower(trace(program, [FakeMode().from_real(x)])), supports)
    assert "lamina.mm.default" in [str(n.target) for n in split.graph.nodes]


def double(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize("name", THREE)
def test_models(name):
    built, exact = build(name), build(name)
    exact.module.double()
    exact.args, exact.kwargs = ([double(a) for a in exact.args], {k: double(a) for k, a in exact.kwargs.items()})
    with torch.no_grad():
        got = built(lamina.compile(built.module, backend=afternoon, fullgraph=True))
        assert compare(got, built(), exact()) is None
