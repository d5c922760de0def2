"""PyTorch as people use it: small programs against eager, results and effects and gradients, and the graph breaks that they cost."""

import collections.abc
import functools
import itertools
import logging
import re
import sys

import lamina_dynamo
import numpy as np
import pytest
import torch
from lamina_dynshape.support.counters import counters


def compile_counting(program, **options):
    counters.clear()
    return lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, **options)


def breaks():
    return dict(counters["graph_breaks"])


# ---- what model libraries do on the way ----------------------------------------------------------------------------------
SEEN: list[str] = []


class _Keeps(logging.Handler):
    def emit(self, record):
        SEEN.append(record.getMessage())


LOGGER, OTHER = logging.getLogger("lamina.test.usage"), logging.getLogger("lamina.test.usage.other")
LOGGER.addHandler(_Keeps())
LOGGER.propagate = False


@functools.lru_cache(None)
def warn_once(logger, text):
    logger.warning(text)


def test_a_cached_warning_is_shown_once():
    def program(x, logger):
        warn_once(logger, "take care")
        return x + 1

    SEEN.clear()
    fast = compile_counting(program)
    for logger, shown in ((LOGGER, 1), (LOGGER, 1), (OTHER, 2)):
        assert torch.equal(fast(torch.ones(2), logger), torch.full((2,), 2.0))
        assert len(SEEN) == shown
    assert breaks() == {}


def test_numpy_functions_on_constants_of_the_frame():
    def program(x):
        table = np.stack([np.zeros(2, dtype=np.int64), np.arange(2)], axis=0)
        return x + torch.tensor(table)

    fast = compile_counting(program)
    assert torch.equal(fast(torch.ones(2)), program(torch.ones(2))) and breaks() == {}


class Layers(collections.abc.Sequence):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i >= 4:
            raise IndexError
        return i


def _closes_quietly(log):
    try:
        for i in range(5):
            yield i
    except (ValueError, KeyError):
        log.append("no")


def _closes_loudly(log):
    try:
        for i in range(5):
            yield i
    except BaseException:
        log.append("closed")
        raise


@pytest.mark.parametrize("iterable, whole", [(lambda log: Layers(), True), (_closes_quietly, True), (_closes_loudly, False)])
def test_iterators_left_behind(iterable, whole):
    def program(x):
        log = []
        for a, b in zip([1, 2], iterable(log)):
            x = x + a * b
        return x, log

    fast = compile_counting(program)
    got, expected = fast(torch.ones(2)), program(torch.ones(2))
    assert torch.equal(got[0], expected[0]) and got[1] == expected[1]
    assert (breaks() == {}) == whole


# ---- a whole training step ------------------------------------------------------------------------------------------------
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def step_zeroes_first(m, opt):
    def step(x):
        opt.zero_grad()
        loss = m(x).pow(2).mean()
        loss.backward()
        opt.step()
        return loss.detach()

    return step


def step_zeroes_last(m, opt):
    def step(x):
        loss = torch.nn.functional.cross_entropy(m(x), torch.tensor([0, 1, 0]))
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        opt.step()
        opt.zero_grad()
        return loss, norm

    return step


def step_accumulates(m, opt):
    def step(x):
        for part in (x, x * 2):
            (m(part).sum() / 2).backward()
        return x + 1

    return step


def step_of_some(m, opt):
    def step(x):
        torch.autograd.backward([m(x).sum(), m(x + 1).sum()], inputs=[m[0].weight])
        return m[0].weight.grad * 2

    return step


def step_with_penalty(m, opt):
    def step(x):
        x = x.detach().requires_grad_(True)
        y = m(x).sum()
        (y + torch.autograd.grad(y, x, create_graph=True)[0].pow(2).sum()).backward()
        return x.grad

    return step


def step_with_expanded_gradient(m, opt):
    def step(x):
        (m[2].bias.sum() + m[0].weight.t().sum()).backward()
        m[2].bias.grad.add_(1)
        return [p.grad.stride() if p.grad is not None else None for p in m.parameters()]

    return step


STEPS = [step_zeroes_first, step_zeroes_last, step_accumulates, step_of_some, step_with_penalty, step_with_expanded_gradient]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("make", STEPS, ids=lambda f: f.__name__)
def test_a_training_step_is_one_graph(make, kind):
    def run(compiled):
        m = model()
        step = compiled(make(m, kind(m.parameters(), lr=0.1)))
        return [step(X + i) for i in range(3)], [p.detach().clone() for p in m.parameters()], [p.grad for p in m.parameters()]

    expected = run(lambda f: f)
    torch.testing.assert_close(run(lambda f: compile_counting(f, fullgraph=True)), expected)
    assert breaks() == {} and counters["graphs"]["captured"] <= 2


