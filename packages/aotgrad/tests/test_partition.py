"""What the partitions keep and recompute, and that both give eager's gradients."""

from __future__ import annotations

import random

import networkx
import pytest
import torch
import torch.nn.functional as F
from lamina_aotgrad import default, min_cut, trace_joint
from lamina_aotgrad.mincut import INFINITE, FlowNetwork
from lamina_aotgrad.opinfo import is_view
from lamina_aotgrad.split import bytes_of
from lamina_dynshape import FakeMode
from torch import Tensor

aten = torch.ops.aten


def joint_of(fn, *inputs):
    mode = FakeMode()
    return trace_joint(fn, [mode.from_real(t) for t in inputs])


def P(*size):
    return torch.randn(*size, requires_grad=True)


def kept(joint, partition):
    """(graphs, saved nodes that cost memory, their bytes)."""
    forward, backward = partition(joint)
    holders = [n for n in backward.graph.nodes if n.op == "placeholder"][: len(joint.signature.saved)]
    paid = [h for h, s in zip(holders, joint.signature.saved_sources, strict=True) if not s.is_input and isinstance(h.meta["val"], Tensor)]
    return forward, backward, paid, sum(map(bytes_of, paid))


def targets(gm):
    return [n.target for n in gm.graph.nodes if n.op == "call_function"]


PROGRAMS = {
    "chain": (lambda x: x.sin().cos().tanh().exp().sum(), [P(64, 8)]),
    "mlp": (lambda x, w, v: (F.gelu(x @ w) @ v).sum(), [P(16, 8), P(8, 32), P(32, 4)]),
    "norm": (lambda x, w, b: (F.layer_norm(x * 2 + 1, (8,), w, b).relu() * x).sum(), [P(16, 8), P(8), P(8)]),
    "softmax": (lambda x, y: ((x * y).softmax(-1) * x.sigmoid()).sum(), [P(16, 8), P(16, 8)]),
    "dropout": (lambda x: (F.dropout(x.exp(), 0.5) * x).sum(), [P(32)]),
    "views": (lambda x: (x.exp().t().reshape(-1).sin() * x.exp().view(-1)).sum(), [P(8, 6)]),
    "chunks": (lambda x: (lambda a, b, c: (a @ b.t()) @ c)(*(x * 2).chunk(3, -1)).sum(), [P(4, 6)]),
    "rms": (lambda x, w: (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w).sum(), [P(16, 8), P(8)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("partition", [default, min_cut])
def test_gradients(same, name, partition):
    fn, inputs = PROGRAMS[name]
    same(fn, lambda: [t.detach().clone().requires_grad_() for t in inputs], partition=partition, exact=False)


@pytest.mark.parametrize("name", PROGRAMS)
def test_never_more_than_plain(name):
    fn, inputs = PROGRAMS[name]
    plain = kept(joint_of(fn, *inputs), default)[3]
    assert kept(joint_of(fn, *inputs), min_cut)[3] <= plain


def test_pointwise_chain_keeps_only_its_input():
    fn, inputs = PROGRAMS["chain"]
    _, backward, paid, _ = kept(joint_of(fn, *inputs), min_cut)
    assert not paid
    assert aten.tanh.default in targets(backward)
    assert len(kept(joint_of(fn, *inputs), default)[2]) == 4


def test_random_and_expensive_calls_run_once():
    _, backward, _, _ = kept(joint_of(*(lambda p: (p[0], *p[1]))(PROGRAMS["dropout"])), min_cut)
    assert aten.bernoulli.p not in targets(backward)
    forward, backward, paid, _ = kept(joint_of(*(lambda p: (p[0], *p[1]))(PROGRAMS["mlp"])), min_cut)
    assert targets(forward).count(aten.mm.default) + targets(backward).count(aten.mm.default) == 2 + 4


def test_operand_of_products_in_both_passes_is_kept():
    # gelu(x @ w) is in memory for the second product anyway, and the backward's product reads it again
    _, backward, _, _ = kept(joint_of(*(lambda p: (p[0], *p[1]))(PROGRAMS["mlp"])), min_cut)
    assert aten.gelu.default not in targets(backward)


def test_small_statistics_are_kept_instead_of_large_values():
    fn, inputs = PROGRAMS["rms"]
    _, backward, paid, _ = kept(joint_of(fn, *inputs), min_cut)
    assert [tuple(h.meta["val"].shape) for h in paid] == [(16, 1)]
    assert aten.mean.dim not in targets(backward)


def test_views_are_kept_by_their_base():
    joint = joint_of(lambda x, w: ((x @ w).t().unsqueeze(0).exp() * (x @ w)[1:3].sum()).sum(), P(4, 4), P(4, 4))
    for partition in (default, min_cut):
        forward, _, _, _ = kept(joint, partition)
        saved = [s.index for s in joint.signature.saved_sources if not s.is_input]
        outputs = next(iter(reversed(forward.graph.nodes))).args[0]
        assert saved and not any(is_view(outputs[k]) for k in saved)


def test_inputs_cost_nothing_and_are_not_outputs():
    joint = joint_of(lambda x, w: (x @ w.t()).sum(), P(4, 8), P(3, 8))
    forward, _, paid, _ = kept(joint, min_cut)
    assert not paid and len(next(iter(reversed(forward.graph.nodes))).args[0]) == 1


def test_written_input_is_kept_as_a_copy(same):
    def f(x, w):
        y = x.view(2, 2).clone() @ w
        x.add_(1)
        return y

    inputs = lambda: [torch.randn(4), P(2, 2)]
    same(f, inputs)
    forward, _, paid, _ = kept(joint_of(f, *inputs()), min_cut)
    assert len(paid) == 1 and aten.clone.default in targets(forward)


def test_flow_agrees_with_networkx():
    rng = random.Random(0)
    for _ in range(30):
        n = rng.randint(4, 14)
        ours, graph = FlowNetwork(n), networkx.DiGraph()
        graph.add_nodes_from(range(n))
        for _ in range(rng.randint(n, 4 * n)):
            a, b, c = rng.randrange(n), rng.randrange(n), rng.randint(1, 20)
            if a == b or graph.has_edge(a, b):
                continue
            ours.add_edge(a, b, c)
            graph.add_edge(a, b, capacity=c)
        value = networkx.maximum_flow_value(graph, 0, n - 1)
        assert ours.max_flow(0, n - 1) == value
        side = ours.sink_side(n - 1)
        assert not side[0] or value == 0
        assert sum(d["capacity"] for a, b, d in graph.edges(data=True) if not side[a] and side[b]) == value


def test_no_finite_cut():
    network = FlowNetwork(3)
    network.add_edge(0, 1, INFINITE)
    network.add_edge(1, 2, INFINITE)
    assert network.max_flow(0, 2) >= INFINITE
