"""What a compiled function returns shares memory with its inputs and other results exactly where eager's does, and is not changed by later writes."""

import pytest
import torch
import torch.nn.functional as F

import lamina


def twice(second):
    def program(w):
        v = w[:, 0] * 2
        return v, second(v)
    return program


def of_a_sum(second):
    def program(w):
        v = w.sum()
        return v, second(v)
    return program


PROGRAMS = {
    "clone of an element": lambda w: w[0, 0].clone(), "clone of a row": lambda w: w[0].clone(), "clone of a column": lambda w: w[:, 0].clone(),
    "clone transposed": lambda w: w.t().clone(), "clone flat": lambda w: w.flatten().clone(), "clone of a part": lambda w: w.tensor_split(2)[0].clone(),
    "clone with a dimension more": lambda w: torch.atleast_3d(w).clone(), "copied": lambda w: torch.empty(4, 4).copy_(w),
    "stack of one": lambda w: torch.stack([w]), "stack of one row": lambda w: torch.stack([w[0]]), "cat of one": lambda w: torch.cat([w]),
    "sum of one": lambda w: w[0, 0].sum(), "sum over one": lambda w: w[None].sum(0), "repeated once": lambda w: w.repeat(1, 1), "tiled once": lambda w: torch.tile(w, (1,)),
    "views": lambda w: (w[0], w.t(), w[0].clone(), w.t()[1:]),
    "sum of a sum": of_a_sum(torch.sum), "mean of a sum": of_a_sum(torch.mean), "maximum of a sum": of_a_sum(torch.amax), "product of a sum": of_a_sum(torch.prod),
    "cumulative": of_a_sum(lambda v: v.cumsum(0)), "sorted": of_a_sum(lambda v: v.sort().values), "norm": of_a_sum(torch.norm),
    "plus nothing": twice(lambda v: v + 0), "times one": twice(lambda v: v * 1), "to the first": twice(lambda v: v**1), "no dropout": twice(lambda v: F.dropout(v, 0.0)),
    "dropout in evaluation": twice(lambda v: F.dropout(v, 0.5, False)), "no padding": twice(lambda v: F.pad(v, (0, 0))), "stacked": twice(lambda v: torch.stack([v])),
    "copied by to": twice(lambda v: v.to(torch.float32, copy=True)), "same": twice(lambda v: v.contiguous()), "view": twice(lambda v: v.view(2, 2)), "both": lambda w: (w * 2, w * 2),
    "transposed": lambda w: ((v := w * 2), (w * 2).t(), v.t()),
}  # fmt: skip


def sharing(tensors):
    return [[a is b or 2 * (a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()) for b in tensors] for a in tensors]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_sharing(program, requires_grad):
    w = torch.arange(16.0).reshape(4, 4).requires_grad_(requires_grad)
    want, got = ([w, *(out if isinstance(out, tuple) else (out,))] for out in (program(w), lamina.compile(program)(w)))
    assert sharing(got) == sharing(want) and [t.stride() for t in got] == [t.stride() for t in want]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("copy", [lambda w: w[0].clone(), lambda w: w.t().clone(), lambda w: torch.stack([w[0]]), lambda w: w[:1].sum(0), lambda w: torch.cat([w.t()])])
def test_a_copy_of_what_is_written_afterwards(copy):
    def program(w):
        before = copy(w)
        w.add_(1)
        return before

    ours, eager = (torch.arange(16.0).reshape(4, 4) for _ in range(2))
    assert torch.equal(lamina.compile(program)(ours), program(eager)) and torch.equal(ours, eager)


@pytest.mark.parametrize("make", [lambda: torch.tensor([1.0, 2.0]), lambda: torch.stack([torch.tensor(1.0)]), lambda: torch.tensor([1.0, 2.0]).view(2, 1), lambda: torch.ones(3), lambda: torch.cat([torch.arange(3.0)])])
def test_constants_are_made_anew(make):
    compiled = lamina.compile(lambda x: (make(), x + 1))
    for _ in range(3):
        constant, _ = compiled(torch.zeros(2))
        assert torch.equal(constant, make())
        constant.add_(1)


def test_gradients_that_are_scaled_in_place():
    """As by clipping: no gradient shares memory with another one."""
    def gradients(compile):
        torch.manual_seed(0)
        x, ps = torch.randn(1, 4), [torch.randn(n, requires_grad=True) for n in ((4, 4), (4,), (4,), (1, 4), (1, 1, 4))]
        compile(lambda w, a, b, c, d: ((x @ w + a + b + c).view(1, 1, 4) + d).sin().sum())(*ps).backward()
        for p in ps:
            p.grad.mul_(0.5)
        return [p.grad for p in ps]

    for a, b in zip(gradients(lamina.compile), gradients(lambda f: f), strict=True):
        torch.testing.assert_close(a, b)
