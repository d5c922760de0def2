"""Writes that functionalization would get wrong: as eager, or refused with a reason. Each came from the alias fuzzer."""

from __future__ import annotations

import warnings

import pytest
import torch
from lamina_aotgrad import aot_function, run_graph
from lamina_dynshape.support.errors import Unsupported

def cut_off(x):
    total = x.sum()
    with torch.no_grad():
        view = total.expand(2)
    return total, view.split(1)[0]  # eager: a history that ends at the expand


def reshaped_without_history(x):
    y = x.clone()
    with torch.no_grad():
        y.transpose_(0, 1)
    return (y,)


def replaced(x):
    view = x[1:]
    total = x.sum()
    total.fill_(2.0)
    with torch.no_grad():
        x.set_(total)
    return (view.clone(),)  # which looks for its memory behind `x`


def drawn_with_gaps(x):
    y = x.clone()
    y[:, ::2].normal_()
    return (y,)


REFUSED = {
    "draw_with_gaps": drawn_with_gaps,
    "overlapping_write": lambda x: (x.expand(2, 3, 4)[0].fill_(2.0),),
    "out_resized": lambda x: (torch.sum(x, 0, out=torch.zeros(2, 2)[0]),),
    "detach_of_an_input": lambda x: (x.detach_(),),
    "as_strided_of_part": lambda x: (x.as_strided((2, 2), (1, 1)).clone(),),
    "detached_write": lambda x: (x.detach().lerp_(x, 0.5),),
    "resize_to_more_elements": lambda x: (x.as_strided_((2,), (1,)).resize_(2, 2),),
    "view_of_a_view_that_was_made_with_gradients_off": cut_off,
    "change_of_a_tensor_s_shape_in_place_outside_of_its_history": reshaped_without_history,
    "set_or_assignment_to_data_of_an_input": lambda x: (x.set_(x[1:]),),
}


def test_a_part_of_what_was_set_to_overlapping_memory_is_not_written():
    def program(x):
        y = x.new_zeros(3, 4)
        y.set_(x)
        y.narrow(0, 1, 1).mul_(2)
        return (y + 1,)

    with pytest.raises(Unsupported, match="share memory"):
        aot_function(program, [torch.randn(1, 4).expand(3, 4)], fw_compiler=run_graph)


def test_outputs_that_were_views_of_what_an_input_was_are_refused():
    def program(x):
        flat = x.flatten()
        with torch.no_grad():
            x.set_(x[0])
        return (flat,)

    with pytest.raises(Unsupported, match="set_ or assignment"):
        aot_function(program, [torch.randn(3, 4, requires_grad=True)], fw_compiler=run_graph)


def test_views_of_an_input_that_got_other_memory_are_refused():
    with pytest.raises(Unsupported, match="set_ or assignment"):
        aot_function(replaced, [torch.randn(3, 4, requires_grad=True)[1:]], fw_compiler=run_graph)


@pytest.mark.parametrize("code", REFUSED)
def test_refused_with_a_reason(code):
    x = torch.zeros(4, 4)[1:] if code == "as_strided_of_part" else torch.zeros(3, 4, requires_grad=code.startswith(("detach", "view", "change")))
    with pytest.raises(Unsupported) as refusal:
        aot_function(REFUSED[code], [x], fw_compiler=run_graph)
    assert refusal.value.code == code


@pytest.mark.parametrize(
    "program",
    [
        lambda x: (x.masked_fill_(x > 0, 0.25), torch.empty_like(x).fill_(1)),
        lambda x: (x.index_add_(0, torch.tensor([0]), x[:1]), x.flatten()),
        lambda x: (torch.mul(x, x, out=torch.zeros(4, 3)).flatten(), x),
        lambda x: (x.t().scatter_(0, torch.zeros(1, 1, dtype=torch.int64), 5.0), torch.where(x > 0, x, x)),
    ],
    ids=["masked_fill", "index_add", "out", "scatter"],
)
def test_strides_of_written_tensors_stay(same, program):
    same(program, lambda: [torch.randn(3, 4).t()])


def test_a_slice_of_a_value_keeps_its_gaps(same):
    same(lambda x: (x.clone()[:, 1:],), lambda: [torch.randn(3, 4)])


