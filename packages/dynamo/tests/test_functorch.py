"""Functorch transforms: one node around a captured function, in results, gradients and counts."""

import lamina_dynamo
import pytest
import torch
from lamina_dynshape.support.counters import counters
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vmap

W = torch.randn(3, 5)
NET = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
MADE_OUTSIDE = vmap(lambda a, b: a @ b, in_dims=(None, 0))


def energy(a):
    return torch.tanh(a @ W).sum()


def per_sample_gradients(x):
    params = {k: v.detach() for k, v in NET.named_parameters()}

    def loss(p, a):
        return functional_call(NET, p, (a.unsqueeze(0),)).pow(2).sum()

    return vmap(grad(loss), in_dims=(None, 0))(params, x)


def closes_over_a_value_of_the_graph(x):
    y = x * 2
    return jacrev(lambda a: torch.sin(a @ W) + y.sum())(x[0])


def writes_its_argument(x):
    y = x.clone()
    vmap(lambda row: row.mul_(2))(y)
    return y


def has_effects(x):
    seen = []
    return vmap(lambda row: (seen.append(1), row + 1)[1])(x), seen


PROGRAMS = [
    lambda x: vmap(energy)(x) * 2,
    lambda x: vmap(grad(energy))(x),
    lambda x: hessian(energy)(x[0]),
    lambda x: jacfwd(lambda a: a * a)(x[1]),
    lambda x: jvp(energy, (x,), (torch.ones_like(x),)),
    lambda x: MADE_OUTSIDE(W.t(), x),
    lambda x: grad_and_value(lambda a, b: (a * b).sum(), argnums=(0, 1))(x, x + 1),
    lambda x: grad(lambda a: (a.pow(3).sum(), a * 2), has_aux=True)(x),
    lambda x: vmap(lambda row: vmap(lambda e: e * e + row.sum())(row))(x),
    lambda x: vmap(lambda row: row * x.shape[0])(x),
    per_sample_gradients, closes_over_a_value_of_the_graph, writes_its_argument, has_effects,
]


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_a_transform_is_part_of_the_graph(program, dynamic):
    graphs = []
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: (graphs.append(gm), gm.forward)[1], fullgraph=True, dynamic=dynamic)
    for n in (4, 6):
        x = torch.randn(n, 3)
        torch.testing.assert_close(fast(x.clone()), program(x.clone()))
    assert len(graphs) in (1, 2)


def test_parameters_first_met_under_a_transform_get_gradients():
    def program(x):
        return vmap(lambda row: torch.tanh(NET(row)))(x)

    x = torch.randn(4, 3)
    counters.clear()
    lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)(x).sum().backward()
    assert counters["graphs"]["captured"] == 1
    ours = [p.grad.clone() for p in NET.parameters()]
    NET.zero_grad()
    program(x).sum().backward()
    torch.testing.assert_close(ours, [p.grad for p in NET.parameters()])
    NET.zero_grad()


def test_a_value_that_outlives_its_transform_is_refused():
    def program(x):
        kept = []
        vmap(lambda row: (kept.append(row), row)[1])(x)
        return kept[0] + 1

    with pytest.raises(lamina_dynamo.Unsupported):
        lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)(torch.ones(2))


def test_a_value_from_outside_of_the_function_lives_on():
    def program(x):
        y = x * 2
        return vmap(lambda row: row + y.sum())(x), y

    x = torch.ones(2, 3)
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    for got, want in zip(fast(x), program(x), strict=True):
        assert torch.equal(got, want)
