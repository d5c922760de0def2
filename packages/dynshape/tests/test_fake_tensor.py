"""FakeTensor and FakeMode: what Python sees, aliasing, autograd and functionalization above fakes."""

import copy
import gc
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from lamina_dynshape import DataDependent, FakeMode, FakeTensor, fake_mode_of, is_wrapper_class
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import InternalError, Unsupported


@pytest.fixture
def mode():
    return FakeMode()


def backward(outputs, inputs):
    grads = tuple(torch.ones_like(o) for o in outputs)
    return torch.autograd.Variable._execution_engine.run_backward(
        tuple(outputs), grads, False, False, tuple(inputs), True, accumulate_grad=False
    )


def test_attributes_are_those_of_the_real_tensor(mode):
    for t in (torch.randn(2, 3), torch.randn(4, 3, 5, 6).contiguous(memory_format=torch.channels_last), torch.arange(6).view(2, 3).t(), torch.ones(())):
        f = mode.from_real(t)
        assert (f.shape, f.stride(), f.dtype, f.device, f.storage_offset()) == (t.shape, t.stride(), t.dtype, t.device, t.storage_offset())
        assert f.is_contiguous() == t.is_contiguous() and f.layout is t.layout and f.is_cpu
        assert f.numel() == t.numel() and f.itemsize == t.itemsize and f.is_leaf == t.is_leaf
        if t.dim() == 4:
            assert f.is_contiguous(memory_format=torch.channels_last) == t.is_contiguous(memory_format=torch.channels_last)
        assert mode.from_real(t) is f and fake_mode_of([1, {"a": f}]) is mode and f.fake_mode is mode


def test_parameters_and_leaves(mode):
    w = nn.Parameter(torch.randn(3, 3))
    f = mode.from_real(w)
    assert isinstance(f, nn.Parameter) and f.requires_grad and f.is_leaf and f.grad_fn is None
    hidden = mode.from_real(w * 2)
    assert not hidden.is_leaf and hidden.requires_grad and not hidden._is_view()
    w.grad = torch.ones(3, 3)
    other = FakeMode().from_real(w)
    assert isinstance(other.grad, FakeTensor) and other.grad.shape == (3, 3)


def test_views_keep_base_and_storage(mode):
    base = torch.zeros(4, 4)
    row, transposed = base[1], base.t()
    fakes = [mode.from_real(t) for t in (row, transposed, base)]
    assert len({f.storage_key for f in fakes}) == 1
    assert fakes[0]._base is fakes[2] and fakes[0].storage_offset() == 4
    before = fakes[2]._version
    fakes[0].add_(1)
    assert fakes[2]._version == before + 1
    assert mode.from_real(torch.zeros(4)).storage_key != fakes[0].storage_key


def test_view_of_a_non_leaf_base(mode):
    base = torch.zeros(4, 4, requires_grad=True) * 2
    view = base[1]
    f = mode.from_real(view)
    assert f._is_view() and f.requires_grad and not f.is_leaf


def test_metadata_mutation(mode):
    x = mode.from_real(torch.randn(2, 1, 3))
    x.squeeze_(1)
    assert x.shape == (2, 3) == x.sizes
    x.t_()
    assert x.shape == (3, 2) and x.stride() == (1, 3)
    x.unsqueeze_(0)
    assert x.shape == (1, 3, 2)
    x.resize_(5, 100)
    assert x.shape == (5, 100) and x.sizes == (5, 100)
    y = mode.from_real(torch.zeros(2))
    y.data = mode.from_real(torch.zeros(3, 3))
    assert y.shape == (3, 3) == y.sizes


def test_autograd_through_fakes(mode):
    w = mode.from_real(nn.Parameter(torch.randn(8, 4)))
    x = mode.from_real(torch.randn(5, 4, requires_grad=True))
    with mode:
        y = nn.functional.layer_norm(nn.functional.gelu(nn.functional.linear(x, w)), (8,)).softmax(-1)
        loss = y.sum()
        assert y.grad_fn is not None
        gw, gx = backward([loss], [w, x])
    assert gw.shape == w.shape and gx.shape == x.shape and isinstance(gw, FakeTensor)


def test_functionalization_above_fakes(mode):
    x = mode.from_real(torch.randn(3, 4))
    functional = torch._to_functional_tensor(x)
    with mode:
        torch._enable_functionalization(reapply_views=True)
        try:
            functional.view(-1).add_(1)
            result = functional * 2
        finally:
            torch._disable_functionalization()
    torch._sync(functional)
    assert torch._functionalize_has_data_mutation(functional)
    assert isinstance(torch._from_functional_tensor(result), FakeTensor)
    assert torch._from_functional_tensor(functional).shape == (3, 4)


