"""`lower`: outputs, layouts, fallbacks, constants, symbolic sizes. The decompositions themselves are in test_decompositions and the sweep."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from helpers import aten, fakes, prims_of, same_as_eager
from lamina_dynshape.support.errors import InternalError, UserError
from lamina_primops import DECOMPOSITIONS, fallback_table, interpret, lower, print_graph, trace, verify
from lamina_primops.decompositions import EXTERN, register

X, Y = torch.randn(3, 4), torch.randn(3, 4)


def test_placeholders_keep_names_order_and_metadata():
    gm = trace(lambda x, y: y, fakes(X, Y))
    lowered = lower(gm)
    assert [n.name for n in lowered.graph.nodes if n.op == "placeholder"] == ["arg0", "arg1"]
    assert interpret(lowered, X, Y)[0] is Y


def test_target():
    with pytest.raises(UserError, match="targets are 'prims' and 'aten'"):
        lower(trace(torch.exp, fakes(X)), to="loops")


# -- outputs ------------------------------------------------------------------------------------------------------------
def test_outputs_have_the_promised_strides():
    lowered = same_as_eager(lambda x: (x.t().clone(memory_format=torch.contiguous_format), x.t().exp()), [X])
    assert sorted(prims_of(lowered)) == ["exp", "permute", "restride"]


def test_channels_last_output():
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    same_as_eager(lambda x: torch.relu(x) + 1, [image])
    same_as_eager(lambda x: x.contiguous(), [image])


def test_a_clone_of_an_input_is_a_copy():
    lowered = same_as_eager(lambda x: x.clone(), [X])
    assert prims_of(lowered) == ["restride"]
    assert interpret(lowered, X)[0] is not X


def test_a_clone_of_an_output_is_a_second_tensor():
    def f(x):
        y = x.exp()
        return y, y.clone()

    a, b = interpret(same_as_eager(f, [X]), X)
    assert a.data_ptr() != b.data_ptr()


@pytest.mark.parametrize("program", [lambda x, own: ((y := x * 2), own(y.t())), lambda x, own: ((y := x * 2)[0], own(y))])
def test_a_clone_that_is_asked_for_by_name_is_no_view_of_another_output(program):
    own = lambda t: t.clone(memory_format=torch.preserve_format)
    lowered = lower(trace(lambda x: program(x, own), fakes(X)))
    assert "restride" in prims_of(lowered)
    a, b = interpret(lowered, X)
    assert a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()
    assert "restride" not in prims_of(lower(trace(lambda x: program(x, torch.clone), fakes(X))))


def test_the_same_output_twice_stays_one():
    def f(x):
        y = x.exp()
        return y, y

    assert prims_of(same_as_eager(f, [X])) == ["exp"]


def test_inner_clones_vanish():
    assert prims_of(same_as_eager(lambda x: x.clone().exp().contiguous().sin(), [X])) == ["exp", "sin"]


# -- fallbacks ------------------------------------------------------------------------------------------------------------
def test_an_op_without_decomposition_stays_with_its_reason():
    lowered = same_as_eager(lambda x: torch.sort(x.t() + 1)[0] * 2, [X])
    assert prims_of(lowered)[2] == "aten.sort.default"
    assert next(n.meta["fallback"] for n in lowered.graph.nodes if "fallback" in n.meta) == "extern: sort"
    lowered = same_as_eager(lambda x: torch.ops.aten.linspace.Tensor_Scalar(x.sum(), 2.0, 5), [X])
    assert next(n.meta["fallback"] for n in lowered.graph.nodes if "fallback" in n.meta) == "no decomposition"


def test_operands_of_aten_calls_have_eager_strides():
    def f(x):
        return torch.sort(x.t().contiguous(), 0)[0]

    lowered = same_as_eager(f, [X])
    assert prims_of(lowered)[:3] == ["permute", "restride", "aten.sort.default"]


def test_broadcast_operands_of_aten_calls():
    same_as_eager(lambda x: torch.sort(x[:, :1].contiguous().expand(3, 4), 0)[0], [X])


def test_complex_stays_aten():
    z = torch.randn(3, dtype=torch.complex64)
    lowered = same_as_eager(lambda z: (z * 2).abs() + 1, [z])
    assert "complex or quantized dtype" in {n.meta.get("fallback") for n in lowered.graph.nodes}


def test_random_ops_keep_their_stream():
    gm = trace(lambda x: torch.rand_like(x) + torch.bernoulli(x.sigmoid()), fakes(X))
    lowered = lower(gm)
    torch.manual_seed(5)
    expected = torch.rand_like(X) + torch.bernoulli(X.sigmoid())
    torch.manual_seed(5)
    torch.testing.assert_close(interpret(lowered, X)[0], expected)


def test_fallback_table_lists_what_is_declared():
    table = fallback_table()
    assert table["aten.bernoulli.p"].startswith("random") and all(table.values())
    assert not set(EXTERN) & set(DECOMPOSITIONS)


# -- sharing ------------------------------------------------------------------------------------------------------------
def test_common_subexpressions_across_ops():
    lowered = same_as_eager(lambda x: (F.softmax(x, -1), F.log_softmax(x, -1)), [X])
    assert prims_of(lowered).count("amax") == 1 and prims_of(lowered).count("exp") == 1


def test_unused_results_cost_nothing():
    lowered = same_as_eager(lambda x: F.layer_norm(x, (4,)), [X])
    assert "div_scalar" not in prims_of(lowered) and prims_of(lowered).count("var_mean") == 1


def test_constants_move_along():
    c = torch.randn(4)
    lowered = same_as_eager(lambda x: x + c, [X])
    assert [n.op for n in lowered.graph.nodes].count("get_attr") == 1
    assert len(list(lowered.buffers())) == 1


# -- checks ------------------------------------------------------------------------------------------------------------
def test_a_decomposition_of_the_wrong_shape_is_our_error():
    def wrong(x, dims):
        return x

    rule = DECOMPOSITIONS[aten.permute.default]
    try:
        DECOMPOSITIONS[aten.permute.default] = rule._replace(rule=wrong)
        with pytest.raises(InternalError, match="aten.permute.default gives"):
            lower(trace(lambda x: x.permute(1, 0).exp(), fakes(X)))
    finally:
        DECOMPOSITIONS[aten.permute.default] = rule


def test_registration_refuses():
    with pytest.raises(ValueError, match="second registration"):
        register(aten.relu.default)(lambda x: x)
    with pytest.raises(TypeError, match="not an operator overload"):
        register(aten.relu)(lambda x: x)
    with pytest.raises(ValueError, match="mutates"):
        register(aten.relu_.default)(lambda x: x)


def test_the_aten_graph_is_untouched():
    gm = trace(lambda x: F.gelu(x).sum(), fakes(X))
    before = print_graph(gm)
    lower(gm)
    assert print_graph(gm) == before


# -- symbolic sizes -------------------------------------------------------------------------------------------------------
MODEL_PARTS = [
    ("attention", lambda x: torch.softmax(x @ x.t(), -1) @ x),
    ("norm", lambda x: F.layer_norm(x, (x.shape[1],)) + x.mean(0)),
    ("cat", lambda x: torch.cat([x, x[:, :1], x.flip(1)], 1)),
    ("roll", lambda x: torch.roll(x, 1, 0)),
    ("pad", lambda x: F.pad(x, (1, 2), value=3.0)),
    ("arange", lambda x: x + torch.arange(x.shape[1])),
    ("mask", lambda x: x.masked_fill(torch.ones(x.shape[0], x.shape[1], dtype=torch.bool).tril().logical_not(), -1e9)),
    ("reshape", lambda x: x.reshape(1, -1).expand(3, -1).sum(1)),
    ("split", lambda x: x.chunk(2, 1)[0] * 2),
    ("mean", lambda x: x.mean()),
    ("loss", lambda x: F.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.int64))),
    ("cumsum", lambda x: x.cumsum(1)),
]


@pytest.mark.parametrize("fn", [f for _, f in MODEL_PARTS], ids=[n for n, _ in MODEL_PARTS])
def test_one_lowered_graph_serves_several_sizes(fn):
    gm = trace(fn, fakes(torch.randn(6, 8), symbolic=True))
    lowered = lower(gm)
    verify(lowered, "prims")
    for rows, columns in ((6, 8), (10, 4), (3, 12)):
        x = torch.randn(rows, columns)
        torch.testing.assert_close(interpret(lowered, x)[0], torch.utils._pytree.tree_leaves(fn(x))[0], rtol=1e-4, atol=1e-5)


def test_a_symbolic_size_that_is_constant_is_written_as_its_number():
    gm = trace(lambda x: x.diagonal(offset=2), fakes(torch.randn(5, 5), symbolic=True))  # starts at 0 * size + 2
    x = torch.randn(7, 7)
    lowered = lower(gm)
    verify(lowered, "prims")
    assert torch.equal(interpret(lowered, x)[0], x.diagonal(offset=2))


# -- cost ----------------------------------------------------------------------------------------------------------------
def test_lowering_is_cheap_next_to_tracing(monkeypatch):
    def block(x):
        for _ in range(60):
            x = F.layer_norm(F.gelu(x), (4,)) + x
        return x

    def seconds(fn, *args):
        best = float("inf")
        for _ in range(5):
            start = time.thread_time()
            fn(*args)
            best = min(best, time.thread_time() - start)
        return best

    monkeypatch.setenv("LAMINA_VERIFY", "0")
    inputs = fakes(X)
    gm = trace(block, inputs)
    # Alone on a core: 40 us to trace an op, 60 us to lower one (layer norm and gelu are 10 prims each). Ten times is room for a busy host.
    assert seconds(lower, gm) < 10 * seconds(trace, block, inputs)
