"""`torch.Generator` arguments and methods: eager's stream, eager's states afterwards, one graph."""

import lamina_dynamo
import pytest
import torch
from lamina_dynamo import Unsupported
from lamina_dynshape.support.counters import counters

from backends import BACKENDS

G, H = torch.Generator(), torch.Generator()


def factories(x, g):
    return x + torch.randn(4, 3, generator=g) * torch.rand(4, 3, generator=G), torch.randperm(4, generator=g), torch.randint(0, 9, (3,), generator=H)


def in_place(x, g):
    y = torch.empty(4, 3).normal_(generator=g).uniform_(0, 2, generator=G)
    return x + y + torch.empty(3).exponential_(generator=g), torch.empty(3).random_(generator=g)


def of_tensors(x, g):
    p = x.sigmoid()
    return torch.bernoulli(p, generator=g), torch.multinomial(p, 2, generator=g), torch.normal(x, p, generator=g), torch.normal(0.0, 1.0, (3,), generator=g)


def initialised(x, g):
    w = torch.empty(5, 3)
    torch.nn.init.kaiming_uniform_(w, generator=g)
    torch.nn.init.xavier_normal_(w[:2], generator=g)
    return x @ w.t()


def made_inside(x, g):
    g = torch.Generator(device="cpu")
    first = torch.rand(3, generator=g)
    g.manual_seed(0)
    return x + first + torch.randn(4, 3, generator=g) + torch.rand(3, generator=torch.Generator().manual_seed(4))


def seeded(x, g):
    G.manual_seed(7)
    return x + torch.randn(3, generator=G)


def seeded_last(x, g):
    y = x + torch.randn(3, generator=g)
    g.manual_seed(3)
    return y


def states(x, g):
    s = g.get_state()
    a = torch.rand(3, generator=g)
    g.set_state(s)
    return x + a - torch.rand(3, generator=g), s


def beside_the_default(x, g):
    a = torch.rand(3)
    b = torch.rand(3, generator=g)
    c = torch.rand(3, generator=torch.default_generator)
    return x + a + b + c + torch.rand(3, generator=None) + torch.nn.functional.dropout(x, 0.5)


def a_new_one(x, g):
    made = torch.Generator().manual_seed(2)
    return x + torch.rand(3, generator=made), made


def its_device(x, g):
    return x + torch.rand(3, generator=g, device=g.device) if g is not None else x


WHOLE = [factories, in_place, of_tensors, initialised, made_inside, seeded, seeded_last, states, beside_the_default, a_new_one, its_device]


def reseeded(x, g):
    return x * (g.initial_seed() % 3) + torch.rand(3, generator=g)


def by_the_system(x, g):
    h = torch.Generator()
    h.seed()
    return x + torch.rand(3, generator=g)


BROKEN = [reseeded, by_the_system]


def _outcome(f):
    torch.manual_seed(0)
    G.manual_seed(1), H.manual_seed(2)
    g = torch.Generator().manual_seed(3)
    outs = [f(torch.arange(12.0).view(4, 3), g) for _ in range(3)]
    outs += [f(torch.arange(12.0).view(4, 3), torch.Generator().manual_seed(9))]
    return outs, [k.get_state() for k in (G, H, g, torch.default_generator)]


def _compare(got, expected):
    if isinstance(expected, torch.Generator):
        got, expected = got.get_state(), expected.get_state()
    if isinstance(expected, (tuple, list)):
        assert type(got) is type(expected)
        for g, e in zip(got, expected, strict=True):
            _compare(g, e)
    else:
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("program", [*WHOLE, *BROKEN], ids=lambda p: p.__name__)
def test_generators(program, backend):
    expected = _outcome(program)
    counters.clear()
    _compare(_outcome(lamina_dynamo.optimize(program, BACKENDS[backend])), expected)
    assert bool(sum(counters["graph_breaks"].values())) == (program in BROKEN), counters["graph_breaks"]
    if program in WHOLE:
        assert counters["frames"]["captured"] == 1


def test_generators_that_become_one():
    """Two arguments that are the same at another call, or the default one."""

    def program(x, g, h):
        return x + torch.rand(3, generator=g) + 2 * torch.rand(3, generator=h) + 4 * torch.rand(3)

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    counters.clear()
    for pair in ((G, H), (G, G), (H, G), (torch.default_generator, H), (torch.Generator().manual_seed(1), H)):
        got = []
        for f in (program, fast):
            torch.manual_seed(0)
            for k in pair:
                k.manual_seed(5)
            got.append((f(torch.ones(3), *pair), [k.get_state() for k in (*pair, torch.default_generator)]))
        _compare(got[1], got[0])
    assert not counters["graph_breaks"] and counters["frames"]["captured"] == 3


def test_a_graph_that_raises_leaves_the_generator():
    def program(x, i):
        return x[i] + torch.rand(1, generator=G)

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    fast(torch.ones(3), torch.tensor([1]))
    after = []
    for f in (program, fast):
        G.manual_seed(4), torch.manual_seed(4)
        with pytest.raises(IndexError):
            f(torch.ones(3), torch.tensor([7]))
        after.append((G.get_state(), torch.get_rng_state()))
    _compare(after[1], after[0])


def test_state_of_the_generator_is_no_constant():
    def program(x):
        return x * torch.get_rng_state()[0].item()

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    for seed in (1, 7, 250):
        torch.manual_seed(seed)
        assert torch.equal(fast(torch.ones(2)), program(torch.ones(2)))


def test_under_a_transform():
    def program(x):
        return torch.vmap(lambda r: r + torch.rand(3, generator=G), randomness="same")(x)

    with pytest.raises(Unsupported) as e:
        lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)(torch.ones(2, 3))
    assert e.value.code in ("generator", "functorch", "global-state")
