"""Programs through aotgrad against eager: values, gradients, aliasing, strides, versions, random streams."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lamina_aotgrad import aot_function, run_graph
from lamina_dynshape.support.errors import Unsupported
from torch import Tensor, fx

X = lambda *size: torch.randn(*size)
P = lambda *size: torch.randn(*size, requires_grad=True)


def hidden(*size: int) -> Tensor:
    """A tensor with history, as a graph after a graph break receives."""
    return torch.randn(*size, requires_grad=True) * 2


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("make", [X, P], ids=["plain", "grad"])
class TestOutputs:
    def test_fresh(self, same, graph, make):
        same(lambda x: (x * 2, x.sum()), lambda: [make(3, 4)], graph=graph)

    def test_input_itself(self, same, graph, make):
        same(lambda x: (x, x + 1), lambda: [make(3, 4)], graph=graph)

    def test_view_of_input(self, same, graph, make):
        same(lambda x: (x.t(), x[1:], x.sin(), x[:, ::2].unsqueeze(0)), lambda: [make(3, 4)], graph=graph, exact=False)

    def test_views_of_one_output(self, same, graph, make):
        def f(x):
            y = x * 2
            return y, y.view(-1), y.t()

        same(f, lambda: [make(3, 4)], graph=graph)

    def test_views_without_their_base(self, same, graph, make):
        def f(x):
            y = x * 2
            return y[0], y[1], y.detach()

        same(f, lambda: [make(3, 4)], graph=graph)

    def test_chunks(self, same, graph, make):
        same(lambda x: (x * 3).chunk(3, -1), lambda: [make(2, 6)], graph=graph, sees=False)  # eager makes three views in one node

    def test_same_twice(self, same, graph, make):
        def f(x):
            y = x.exp()
            return y, y, x + 1, x + 1

        same(f, lambda: [make(3)], graph=graph)

    def test_detached(self, same, graph, make):
        same(lambda x: (x.detach(), (x * 2).detach(), x.exp()), lambda: [make(3)], graph=graph)

    def test_lazily_conjugated(self, same, graph, make):
        z = lambda: [torch.randn(3, 4, dtype=torch.complex64, requires_grad=make is P)]
        same(lambda x: (x.conj(), x.mH[1:]), z, graph=graph)

        def f(x):
            y = x * 2
            return y.conj(), y.t().conj(), y

        same(f, z, graph=graph)

    def test_constants(self, same, graph, make):
        same(lambda x: (None, 3, x * 2, 1.5), lambda: [make(3)], graph=graph)

    def test_contiguous_of_transposed(self, same, graph, make):
        same(lambda x: (x.t().contiguous(), x.t().reshape(-1), x.reshape(-1)), lambda: [make(3, 4)], graph=graph, exact=False)

    def test_expanded(self, same, graph, make):
        same(lambda x: (x * 2).expand(4, 3), lambda: [make(3)], graph=graph)


class TestMutation:
    def test_input(self, same):
        def f(x, y):
            x.add_(y)
            return x * 2

        same(f, lambda: [X(3), X(3)])
        same(f, lambda: [hidden(3), P(3)])
        same(f, lambda: [X(3), P(3)])

    def test_input_through_view(self, same):
        def f(x, y):
            x.view(-1)[2:4].mul_(y)
            x[0].zero_()
            return x.t()

        same(f, lambda: [X(3, 2), X(2)])
        same(f, lambda: [hidden(3, 2), P(2)])

    def test_returned_input(self, same):
        same(lambda x: x.relu_(), lambda: [X(4)])
        same(lambda x: x.relu_(), lambda: [hidden(4)])

    def test_saved_input_is_written_later(self, same):
        def f(x, w):
            y = x.sin() * w
            with torch.no_grad():
                x.detach().add_(1)
            return y

        # eager refuses to differentiate sin at a written x; the weight's gradient alone is legal when x is not needed
        same(lambda x, w: (x * 1.5 + w, x.add_(1))[0], lambda: [X(3), P(3)])

    def test_no_grad_update_of_parameter(self, same):
        def f(p, x):
            y = p + x
            with torch.no_grad():
                p.mul_(0.5)
            return y + p

        same(f, lambda: [P(3), X(3)])

    def test_metadata(self, same):
        same(lambda x: (x.t_(), None)[1], lambda: [X(3, 4)])
        same(lambda x: x.unsqueeze_(0).add_(1), lambda: [X(3, 4)])
        same(lambda x: x.resize_(2, 3), lambda: [X(3, 4)])

    def test_buffer_and_counter(self, same):
        def f(x, mean, count):
            mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
            count += 1
            return (x - mean) * count

        same(f, lambda: [P(5, 3), X(3), torch.tensor(4)])

    def test_intermediate(self, same):
        def f(x):
            y = x * 2
            y[:, 0] = 5
            y[1:].add_(1)
            y.t()[0].mul_(3)
            return y, y.detach().sum()

        same(f, lambda: [X(3, 4)])
        same(f, lambda: [P(3, 4)])

    def test_out_argument(self, same):
        def f(x):
            y = torch.empty(3)
            torch.add(x, 1, out=y)
            return y

        same(f, lambda: [X(3)])


class TestModules:
    def test_batch_norm(self, same):
        def f(x, w, b, m, v):
            return F.batch_norm(x, m, v, w, b, training=True)

        same(f, lambda: [P(4, 3, 5, 5), P(3), P(3), torch.zeros(3), torch.ones(3)])

    def test_batch_norm_twice(self, same):
        def f(x, m, v):
            return F.batch_norm(F.batch_norm(x, m, v, training=True) * 2, m, v, training=True)

        same(f, lambda: [P(4, 3, 5, 5), torch.zeros(3), torch.ones(3)])

    def test_batch_norm_without_gradients(self, same):
        same(lambda x, m, v: F.batch_norm(x, m, v, training=True), lambda: [X(4, 3), torch.zeros(3), torch.ones(3)])

    def test_instance_norm(self, same):
        def f(x, m, v):
            return F.instance_norm(x, m, v, use_input_stats=True)

        same(f, lambda: [P(2, 3, 5), torch.zeros(3), torch.ones(3)])

    @pytest.mark.parametrize("graph", [False, True])
    def test_dropout_stream(self, same, graph):
        same(lambda x: F.dropout(F.dropout(x, 0.3).exp(), 0.5), lambda: [P(30)], graph=graph)
        same(lambda x: (F.dropout(x, 0.3), torch.randn_like(x)), lambda: [X(30)], graph=graph)
        same(lambda x: (F.dropout(x, 0.3), torch.rand(3)), lambda: [X(30)])

    @pytest.mark.parametrize("draw", [lambda t: F.dropout(t, 0.3), lambda t: (t + 0).bernoulli_(0.3), lambda t: (t + 0).normal_(), lambda t: torch.rand_like(t)])
    def test_draws_in_other_layouts(self, same, draw):
        """Which element gets which number depends on the layout and on the processor's vendor."""
        same(lambda x: draw(x.permute(2, 0, 1) * 2), lambda: [X(4, 5, 6)])
        same(lambda x: draw(x.mT.exp()).sum(0), lambda: [P(4, 5, 6)])

    def test_bernoulli_in_memory_with_gaps(self, same):
        def f(x):
            x[:, ::2].t().bernoulli_(0.5)
            return x + 1

        same(f, lambda: [X(7, 8)])

    def test_attention(self, same):
        def f(q, k, v):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        same(f, lambda: [P(2, 4, 16, 8), P(2, 4, 16, 8), P(2, 4, 16, 8)], exact=False)

    def test_layer(self, same):
        def f(x, w, b, g, h):
            y = F.layer_norm(F.gelu(F.linear(x, w, b)), (6,), g, h)
            return F.cross_entropy(y.view(-1, 6), torch.arange(10) % 6), y

        same(f, lambda: [P(2, 5, 4), P(6, 4), P(6), P(6), P(6)], exact=False)

    def test_conv_pool(self, same):
        def f(x, w, b):
            return F.adaptive_avg_pool2d(F.max_pool2d(F.relu(F.conv2d(x, w, b, padding=1)), 2), 1).flatten(1)

        same(f, lambda: [P(2, 3, 8, 8), P(4, 3, 3, 3), P(4)], exact=False)
        same(f, lambda: [P(2, 3, 8, 8).detach().to(memory_format=torch.channels_last), P(4, 3, 3, 3), P(4)], exact=False)

    def test_custom_function(self, same):
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * 2

            @staticmethod
            def backward(ctx, g):
                return g * 3 + ctx.saved_tensors[0]

        same(lambda x: Double.apply(x).exp(), lambda: [P(4)])

    def test_tensor_hook(self, same):
        def f(x):
            y = x * 2
            if y.requires_grad:
                y.register_hook(lambda g: g * 10)
            return y.sin()

        same(f, lambda: [P(4)])

    def test_autocast(self, same):
        def f(x, w):
            return F.linear(x, w).float().softmax(-1)

        def run(x, w):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return f(x, w)

        same(run, lambda: [P(3, 4), P(5, 4)], exact=False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            same(f, lambda: [P(3, 4), P(5, 4)], exact=False)


class TestGradients:
    def test_unused_input_has_none(self, same):
        same(lambda x, y: x * 2, lambda: [P(3), P(3)])

    def test_no_grad_region(self, same):
        def f(x, w):
            with torch.no_grad():
                y = x * w
            return y * x, y

        same(f, lambda: [P(3), P(3)])

    def test_under_no_grad(self, same):
        with torch.no_grad():
            same(lambda x: (x * 2, x.t()), lambda: [P(3, 3)])

    def test_inference_mode(self):
        from lamina_aotgrad import aot_eager

        with torch.inference_mode():
            x = torch.randn(3)
            assert torch.equal(aot_eager(lambda x: (x * 2,), [x])(x)[0], x * 2)

    def test_detach_cuts(self, same):
        same(lambda x: (x.detach() * x, (x * 2).detach().exp() * x), lambda: [P(3)])

    def test_detached_from_all_gradients(self, same):
        same(lambda x: x.detach().sin(), lambda: [P(3)])
        same(lambda x: x.detach().sin(), lambda: [hidden(3)])

    def test_retain_graph(self):
        from lamina_aotgrad import aot_eager

        x = P(3)
        y = aot_eager(lambda x: (x.exp().sum(),), [x])(x)[0]
        y.backward(retain_graph=True)
        y.backward()
        torch.testing.assert_close(x.grad, 2 * x.detach().exp())
        with pytest.raises(RuntimeError, match="second time"):
            y.backward()

    def test_results_that_the_program_differentiated_already(self):
        def step(x, w):
            shifted = x + w
            loss = shifted.sin().sum()
            (grad,) = torch.autograd.grad(loss, [w])
            return loss, shifted * 2, grad

        x, w = P(5, 4), P(4)
        compiled = aot_function(step, [x, w], fw_compiler=run_graph)  # raises Unsupported where eager would have to run
        loss, doubled, _ = compiled(x, w)
        doubled.sum().backward()
        torch.testing.assert_close((x.grad, w.grad), (torch.full((5, 4), 2.0), torch.full((4,), 10.0)))
        with pytest.raises(RuntimeError, match="second time"):
            compiled(x, w)[0].backward()

    def test_accumulation(self):
        from lamina_aotgrad import aot_eager

        x = P(3)
        f = aot_eager(lambda x: (x.exp(),), [x])
        for _ in range(3):
            f(x)[0].sum().backward()
        torch.testing.assert_close(x.grad, 3 * x.detach().exp())

    def test_double_backward_is_refused(self):
        from lamina_aotgrad import aot_eager

        x = P(3)
        (g,) = torch.autograd.grad(aot_eager(lambda x: (x.exp(),), [x])(x)[0].sum(), x, create_graph=True)
        torch.testing.assert_close(g.detach(), x.detach().exp())
        with pytest.raises(RuntimeError, match="double backward through a compiled graph is not supported"):
            g.sum().backward()

    def test_a_loss_that_depends_on_the_phase_of_singular_vectors_raises(self, same):
        def make():
            return [torch.randn(3, 3, dtype=torch.complex64, requires_grad=True)]

        def phases(x):
            return torch.linalg.svd(x)[0].real.sum()

        same(lambda x: torch.linalg.svd(x)[0].abs(), make, exact=False)
        x = make()[0]
        for program in (phases, aot_function(lambda x: (phases(x),), [x], fw_compiler=run_graph)):
            out = program(x)
            with pytest.raises(RuntimeError, match="(?i)svd"):
                (out if isinstance(out, Tensor) else out[0]).backward()

    def test_tangent_strides(self):
        from lamina_aotgrad import aot_eager

        x = P(3, 4)
        f = aot_eager(lambda x: (x.exp(), x.sin()), [x])
        a, b = f(x)
        g = torch.randn(4, 3).t()
        torch.autograd.backward([a], [g])
        torch.testing.assert_close(x.grad, g * x.detach().exp())
        x.grad = None
        f(x)[0].sum().backward()  # an expanded gradient
        torch.testing.assert_close(x.grad, x.detach().exp())

    def test_write_to_saved_output_is_noticed(self):
        from lamina_aotgrad import aot_eager

        x = P(3)
        for program in (lambda x: (x.exp(),), lambda x: (x.exp().view(3, 1),)):
            y = aot_eager(program, [x])(x)[0]
            with torch.no_grad():
                y.mul_(2)
            try:
                y.sum().backward()
            except RuntimeError as error:
                assert "modified by an inplace operation" in str(error)
            else:
                torch.testing.assert_close(x.grad, x.detach().exp())

    def test_hooks_on_parameters(self, same):
        calls = []

        def make():
            p = P(3)
            p.register_hook(lambda g: calls.append(1))
            return [p]

        same(lambda p: p.exp(), make)
        assert len(calls) == 4


class TestNoWrapper:
    def test_plain_inference_calls_the_kernel_itself(self):
        from lamina_aotgrad import aot_function

        kernel = lambda *a: (a[0] + 1,)
        assert aot_function(lambda x: (x + 1,), [X(3)], fw_compiler=lambda *a, **k: kernel) is kernel

    def test_backend_writes_inputs(self):
        from lamina_aotgrad import aot_function

        seen = {}

        def compiler(gm, fakes, *, kind, signature):
            seen["mutations"] = list(signature.mutations)

            def run(*args):
                outs = gm.forward(*args)
                for k, i in signature.mutations:
                    args[i].detach().copy_(outs[k])
                return outs[: len(outs) - len(signature.mutations)]

            return run

        compiler.supports_input_mutation = True
        x, y = X(3), X(3)
        expected = x + y
        (out,) = aot_function(lambda x, y: (x.add_(y).sum(),), [x, y], fw_compiler=compiler)(x, y)
        assert seen["mutations"] == [(1, 0)]
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(out, expected.sum())
        assert x._version > 0


class TestBuiltSideBySide:
    @staticmethod
    def compiler(order, fail=""):
        import threading

        def compile_graph(gm, fakes, *, kind, signature):
            order.append(f"compile {kind}")
            return gm.forward

        def prepare(gm, fakes, *, kind, signature):
            order.append(f"prepare {kind}")

            def build():
                assert threading.current_thread() is not threading.main_thread()
                if kind == fail:
                    raise ValueError(f"{kind} does not build")
                return gm.forward

            return build

        compile_graph.prepare = prepare
        return compile_graph

    def test_both_are_prepared_at_the_first_forward(self):
        from lamina_aotgrad import aot_function

        x, order = P(3), []
        f = aot_function(lambda x: (x.exp(),), [x], fw_compiler=self.compiler(order))
        assert order == ["prepare forward", "prepare backward"]
        f(x)[0].sum().backward()
        torch.testing.assert_close(x.grad, x.detach().exp())

    def test_inference_compiles_here(self):
        from lamina_aotgrad import aot_function

        order = []
        aot_function(lambda x: (x.exp(),), [X(3)], fw_compiler=self.compiler(order))
        assert order == ["compile inference"]

    def test_errors_come_where_the_result_is_needed(self):
        from lamina_aotgrad import aot_function

        x = P(3)
        with pytest.raises(ValueError, match="forward does not build"):
            aot_function(lambda x: (x.exp(),), [x], fw_compiler=self.compiler([], fail="forward"))
        f = aot_function(lambda x: (x.exp(),), [x], fw_compiler=self.compiler([], fail="backward"))
        y = f(x)[0].sum()
        with pytest.raises(ValueError, match="backward does not build"):
            y.backward()

    def test_backward_of_a_plain_compiler_is_compiled_when_needed(self):
        from lamina_aotgrad import aot_function

        kinds = []

        def compiler(gm, fakes, *, kind, signature):
            kinds.append(kind)
            return gm.forward

        x = P(3)
        y = aot_function(lambda x: (x.exp(),), [x], fw_compiler=compiler)(x)[0]
        assert kinds == ["forward"]
        y.sum().backward()
        assert kinds == ["forward", "backward"]


def test_saved_values_are_freed_after_the_backward():
    import gc
    import weakref

    from lamina_aotgrad import aot_function

    seen = []

    def compiler(gm, fakes, *, kind, signature):
        def run(*args):
            outs = gm.forward(*args)
            if kind == "forward":
                seen.extend(weakref.ref(outs[s.index]) for s in signature.saved_sources if not s.is_input)
            return outs

        return run

    x, w = P(4, 4), P(4, 4)
    y = aot_function(lambda x, w: ((x @ w).softmax(-1).sum(),), [x, w], fw_compiler=compiler)(x, w)[0]
    assert seen and all(r() is not None for r in seen)
    y.backward()
    gc.collect()
    assert all(r() is None for r in seen)


class TestGradientsInside:
    """Gradients that are switched, asked for, or wanted inside of the program."""

    def test_turned_on(self):
        """The rest of a frame that broke under `no_grad`: called with gradients off, turns them on itself."""
        graph = fx.Graph()
        x, w = graph.placeholder("x"), graph.placeholder("w")
        before = graph.call_function(torch.mul, (x, w))
        graph.call_function(torch._C._set_grad_enabled, (True,))
        graph.output((before, graph.call_function(torch.sin, (graph.call_function(torch.mul, (x, w)),))))
        gm = fx.GraphModule({}, graph)
        x, w = X(3), P(3)
        with torch.no_grad():
            compiled = aot_function(gm, [x, w], fw_compiler=run_graph)
            outs = compiled(x, w)
            torch._C._set_grad_enabled(False)
        assert [o.requires_grad for o in outs] == [False, True]
        (grad,) = torch.autograd.grad(outs[1].sum(), w)
        torch.testing.assert_close(grad, x * (x * w).cos())

    def test_of_a_leaf_inside(self, same):
        def f(x):
            y = x.clone().requires_grad_()
            (g,) = torch.autograd.grad((y**3).sum(), y)
            return g

        same(f, lambda: [X(3)], graph=False)

    def test_new_leaf_as_output(self, same):
        same(lambda x: ((x * 2).detach().requires_grad_(), x + 1), lambda: [X(3)], graph=False)

    def test_refuses_history_of_a_new_leaf(self):
        w = X(3)

        def f(x):
            y = (x * 2).requires_grad_()
            return y, y * w

        for x in (X(3), P(3)):
            with pytest.raises(Unsupported, match="history"):
                aot_function(lambda x: f(x.detach()), [x], fw_compiler=run_graph)
