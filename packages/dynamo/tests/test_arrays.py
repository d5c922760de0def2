"""NumPy arrays made from tensors: torch in the graph, with NumPy's dtypes and aliasing. Against eager, counted."""

import lamina_dynamo
import numpy as np
import pytest
import torch
from lamina_dynamo.convert import Converted, listening
from lamina_dynshape.support.counters import counters


def ufuncs(x):
    a = x.numpy()
    return np.sin(a), np.exp(a) + 1, a * 2.0, 2 - a, a / 3, a**2, np.maximum(a, 0), np.logical_and(a > 0, a < 3), -a, abs(a), np.sqrt(np.abs(a)), a // 2, a % 2, np.hypot(a, a)


def promotion(x):
    a, i, h = x.numpy(), torch.arange(6).reshape(2, 3).numpy(), torch.arange(6, dtype=torch.int32).reshape(2, 3).numpy()
    return i / 2, a + i, a + h, np.sin(i), i + 1, i + 1.5, h * h, h + i, (a > 0) + 1, a + np.float64(1), a + np.float32(1), h.mean(), i.sum(), (a > 0).sum(), h.sum(), h.std(), np.where(a > 0, h, 1.5), np.concatenate([a, i]), (a > 0) * a


def reductions(x):
    a = x.numpy()
    return a.sum(), a.mean(0), a.max(axis=1, keepdims=True), np.std(a, ddof=1), a.var(axis=(0, 1)), a.argmax(), a.argmin(1), np.cumsum(a), a.cumsum(1), a.prod(), np.prod(a, axis=0), (a > 1).any(), np.all(a < 10, axis=0), a.min()


def shapes(x):
    a = x.numpy()
    return a.reshape(3, 2), a.T, a.reshape(-1), a.ravel(), a.flatten(), np.transpose(a, (1, 0)), np.expand_dims(a, 0).squeeze(0), a.shape, a.ndim, a.size, a.dtype == np.float32, a[:, None].shape, len(a), np.moveaxis(a, 0, 1), np.swapaxes(a, 0, 1), a.itemsize, a.nbytes


def items(x):
    a = x.numpy()
    return a[0], a[0, 1], a[:, 1:], a[..., 0], a[[0, 1, 0]], a[a > 1], a[np.array([1, 0])], a[-1, ::2], a[0][1], a[None].shape, [r.sum() for r in a]


def joined(x):
    a = x.numpy()
    return np.concatenate([a, a], axis=1), np.stack([a, a + 1]), np.vstack([a, a]), np.hstack([a, a]), np.dot(a, a.T), a @ a.T, np.einsum("ij,kj->ik", a, a), np.tile(a, 2), np.repeat(a, 2, axis=0), np.roll(a, 1), np.flip(a, 0), np.clip(a, 0, 2), a.clip(1, None)


def kinds(x):
    a = x.numpy()
    return type(a), isinstance(a, np.ndarray), type(a.sum()), isinstance(a[0, 0], np.floating), isinstance(a.mean(), float), type(a[0])


def back(x):
    a = x.numpy() * 2
    return torch.from_numpy(a) + 1, torch.as_tensor(a), torch.tensor(a), torch.from_numpy(a.astype(np.float64)).dtype, torch.from_numpy(np.asarray(x)), np.array(x)


def writes(x):
    y = x.clone()
    a = y.numpy()
    a += 1
    a[0] = 7
    z = torch.from_numpy(a)
    z.mul_(2)
    a[:, 1] *= 3
    np.add(a, 1, out=a)
    return y, z, a


def writes_the_input(x):
    a = x.numpy()
    a[0, 0] = 100
    a *= 2
    return a.sum()


def constants(x):
    a = x.numpy()
    table = np.linspace(0, 1, 3)
    b = torch.from_numpy(np.arange(3.0)).add_(1)
    return a + table, b, torch.as_tensor(np.arange(2)), torch.tensor(np.float32(2)), np.zeros((2, 3)) + a, np.zeros_like(a), np.ones_like(a, dtype=np.int64), np.full_like(a, 3)


def detached(x):
    w = x.clone().requires_grad_()
    y = (w * 2).sin()
    return y, torch.from_numpy(y.detach().numpy() * 2), w.numpy(force=True)


def fails(x):
    w = x.clone().requires_grad_()
    try:
        w.numpy()
    except RuntimeError as e:
        return str(e)


PROGRAMS = [ufuncs, promotion, reductions, shapes, items, joined, kinds, back, writes, writes_the_input, constants, detached, fails]


def assert_same(got, want):
    assert type(got) is type(want), (type(got), type(want))
    if isinstance(want, (np.ndarray, np.generic)):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    elif isinstance(want, torch.Tensor):
        assert got.requires_grad == want.requires_grad
        torch.testing.assert_close(got, want)
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            assert_same(g, w)
    else:
        assert got == want