@pytest.mark.parametrize("make", [lambda: torch.randn(3, 4), lambda: torch.randn(1, 4).expand(3, 4)], ids=["dense", "expanded"])
def test_an_input_that_changes_shape_is_saved_as_it_was(same, make):
    def program(x, w):
        y = w * x.clone()
        x.t_()
        return (y.relu(),)

    same(program, lambda: [make(), torch.randn(3, 4, requires_grad=True)])


@pytest.mark.parametrize("program", [lambda x: (x.squeeze_() + 1,), lambda x: (x.t_().t_() + 1,)], ids=["squeeze_", "t_ twice"])
def test_shapes_that_lead_back_write_nothing(same, program):
    same(program, lambda: [torch.randn(1, 4).expand(3, 4)])


def test_what_is_saved_is_no_output_of_a_program_that_changes_a_shape():
    def program(x, w):
        x.t_()
        return (w.exp() @ x.t().exp(),)  # the backward needs values that are neither inputs nor outputs

    compiled = aot_function(program, [torch.ones(4, 3), torch.ones(3, 4, requires_grad=True)], fw_compiler=run_graph)
    assert len(compiled(torch.ones(4, 3), torch.ones(3, 4, requires_grad=True))) == 1


@pytest.mark.parametrize("start", [(0,), (2, 2), (3, 4, 5)])
def test_out_of_another_shape_is_resized_where_the_program_made_it(same, start):
    def program(x):
        out = torch.empty(start)
        torch.sum(x, 0, out=out)
        return out + 1, out

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An output with one or more elements was resized")
        same(program, lambda: [torch.randn(3, 4)])


def test_out_of_another_shape_is_refused_where_views_of_it_exist():
    def program(x):
        out = x + 1
        view = out.view(-1)
        return view, torch.mul(x.t(), 2, out=out)

    with pytest.raises(Unsupported, match="another shape"):
        aot_function(program, [torch.randn(3, 4)], fw_compiler=run_graph)


def test_as_strided_reaches_all_the_memory_of_a_value(same):
    same(lambda x: (x.sin()[1:].as_strided((2, 2), (1, 1)) + 1, x.cos()[:, 1:].as_strided((3,), (4,), 0)), lambda: [torch.randn(3, 4)])


def test_views_made_with_gradients_off_are_eagers(same):
    def program(x):
        with torch.no_grad():
            return x.narrow(0, 1, 1), x * 2

    same(program, lambda: [torch.randn(3, 4, requires_grad=True) * 2])


@pytest.mark.parametrize(
    ("program", "make"),
    [
        (lambda x: (x.lerp_(x, 0.5),), lambda: [torch.randn(3, 4).t()[1:2]]),
        (lambda x: ((x @ x.t())[:1].clone().t().neg_(),), lambda: [torch.randn(3, 3)]),
        (lambda x: (torch.mul(x, x, out=x), x.reshape(-1)), lambda: [torch.randn(3, 4)[:, 1:]]),
        (lambda x: (x.relu().unfold(0, 2, 1),), lambda: [torch.randn(3, 4, requires_grad=True) * 2]),
    ],
    ids=["one row", "one column", "gaps", "overlap of a saved value"],
)
def test_strides_that_tell_nothing_or_leave_gaps_are_eagers(same, program, make):
    same(program, make)


def test_a_view_of_several_made_with_gradients_off_passes_its_history_on(same):
    def program(x, y):
        with torch.no_grad():
            view = y.chunk(2)[-1]
        x.add_(view.sum())
        return x * 1, y

    same(program, lambda: [torch.randn(3, 4), torch.randn(3, 4, requires_grad=True) * 2])


@pytest.mark.parametrize("role", ["input", "buffer"])
def test_a_tensor_of_which_eager_saved_a_clone_may_be_written_before_the_backward(role):
    def program(x, queue):
        return (x @ queue.clone(),)

    gm = torch.fx.symbolic_trace(program)
    x, queue = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4)
    for node, tensor, r in zip(gm.graph.nodes, (x, queue), ("input", role)):
        node.meta.update(role=r, source=node.name)
    (expected,) = torch.autograd.grad(program(x, queue)[0].sum(), x)
    (y,) = aot_function(gm, [x, queue], fw_compiler=run_graph)(x, queue)
    queue.zero_()
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], expected)