def test_backward_raises_as_in_eager():
    def not_a_scalar(x):
        (x * 2).backward()

    def twice(x):
        y = (x * x).sum()
        y.backward()
        y.backward()

    for program, message in ((not_a_scalar, "scalar outputs"), (twice, "a second time")):
        with pytest.raises(RuntimeError, match=message):
            compile_counting(program)(X.clone().requires_grad_())


def test_backward_beyond_the_function_is_a_break():
    def program(y):
        (y * 2).sum().backward()

    x = X.clone().requires_grad_()
    compile_counting(program)(x * 3)
    assert torch.equal(x.grad, torch.full((3, 4), 6.0)) and breaks() == {"autograd": 1}


def test_backward_to_a_leaf_with_hooks_is_a_break():
    m, seen = model(), []
    fast = compile_counting(lambda x: m(x).sum().backward())
    fast(X)
    assert breaks() == {}
    m[0].weight.register_hook(lambda g: seen.append(1))
    fast(X)
    assert seen == [1] and breaks()["tensor-hook"] >= 1


def test_module_backward_hooks_run():
    def run(compiled):
        m, seen = model(), []
        m[0].register_full_backward_hook(lambda module, gi, go: seen.append(go[0].sum()))
        m[2].register_full_backward_pre_hook(lambda module, go: (go[0] * 2,))
        compiled(m)(X).sum().backward()
        return seen, [p.grad for p in m.parameters()]

    expected = run(lambda m: m)
    assert len(expected[0]) == 1
    torch.testing.assert_close(run(lambda m: lamina_dynamo.optimize(m.forward, lambda gm, inputs: gm.forward)), expected)


def test_cond_takes_the_branch_in_the_graph():
    def program(x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    fast = compile_counting(program)
    for x in (X + 1, X - 1):
        assert torch.equal(fast(x), x.sin() if x.sum() > 0 else x.cos())
    assert breaks() == {} and counters["graphs"]["captured"] == 1


def test_callbacks_given_by_name_are_the_programs():
    seen = []

    def program(x):
        return x + 1, [k for k, _ in itertools.groupby([1, 2], key=lambda v: seen.append(v) or v)]

    fast = compile_counting(program)
    for n in (1, 2, 3):
        assert fast(torch.ones(2))[1] == [1, 2] and seen == [1, 2] * n


# ---- breaks in closures ----------------------------------------------------------------------------------------------------
def test_what_follows_a_break_in_a_closure_is_captured_once():
    scale = torch.tensor(2.0)

    def program(x):
        x = x * scale
        lamina_dynamo.graph_break()
        return x + scale

    fast = compile_counting(program)
    for _ in range(4):
        assert torch.equal(fast(torch.ones(2)), torch.full((2,), 4.0))
    assert counters["frames"]["captured"] == 2


class Breaks(torch.nn.Module):
    def forward(self, x):
        lamina_dynamo.graph_break()
        return x * 2


def test_a_container_that_runs_eagerly_is_captured_inside():
    m = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)), Breaks())

    def program(x):
        return m(x) + 1

    fast = compile_counting(program)
    for _ in range(2):
        assert torch.equal(fast(torch.ones(3, 2)), m(torch.ones(3, 2)) + 1)
    assert breaks() == {"graph-break": 3, "foreign-iterator": 1}  # in the program, in the container, in its second layer; the end of the container's loop
    assert counters["graphs"]["captured"] == 3  # the first layer, the second, the addition


@functools.lru_cache(None)
def _slopes(heads):
    return tuple(2.0 ** (-8 / heads * (i + 1)) for i in range(heads))


def test_a_cached_function_of_a_size_that_changes():
    def f(q):
        return q * torch.tensor(_slopes(q.shape[0]))[:, None]

    counters.clear()
    compiled = lamina_dynamo.optimize(f, lambda gm, inputs: gm.forward)
    for heads in (4, 6, 3):
        q = torch.randn(heads, 5)
        assert torch.equal(compiled(q), f(q))
    assert not counters["graph_breaks"]


def test_a_tracer_written_in_python_may_look_on():
    def tracer(frame, event, arg):
        events.append(event)
        return tracer

    def program(x):
        return torch.nn.functional.softmax(x, 0), sorted([3, 1], key=lambda v: -v), re.compile("q+").pattern

    events = []
    compiled = lamina_dynamo.optimize(program, lambda gm, examples: gm.forward, fullgraph=True)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        got = compiled(torch.zeros(2))
    finally:
        sys.settrace(before)
    assert got[1:] == ([3, 1], "q+") and events


def test_an_object_made_in_the_frame_that_asks_for_its_own_dictionary():
    class Config:
        def __init__(self, n):
            self.n = n

        def __getattribute__(self, name):
            return super().__getattribute__("__dict__").get("_" + name, super().__getattribute__(name))

    def program(x):
        c = Config(3)
        c._n = 4
        return x * c.n, len(c.__dict__)

    compiled = lamina_dynamo.optimize(program, lambda gm, examples: gm.forward, fullgraph=True)
    assert compiled(torch.ones(1)) == program(torch.ones(1)) == (4, 2)
