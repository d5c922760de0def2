"""Packed sequences: pack, recurrent layers, pad. Captured whole where the lengths are known, else a break with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence, unpack_sequence

import lamina

BACKENDS = ["eager", "aot_eager", "inductor"]


class Encoder(nn.Module):
    def __init__(self, kind: str, batch_first: bool = True, enforce_sorted: bool = True, **options: Any) -> None:
        super().__init__()
        cls, extra = (nn.RNN, {"nonlinearity": "relu"}) if kind == "relu" else (getattr(nn, kind), {})
        self.rnn = cls(4, 5, batch_first=batch_first, **extra, **options)
        self.batch_first, self.enforce_sorted = batch_first, enforce_sorted

    def forward(self, x: Tensor, lengths: Any, hx: Any = None) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=self.batch_first, enforce_sorted=self.enforce_sorted)
        out, last = self.rnn(packed, hx)
        padded, found = pad_packed_sequence(out, batch_first=self.batch_first, padding_value=-1.0)
        return padded, found, last


def flat(out: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(out)


def run(net: nn.Module, fn: Any, *args: Any) -> list[Tensor]:
    net.zero_grad()
    out = flat(fn(*args))
    sum(t.pow(2).sum() for t in out if t.is_floating_point()).backward()
    return [t.detach() for t in out] + [p.grad.clone() for p in net.parameters()]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "options"), [
    ("LSTM", {}), ("GRU", {"num_layers": 2, "bidirectional": True}), ("RNN", {"batch_first": False}), ("relu", {"bias": False}),
    ("LSTM", {"bidirectional": True, "num_layers": 2, "enforce_sorted": False}), ("GRU", {"enforce_sorted": False, "batch_first": False}),
])  # fmt: skip
def test_known_lengths(kind, options, backend):
    torch.manual_seed(0)
    net = Encoder(kind, **options)
    lengths = [2, 5, 1, 5] if options.get("enforce_sorted") is False else [5, 3, 3, 1]
    x = torch.randn(4, 6, 4) if net.batch_first else torch.randn(6, 4, 4)
    lamina.counters.clear()
    fast = lamina.compile(net, backend=backend, fullgraph=True)
    for _ in range(2):
        for got, want in zip(run(net, fast, x, lengths), run(net, net, x, lengths), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert lamina.counters["graphs"]["captured"] == 1 and not {k for k in lamina.counters["fallbacks"] if "sort" not in k}


def test_equal_to_the_last_bit():
    torch.manual_seed(0)
    net = Encoder("LSTM", bidirectional=True, num_layers=2, enforce_sorted=False)
    x = torch.randn(3, 6, 4)
    for got, want in zip(flat(lamina.compile(net, backend="eager", fullgraph=True)(x, [2, 6, 4])), flat(net(x, [2, 6, 4])), strict=True):
        assert torch.equal(got, want)


def test_initial_states_and_dropout():
    torch.manual_seed(0)
    net = Encoder("LSTM", num_layers=2, dropout=0.5, enforce_sorted=False)
    x, hx = torch.randn(3, 6, 4), (torch.randn(2, 3, 5), torch.randn(2, 3, 5))
    fast = lamina.compile(net, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.manual_seed(1)
        want = flat(net(x, [2, 6, 4], hx))
        torch.manual_seed(1)
        for got, w in zip(flat(fast(x, [2, 6, 4], hx)), want, strict=True):
            assert torch.equal(got, w)


def test_lists_of_sequences():
    def program(a: Tensor, b: Tensor) -> Any:
        packed = pack_sequence([a, b], enforce_sorted=False)
        return packed, unpack_sequence(packed), pad_sequence([a, b], batch_first=True), pad_packed_sequence(packed, total_length=7)

    a, b = torch.randn(2, 3), torch.randn(4, 3)
    got, want = lamina.compile(program, backend="eager", fullgraph=True)(a, b), program(a, b)
    assert type(got[0]) is PackedSequence
    for g, w in zip(flat(tuple(got[0])) + flat(got[1:]), flat(tuple(want[0])) + flat(want[1:]), strict=True):
        assert torch.equal(g, w)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lengths_in_a_tensor_break_with_a_reason(backend):
    torch.manual_seed(0)
    net = Encoder("LSTM", enforce_sorted=False)
    fast = lamina.compile(net, backend=backend)
    lamina.counters.clear()
    for lengths in ([2, 5, 1, 5], [6, 1, 2, 3]):
        x, lengths = torch.randn(4, 6, 4), torch.tensor(lengths)
        for got, want in zip(run(net, fast, x, lengths), run(net, net, x, lengths), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert set(lamina.counters["graph_breaks"]) == {"packed-sequence"}


@pytest.mark.parametrize("lengths", [[1, 2, 3], [3, 2, 0], [3, 2]])
def test_errors_are_those_of_eager(lengths):
    x = torch.randn(3, 5, 4)
    program = lambda x, lengths: pack_padded_sequence(x, lengths, batch_first=True).data + 1
    with pytest.raises(Exception) as want:
        program(x, lengths)
    with pytest.raises(type(want.value)) as got:
        lamina.compile(program, backend="eager")(x, lengths)
    assert str(got.value) == str(want.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_projections_break(backend):
    torch.manual_seed(0)
    net = Encoder("LSTM", proj_size=3)
    fast = lamina.compile(net, backend=backend)
    x = torch.randn(2, 6, 4)
    for got, want in zip(run(net, fast, x, [6, 2]), run(net, net, x, [6, 2]), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