def X():
    return torch.arange(6.0).reshape(2, 3) - 1


def compiled(program, **options):
    counters.clear()
    return lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, **options)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_program_is_one_graph(program):
    fast, events = compiled(program), []
    with listening(events.append):
        for _ in range(2):
            x, y = X(), X()
            assert_same(fast(x), program(y))
            torch.testing.assert_close(x, y)
    assert len(events) == 1 and isinstance(events[0], Converted) and events[0].break_reason is None, [str(e.break_reason if isinstance(e, Converted) else e) for e in events]


def test_memory_is_shared():
    def program(x):
        y = x + 1
        a = y.numpy()
        return y, a, torch.from_numpy(a[0]), a.reshape(3, 2)

    for fn in (program, compiled(program)):
        y, a, z, b = fn(X())
        y[0, 0] = 50
        assert a[0, 0] == 50 and z[0] == 50 and b[0, 0] == 50


def test_sizes_that_change():
    def program(x):
        a = x.numpy()
        return a / a.shape[0], a.sum(0) * len(a), a.reshape(-1)

    fast = compiled(program)
    for n in (2, 3, 4, 5):
        assert_same(fast(torch.ones(n, 3)), program(torch.ones(n, 3)))
    assert counters["graphs"]["captured"] == 2


@pytest.mark.parametrize("program", [
    lambda x: np.linalg.svd(x.numpy())[1],
    lambda x: x.numpy()[::-1].copy(),
    lambda x: np.percentile(x.numpy(), 30),
    lambda x: str(x.numpy()),
    lambda x: x.numpy().tolist(),
    lambda x: np.array([x.numpy(), x.numpy()]),
    lambda x: torch.add(x, torch.from_numpy(x.numpy().astype(np.int32))),
    lambda x: (x.numpy().astype(np.int64) // 0 if False else x.numpy().astype(np.int64)),
    lambda x: np.sin(x),
    lambda x: x.numpy().strides,
    lambda x: "big" if x.numpy().sum() > 1 else "small",
    lambda x: float(x.numpy().sum()),
])  # fmt: skip
def test_what_has_no_entry_breaks_and_is_right(program):
    fast = compiled(program)
    for _ in range(2):
        assert_same(fast(X()), program(X()))


def test_a_break_keeps_the_memory():
    def program(x):
        y = x.clone()
        a = y.numpy()
        a += 1
        lamina_dynamo.graph_break()
        a *= 3
        return y, a, a.sum()

    fast = compiled(program)
    for _ in range(2):
        assert_same(fast(X()), program(X()))
    assert counters["graph_breaks"]["graph-break"] == 1


def test_an_array_from_outside_breaks():
    def program(x, a):
        return x.numpy() + a

    fast = compiled(program)
    for i in range(2):
        a = np.full((2, 3), float(i))
        assert_same(fast(X(), a), program(X(), a))


def through_an_iterator(x, arrays):
    return x + np.fromiter((a[0] for a in arrays), dtype=np.float32).sum()


def through_a_view_of_a_dictionary(x, arrays):
    return x + sum(np.asarray(list({i: a for i, a in enumerate(arrays)}.values()))[:, 0])


def through_a_function(x, arrays):
    return x + np.vectorize(lambda i: i + arrays[0][0])(np.arange(2)).sum()


def joined_by_numpy_itself(x, arrays):
    return x + torch.tensor(np.stack(arrays))


@pytest.mark.parametrize("program", [through_an_iterator, through_a_view_of_a_dictionary, through_a_function, joined_by_numpy_itself])
def test_what_arrays_from_outside_hold_is_read_at_each_call(program):
    fast = compiled(program)
    for start in (0.0, 5.0):
        arrays = [np.arange(start, start + 2, dtype=np.float32), np.full(2, start, dtype=np.float32)]
        assert_same(fast(torch.ones(2), arrays), program(torch.ones(2), arrays))


def test_numbers_that_change_in_arrays_made_in_the_frame():
    """NumPy would make arrays of objects from symbolic numbers."""

    def f(x, n, s):
        ramp = np.linspace(0, 1, 4, dtype=np.float32) ** n
        ones = np.ones(4)
        ones *= s
        return torch.from_numpy(ramp) * x, (np.float32(2) * s).dtype.name, np.add(ones, n).tolist(), np.array([s, n, 1.0]).sum().item()

    lamina_dynamo.reset()
    counters.clear()
    compiled = lamina_dynamo.optimize(f, lambda gm, inputs: gm.forward)
    for n, s in ((2, 0.5), (3, 0.7), (4, 0.8)):
        x = torch.randn(4)
        got, want = compiled(x, n, s), f(x, n, s)
        assert torch.equal(got[0], want[0]) and got[1:] == want[1:]
    assert not counters["graph_breaks"]