@pytest.mark.parametrize("use", [
    lambda x: x.item(), bool, int, float, lambda x: x.tolist(), lambda x: x.numpy(), lambda x: x.data_ptr(), lambda x: x.nonzero(),
    lambda x: x[x > 0], lambda x: torch.equal(x, x), lambda x: torch.unique(x), lambda x: x.masked_select(x > 0),
])
def test_data_is_refused(mode, use):
    with mode, pytest.raises(DataDependent) as error:
        use(mode.from_real(torch.ones(())) if use in (bool, int, float) else mode.from_real(torch.ones(1)))
    assert "data-dependent" in error.value.what


def test_repr_does_not_dispatch(mode):
    x = mode.from_real(torch.ones(2, 3))
    counters["fake"].clear()
    assert repr(x) == "FakeTensor(float32[2, 3], stride=(3, 1))" and f"{x}" == str(x) == repr(x)
    assert not counters["fake"]


def test_copies_are_fakes(mode):
    w = mode.from_real(nn.Parameter(torch.randn(3, 2)))
    for c in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert isinstance(c, FakeTensor) and isinstance(c, nn.Parameter) and c.shape == w.shape and c.requires_grad
        assert c.storage_key != w.storage_key
    shared = [w, w]
    copied = copy.deepcopy(shared)
    assert copied[0] is copied[1]


def test_real_tensors_meet_fakes():
    mode = FakeMode()
    x, c = mode.from_real(torch.ones(3)), torch.ones(3)
    with mode:
        y = x + c
    assert isinstance(y, FakeTensor) and mode.constants[0][0] is c
    strict = FakeMode(allow_real=False)
    with strict, pytest.raises(Unsupported, match="real tensor"):
        strict.from_real(torch.ones(3)) + c


def test_two_modes_do_not_mix():
    a, b = FakeMode().from_real(torch.ones(2)), FakeMode()
    with pytest.raises(InternalError):
        b.from_real(a)


def test_errors_are_those_of_eager(mode):
    a, b = torch.ones(3, 4), torch.ones(5, 4)
    for f in (lambda x, y: x + y, lambda x, y: x @ y, lambda x, y: torch.cat([x, y], 1), lambda x, y: x.view(7), lambda x, y: x.add_(y),
              lambda x, y: x.expand(2, 2), lambda x, y: x[:, 9], lambda x, y: x.sum(5), lambda x, y: nn.functional.layer_norm(x, (3,))):
        with pytest.raises(Exception) as real:
            f(a, b)
        with mode, pytest.raises(type(real.value)) as fake:
            f(mode.from_real(a), mode.from_real(b))
        assert str(fake.value)[:30] == str(real.value)[:30]


def test_memo_does_not_keep_the_real_tensor(mode):
    t = torch.ones(2)
    mode.from_real(t)
    assert mode._memo
    del t
    gc.collect()
    assert not mode._memo


def test_meta_fallback_is_counted(mode):
    counters["fake"].clear()
    with mode:
        q = torch.segment_reduce(mode.from_real(torch.randn(4, 3)), "sum", lengths=mode.from_real(torch.tensor([1, 3])))
    assert q.shape == (2, 3) and counters["fake"]["meta aten::segment_reduce"] == 1


def test_neither_dynamo_nor_sympy_is_imported():
    program = """
import sys, torch
from lamina_dynshape import FakeMode, ShapeEnv
mode = FakeMode(ShapeEnv())
x = mode.from_real(torch.randn(4, 6, requires_grad=True), source="x", dynamic_dims=[0])
with mode:
    y = torch.nn.functional.layer_norm(x.relu() + torch.ones(6), (6,)).sum()
    torch.autograd.Variable._execution_engine.run_backward((y,), (torch.ones(()),), False, False, (x,), True, accumulate_grad=False)
assert "torch._dynamo" not in sys.modules and "torch._inductor" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_literals_keep_their_value(mode):
    x = mode.from_real(torch.ones(4))
    with mode:
        n = torch.tensor([3, 5])
        assert isinstance(n, FakeTensor) and n.tolist() == [3, 5] and (n * 2 + 1)[0].item() == 7
        assert int(torch.tensor(2) // 1) == 2 and bool(n[0] < n[1]) and x[: n[0]].shape == (3,)
        assert torch.ones(2).constant is None
        view = n[:1]
        n.add_(1)
        assert view.item() == 4
        view.copy_(x[:1])  # unknown from here on
        with pytest.raises(DataDependent):
            n[0].item()
        m = torch.tensor([1.0, 2.0])
        m.bernoulli_()
        with pytest.raises(DataDependent):
            m[0].item()


def test_a_wrapper_answers_for_itself():
    seen = []

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        def __init__(self, inner):
            self.inner = inner

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            seen.append(func)
            return Wrapper(func(*[a.inner if isinstance(a, Wrapper) else a for a in args]))

    mode = FakeMode()
    x = mode.from_real(torch.ones(2))
    with mode:
        out = Wrapper(x) + x
    assert type(out) is Wrapper and type(out.inner) is FakeTensor and seen == [torch.ops.aten.add.Tensor]
    assert is_wrapper_class(Wrapper) and not is_wrapper_class(FakeTensor) and not is_wrapper_class(torch.nn.Parameter)
