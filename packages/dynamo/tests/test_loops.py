"""Loops whose number of turns changes between calls: nothing is compiled for a further length, results and effects are eager's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lamina_dynamo import graph_break, optimize
from lamina_dynshape.support.counters import counters


class Calls:
    """A compiled function beside the original: which calls made graphs, and that each gave what eager gives."""

    def __init__(self, fn: Any, **options: Any) -> None:
        self.fn, self.graphs, self.runs = fn, 0, 0
        self.compiled = optimize(fn, self._backend, **options)

    def _backend(self, gm: Any, examples: Any) -> Any:
        self.graphs += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return gm(*args)

        return run

    def made(self, inputs: Any) -> list[int]:
        """Numbers of the calls that made graphs."""
        out = []
        for i, args in enumerate(inputs):
            graphs, runs = self.graphs, self.runs
            got, want = self.compiled(*args), self.fn(*args)
            torch.testing.assert_close(got, want)
            assert self.runs > runs, f"call {i} ran eagerly"
            if self.graphs > graphs:
                out.append(i)
        return out


def lengths(*sizes: int, width: int = 3) -> list[tuple[torch.Tensor]]:
    torch.manual_seed(0)
    return [(torch.randn(2, n, width),) for n in sizes]


LENGTHS = (5, 7, 4, 9, 12, 3, 6)


def recurrent(x):
    h = torch.zeros(x.shape[0], x.shape[2])
    outs = []
    for t in range(x.size(1)):
        h = torch.tanh(x[:, t] + h)
        outs.append(h * 2)
    return torch.stack(outs, 1) + 1


def carried(x):
    h = x[:, 0]
    for t in range(1, x.shape[1]):
        h = h * 0.5 + x[:, t]
    return h.sum() + x.sum()


def rows(x):
    h = torch.zeros(x.shape[0], x.shape[2])
    for row in x.transpose(0, 1):
        h = torch.tanh(row + h)
    return h + 1


def two_loops(x):
    outs, n = [], x.shape[1]
    for t in range(n):
        outs.append(x[:, t].sin())
    y = torch.stack(outs, 1)
    outs = []
    for t in range(n - 1, -1, -1):
        outs.append(y[:, t] + x[:, t])
    return torch.stack(outs, 1)


def inner(x):
    return recurrent(x * 2).cos()


@pytest.mark.parametrize("fn", [recurrent, carried, rows, two_loops, inner])
def test_at_most_two_calls_compile(fn):
    assert Calls(fn).made(lengths(*LENGTHS)) == [0, 1]


@pytest.mark.parametrize("fn", [recurrent, carried, rows, two_loops])
def test_dynamic_compiles_once(fn):
    assert Calls(fn, dynamic=True).made(lengths(*LENGTHS)) == [0]


@pytest.mark.parametrize("fn", [recurrent, carried, rows])
def test_a_static_loop_is_unrolled_into_one_graph(fn):
    calls = Calls(fn, fullgraph=True)
    assert calls.made(lengths(5, 5)) == [0]
    assert calls.graphs == 1


def test_fullgraph_unrolls_with_the_length_guarded():
    calls = Calls(recurrent, fullgraph=True)
    assert calls.made(lengths(5, 7, 4)) == [0, 1, 2]
    assert calls.graphs == 3


def test_gradients_through_the_turns():
    calls = Calls(recurrent)
    w = torch.randn(3, requires_grad=True)
    for (x,) in lengths(5, 7, 4):
        got, want = [torch.autograd.grad(f(x * w).sum(), w)[0] for f in (calls.compiled, recurrent)]
        torch.testing.assert_close(got, want)


def test_what_else_is_done_with_the_list():
    def fn(x):
        outs = []
        for t in range(x.shape[1]):
            h = x[:, t] + (outs[-1] if outs else 1)
            outs.append(h)
            if len(outs) > 3:
                outs[0] = outs[0] * 2
        a, *rest = outs
        return a + len(outs), [*rest], x.sum()

    Calls(fn).made(lengths(*LENGTHS))


def test_one_list_by_two_names():
    def fn(x, first, second):
        for t in range(x.shape[1]):
            first.append(x[:, t] * 2)
            second.append(x[:, t] * 3)
        return x.sum()

    compiled = optimize(fn, lambda gm, examples: gm)
    for n, shared in [(4, False), (5, False), (6, True), (7, False), (3, True)]:
        x = torch.randn(2, n, 3)
        want, got = ([], []), ([], [])
        if shared:
            want, got = (want[0], want[0]), (got[0], got[0])
        torch.testing.assert_close(compiled(x, *got), fn(x, *want))
        torch.testing.assert_close(got, want)


def test_loops_over_results_of_unknown_length():
    def fn(x, mask):
        y = torch.zeros_like(x)
        for i in torch.where(mask)[0]:
            y[i] = x[i] * 2 + 1
        return y.sin()

    torch.manual_seed(1)
    inputs = [(torch.randn(8, 3), torch.arange(8) % k == 0) for k in (2, 3, 1, 4, 2, 8)]
    assert Calls(fn).made(inputs) == [0]


def test_reasons_are_counted():
    counters.clear()
    Calls(recurrent, dynamic=True).made(lengths(5))
    assert {"symbolic-loop", "growing-list"} <= set(counters["graph_breaks"])


def test_enumerated_modules_around_a_loop():
    """The iterator over the modules is live where the frame breaks."""

    class Layer(torch.nn.Module):
        def forward(self, x):
            out = torch.zeros_like(x)
            for t in range(x.shape[1]):
                out[:, t] = x[:, t] * 2 + out[:, t - 1]
            return out

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([Layer(), Layer()])

        def forward(self, x):
            for i, layer in enumerate(self.layers):
                x = layer(x) * (i + 1)
            return x

    assert Calls(Model()).made(lengths(*LENGTHS)) == [0, 1]


@pytest.mark.parametrize("layer", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_over_lengths_that_change(layer, batch_first):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer(3, 4, batch_first=batch_first)

        def forward(self, x):
            return self.layer(x * 2)[0].sin()

    inputs = [x if batch_first else x.transpose(0, 1).contiguous() for (x,) in lengths(*LENGTHS)]
    assert Calls(Model()).made([(x,) for x in inputs]) == [0, 1]


def test_views_whose_strides_change():
    """No size of the row says what its stride is."""

    def fn(x):
        return x.sin() + x.sum(0)

    calls = Calls(fn)
    assert calls.made([(torch.randn(2, n, 3)[:, 1],) for n in LENGTHS]) == [0, 1]
    assert calls.made([(torch.randn(4, 3),)]) == [0]


def test_numbers_in_cells_stay_symbolic_after_a_break():
    def fn(x):
        pad = (8 - x.shape[1] % 8) % 8

        def padded(v):
            return torch.nn.functional.pad(v, (0, 0, 0, pad)) + 1

        for _ in range(2):
            x = padded(x) * 2
            graph_break()
        return x.sin()

    assert Calls(fn).made(lengths(5, 7, 12, 4, 11, 14, 6)) == [0, 1]


def test_strides_of_a_dimension_of_size_one_may_be_anything():
    calls = Calls(lambda x: x.sin() + x[0])
    assert calls.made([(torch.randn(n, 4)[:, 1][:1],) for n in LENGTHS[:1]]) == [0]
    assert calls.made([(torch.empty_strided((1,), (n,)).fill_(n),) for n in (3, 5, 1, 0, 9)]) == [0]


def test_the_stride_of_a_dimension_of_size_one_is_seen():
    calls = Calls(lambda x: x * x.stride(0))
    calls.made([(torch.empty_strided((1, 3), (n, 1)).fill_(1),) for n in (3, 5, 1, 0, 9, 7)])


class Record:
    def __init__(self) -> None:
        self.log, self.other = [], []


APPENDS = {  # name: (what a call does with lists from outside, captures in six calls)
    "numbers": (lambda s, x: s.log.append(x.shape[0]), 2),
    "tensors": (lambda s, x: s.log.append(x.sum()), 2),
    "held by another name": (lambda s, x: ((log := s.log), log.append(1), s.log.append(log is None), log)[-1], 2),
    "returned": (lambda s, x: (s.log.append(4), {"log": s.log, "row": (s.log, 1)})[1], 2),
    "replaced": (lambda s, x: (s.log.append(4), setattr(s, "log", []), s.log.append(1))[1], 2),
    "put into another": (lambda s, x: (s.log.append(4), s.other.append(s.log))[1], 2),
    "one list by two names": (lambda s, x: (s.log.append(4), s.other.append(s.log), setattr(s, "other", s.log))[1], 6),
    "length": (lambda s, x: (len(s.log), s.log.append(1))[0], 6),
    "truth": (lambda s, x: ("some" if s.log else "none", s.log.append(1))[0], 6),
    "last item": (lambda s, x: (s.log.append(7), s.log[-1])[1], 6),
    "iteration": (lambda s, x: ([i for i in s.log], [*s.log], s.log.append(1))[:2], 6),
    "membership": (lambda s, x: (3 in s.log, s.log == [1, 1], s.log.append(1))[:2], 6),
    "text": (lambda s, x: (f"{s.log}", "%s" % s.log, s.log.append(1))[:2], 6),
    "native functions": (lambda s, x: (s.log.append(x.sum()), torch.stack(s.log), sum(s.log))[1:], 6),
    "other methods": (lambda s, x: (s.log.extend([1, 2]), s.log.pop(), s.log.copy())[1:], 6),
}


@pytest.mark.parametrize("name", APPENDS)
def test_lists_from_outside_that_are_only_appended_to(name):
    use, captures = APPENDS[name]
    made, counts = [], []
    counters.clear()
    for wrap in (lambda f: f, lambda f: optimize(f, lambda gm, examples: counts.append(1) or gm.forward)):
        record = Record()
        call, seen = wrap(lambda x: (use(record, x), x * 2)), []
        for i in range(6):
            out = call(torch.ones(3 + i % 2))
            seen.append(str((out, vars(record), record.log is record.other, out[0] is record.log)))
        made.append(seen)
    assert made[0] == made[1]
    assert len(counts) <= captures and not counters["graph_breaks"]


def test_a_list_that_is_read_in_one_branch_only():
    record = Record()

    def fn(x, flag):
        record.log.append(x.sum())
        return torch.stack(record.log).sum() if flag else x

    calls = optimize(fn, lambda gm, examples: gm.forward)
    for i, flag in enumerate((False, False, False, True, False, True)):
        out = calls(torch.ones(2), flag)
        assert len(record.log) == i + 1 and (not flag or out == 2 * (i + 1))
