"""The joint graph: dialect, cleanup, stacks, what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from lamina_aotgrad import OutputKind, aot_eager, aot_function, run_graph, trace_joint
from lamina_dynshape import FakeMode
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from lamina_primops import verify
from lamina_primops.frames import Frame
from torch import fx

aten = torch.ops.aten


def joint_of(fn, *inputs, **options):
    mode = FakeMode()
    joint = trace_joint(fn, [mode.from_real(t) if isinstance(t, torch.Tensor) else t for t in inputs], **options)
    verify(joint.graph_module, "aten")
    return joint


def P(*size):
    return torch.randn(*size, requires_grad=True)


def calls(joint):
    return [n.target for n in joint.graph_module.graph.nodes if n.op == "call_function"]


class TestCleanup:
    def test_views_that_lead_back_disappear(self):
        assert calls(joint_of(lambda x: x.t().t().view(-1).view(3, 4).detach().sin(), torch.randn(3, 4))) == [aten.sin.default]

    def test_common_calls_are_shared_random_ones_are_not(self):
        found = calls(joint_of(lambda x: (x.sin() + x.sin(), torch.rand_like(x), torch.rand_like(x)), torch.randn(3)))
        assert found.count(aten.sin.default) == 1 and found.count(aten.rand_like.default) == 2

    def test_constants_of_different_type_are_not_shared(self):
        found = calls(joint_of(lambda x: (x + 1, x + 1.0, x * 0.0, x * -0.0), torch.arange(3)))
        assert len(found) == 4

    def test_copies_in_a_functional_graph_are_the_value(self):
        found = calls(joint_of(lambda x: (x.clone() * x.contiguous()).clone().exp(), torch.randn(3)))
        assert aten.clone.default not in found

    def test_outputs_own_their_memory(self):
        joint = joint_of(lambda x: (x.clone(), x.exp(), x.exp(), x.exp().clone()), torch.randn(3))
        assert calls(joint).count(aten.clone.default) == 3 and calls(joint).count(aten.exp.default) == 1

    def test_slice_written_and_read_back(self):
        def f(x):
            y = x.exp()
            y[1:].mul_(2)
            return y[1:].sin()

        assert calls(joint_of(f, torch.randn(4, 3))) == [aten.exp.default, aten.slice.Tensor, aten.mul.Tensor, aten.sin.default]
        assert torch.equal(aot_eager(f, [torch.ones(4, 3)])(torch.ones(4, 3))[0], f(torch.ones(4, 3)))

    def test_write_to_fresh_memory_needs_no_buffer(self):
        def f(x):
            y = torch.empty_like(x)
            y.copy_(x * 2)
            return y.add_(1)

        assert calls(joint_of(f, torch.randn(3))) == [aten.mul.Tensor, aten.add.Tensor]

    def test_metadata_on_every_node(self):
        for node in joint_of(lambda x, w: F.gelu(x @ w).sum(), P(3, 4), P(4, 5)).graph_module.graph.nodes:
            assert node.op == "output" or "val" in node.meta


class TestSignature:
    def test_kinds(self):
        def f(x, y):
            z = x * 2
            return z, z[0], x, y.t(), 3

        signature = joint_of(f, P(3, 3), P(3, 3)).signature
        assert [s.kind for s in signature.outputs] == [
            OutputKind.FRESH, OutputKind.VIEW_OF_OUTPUT, OutputKind.INPUT, OutputKind.VIEW_OF_INPUT, OutputKind.CONSTANT,
        ]  # fmt: skip
        assert [(a.output, a.base_is_input, a.base) for a in signature.aliases] == [(1, False, 0), (3, True, 1)]
        assert signature.grad_inputs == [0] and signature.requires_grad == [0, 1]

    def test_writes_come_last(self):
        def f(x, y):
            x.add_(1)
            y.mul_(2)
            return x + y

        assert joint_of(f, torch.randn(3), torch.randn(3)).signature.mutations == [(1, 0), (2, 1)]

    def test_random(self):
        assert joint_of(lambda x: F.dropout(x), P(3)).signature.rng
        assert not joint_of(lambda x: x.sin(), P(3)).signature.rng


class TestStacks:
    def test_backward_nodes_have_the_lines_of_their_forward(self):
        gm = fx.symbolic_trace(lambda x, w: (x @ w).tanh().sum())
        mode = FakeMode()
        for line, node in enumerate(gm.graph.nodes):
            node.meta["stack"] = (Frame("model.py", line, "forward", node.name),)
        joint = trace_joint(gm, [mode.from_real(P(3, 4)), mode.from_real(P(4, 5))])
        lines = {n.target: n.meta["stack"][-1].text for n in joint.graph_module.graph.nodes if n.op == "call_function"}
        assert lines[aten.mm.default] == "matmul"
        assert lines[aten.tanh_backward.default] == "tanh"
        assert lines[aten.expand.default] == "sum_1"
        backward_products = [n for n in joint.graph_module.graph.nodes if n.target is aten.mm.default][1:]
        assert len(backward_products) == 2 and all(n.meta["stack"][-1].text == "matmul" for n in backward_products)


class TestRefused:
    @pytest.mark.parametrize(
        ("program", "phrase"),
        [
            (lambda x, y: x.set_(y), "set_ or assignment to .data"),
            (lambda x, y: x.resize_(7), "resize_ to more elements"),
            (lambda x, y: x.nonzero(), "data-dependent"),
            (lambda x, y: x[: int(x.sum())], "data-dependent"),
        ],
    )
    def test_with_a_reason(self, program, phrase):
        with pytest.raises(Unsupported, match=phrase):
            joint_of(program, torch.randn(3), torch.randn(5))

    def test_written_inputs_that_overlap_and_have_two_dtypes(self):
        base = torch.randn(4)
        program = lambda x, y: (x.add_(1).sum() + y.sum(),)
        with pytest.raises(Unsupported, match="shares memory with another input"):
            aot_function(program, [base[:2], base[1:3].view(torch.int32)], fw_compiler=run_graph)
        f = aot_function(program, [torch.zeros(2), torch.zeros(2, dtype=torch.int32)], fw_compiler=run_graph)
        zeros = torch.zeros(3)
        assert f(zeros[:2], zeros[1:].view(torch.int32)) == program(torch.zeros(3)[:2], torch.tensor([0x3F800000, 0], dtype=torch.int32))
        assert counters["fallbacks"]["aot aliased_inputs"] == 1

    def test_hidden_parameter(self):
        hidden = P(3)
        with pytest.raises(Unsupported, match="requires gradients and is no input"):
            joint_of(lambda x: x * hidden, P(3))

    def test_aot_eager_falls_back_and_counts(self):
        x = torch.tensor([0.0, 1.0])
        assert aot_eager(lambda x: (x.nonzero(),), [x])(x)[0].tolist() == [[1]]
        assert sum(counters["fallbacks"].values()) == 1


def test_modes_are_left_as_they_were():
    with pytest.raises(ZeroDivisionError):
        joint_of(lambda x: 1 / 0, P(3))
    assert torch.is_grad_enabled() and torch._C._get_mkldnn_enabled()
    x = torch.randn(3)
    assert type(x.add_(1)) is torch.Tensor and not torch._is_functional_tensor(x)


def test_nothing_of_the_reference_stack_is_imported():
    program = (
        "import sys, torch, lamina_aotgrad as a\n"
        "w = torch.randn(4, 4, requires_grad=True); b = torch.zeros(4); v = torch.ones(4)\n"
        "f = a.aot_function(lambda x, w, b, v: (torch.nn.functional.batch_norm((x @ w).relu(), b, v, training=True).softmax(-1),), [torch.randn(3, 4), w, b, v], fw_compiler=a.run_graph)\n"
        "y = f(torch.randn(3, 4), w, b, v)[0].sum()\n"
        "torch.autograd.Variable._execution_engine.run_backward((y,), (torch.ones(()),), False, False, (w,), True, accumulate_grad=False)\n"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'networkx', 'sympy') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
