"""Random numbers of Python and NumPy in the captured function: eager's stream, eager's states afterwards, one graph."""

import math
import random

import lamina_dynamo
import numpy as np
import pytest
import torch
from lamina_dynamo import Unsupported
from lamina_dynshape.support.counters import counters

from backends import BACKENDS

OWN = random.Random(5)
NP_OWN = np.random.default_rng(5)
NP_STATE = np.random.RandomState(7)


def scaled(x):
    return x * random.random() + random.uniform(-1, 1)


def several_floats(x):
    return x + random.gauss(0.0, 2.0) * random.triangular(0, 1, 0.5), random.expovariate(2.0)


def crop(x):
    i, j = random.randint(0, 8), random.randrange(0, 4)
    return x[i : i + 4, j : j + 3] * 2


def erase(x):
    h, w = random.randint(1, 5), random.randint(1, 4)
    i, j = random.randint(0, 12 - h), random.randint(0, 6 - w)
    x = x.clone()
    x[i : i + h, j : j + w] = 0
    return x


def spec_augment(x):
    for _ in range(2):
        t = int(random.random() * 5)
        t0 = random.randint(0, x.shape[0] - t)
        mask = torch.arange(x.shape[0])
        x = x.masked_fill(((mask >= t0) & (mask < t0 + t))[:, None], 0)
    return x


def chosen(x):
    return x * random.choice([1.5, 2.5, 3.5]) + random.choice((2, 3, 5)), random.sample(range(10), 3)


def shuffled(x):
    order = list(range(12))
    random.shuffle(order)
    return x[torch.tensor(order)]


def mixup(x):
    lam = np.random.beta(0.4, 0.4)
    return lam * x + (1 - lam) * x[torch.from_numpy(np.random.permutation(12))]


def numpy_noise(x):
    return x + torch.from_numpy(np.random.normal(size=(12, 6))).float() + torch.tensor(np.random.rand(6)), np.random.uniform()


def numpy_index(x):
    i = np.random.randint(0, 9)
    return x[i : i + 3], x[np.random.choice(12)]


def numpy_arrays(x):
    idx = np.random.choice(12, 4, replace=False)
    return x[idx], idx, np.random.randint(0, 5, size=(2, 2))


def own_generator(x):
    return x * OWN.random(), OWN.randint(0, 5)


def numpy_generator(x):
    return x * NP_OWN.random() + torch.as_tensor(NP_OWN.standard_normal((12, 6))), NP_OWN.integers(3, 8), NP_STATE.rand()


def seeded(x):
    random.seed(3)
    np.random.seed(4)
    return x * random.random() + np.random.rand()


def made_inside(x):
    r, g, s = random.Random(1), np.random.default_rng(2), np.random.RandomState(3)
    return x * r.random() + g.random() + s.rand(), r.randint(0, 10)


def kept(x):
    kept.last = random.random()
    return x + kept.last


def only_numbers(x):
    return random.random(), np.random.randint(100)


def across_generators(x):
    n = random.randint(2, 6)
    i = np.random.randint(0, 12 - n)
    return x[i : i + n], random.randint(0, 5) + n


def with_torchs(x):
    return torch.nn.functional.dropout(x, 0.5) * random.uniform(0.1, 0.3) + torch.full((6,), random.random())


def of_an_array(x):
    blocks = np.arange(2, 10)
    return x[torch.from_numpy(np.random.permutation(blocks[1:]))[:3]], np.random.choice(blocks), NP_OWN.choice(np.array([0.5, 1.5]))


def cut_out(x):
    share = np.random.beta(1.0, 1.0)
    height = int(12 * np.sqrt(1.0 - share))
    middle = np.random.randint(12)
    first, last = np.clip(middle - height // 2, 0, 12), np.clip(middle + height // 2, 0, 12)
    x = x.clone()
    x[first:last] = 0
    return x, math.cos(random.uniform(-3, 3)) * x, round(random.uniform(1, 4)), float(np.random.rand() * 0.1)


def list_as_index(x):
    return x[random.sample(range(12), 3)], x[:, [random.randint(0, 5), 2]]


def array_as_index(x):
    x = x.clone()
    x[np.random.permutation(12)[:3], 1] = 0
    rows = np.random.choice(12, 4)
    return x[rows, :2]


def never_taken(x, p=0.0, training=False):
    dropped = random.uniform(0, 1)
    return x if training and dropped < p else x * 2


WHOLE = [scaled, several_floats, crop, erase, spec_augment, chosen, shuffled, mixup, numpy_noise, numpy_index, numpy_arrays, own_generator, numpy_generator, seeded, made_inside, kept, only_numbers, across_generators, with_torchs, of_an_array, cut_out, list_as_index, array_as_index, never_taken]


def coin(x):
    return x * 2 if random.random() < 0.5 else x - 1


def loop(x):
    for _ in range(random.randint(1, 3)):
        x = x + 1
    return x


def of_objects(x):
    return random.choice([torch.sin, torch.cos])(x)


def entropy(x):
    random.seed()
    return x * 2


def saved_state(x):
    state = random.getstate()
    y = x * random.random()
    random.setstate(state)
    return y


def each_of_the_other(x):
    n = random.randint(2, 6)
    i = np.random.randint(0, n)
    return x * random.randint(0, i), i


BROKEN = [each_of_the_other, coin, loop, of_objects, entropy, saved_state]


def _seed(n):
    random.seed(n), np.random.seed(n), torch.manual_seed(n), OWN.seed(n), NP_STATE.seed(n)
    NP_OWN.bit_generator.state = np.random.default_rng(n).bit_generator.state


def _states():
    g, n = NP_OWN.bit_generator.state, [np.random.get_state(), NP_STATE.get_state()]
    return random.getstate(), OWN.getstate(), g, [(a[0], a[1].tolist(), *a[2:]) for a in n], torch.get_rng_state().tolist()


def _compare(got, expected):
    if isinstance(expected, (tuple, list)):
        assert type(got) is type(expected) and len(got) == len(expected)
        for g, e in zip(got, expected):
            _compare(g, e)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(got, expected)
    else:
        assert type(got) is type(expected)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("program", [*WHOLE, *BROKEN], ids=lambda p: p.__name__)
def test_draws(program, backend):
    counters.clear()
    fast = lamina_dynamo.optimize(program, BACKENDS[backend])
    x = torch.randn(12, 6)
    for first in (0, 10):
        outs = []
        for f in (program, fast):
            _seed(first)
            outs.append([f(x) for _ in range(4)])
            outs[-1].append(_states() if program is not entropy else None)
        _compare(outs[1][:-1], outs[0][:-1])
        assert outs[0][-1] == outs[1][-1]
    breaks = sum(counters["graph_breaks"].values())
    assert bool(breaks) == (program in BROKEN), counters["graph_breaks"]
    if program in WHOLE:
        assert counters["frames"]["captured"] == 1


class Augment(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rng, self.other = random.Random(0), np.random.default_rng(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(2))
        self.layerdrop = 0.5

    def forward(self, x):
        for layer in self.layers:
            dropped = random.uniform(0, 1)
            if self.training and dropped < self.layerdrop:
                continue
            x = layer(x)
        return x * self.rng.uniform(0.5, 2) + self.other.random()


def test_generators_of_modules():
    """Each instance draws from its own; one reached on two ways is one."""
    a, b = Augment().eval(), Augment().eval()
    b.load_state_dict(a.state_dict())
    fast = lamina_dynamo.optimize(a, lambda gm, inputs: gm.forward)
    x = torch.randn(3, 6)
    counters.clear()
    for n in range(4):
        if n == 2:
            a.rng, b.rng = random.Random(9), random.Random(9)
        if n == 3:
            a.rng, b.rng = random._inst, None
        before = random.getstate()
        got = fast(x)
        after = random.getstate()
        random.setstate(before)
        b.rng = random._inst if n == 3 else b.rng
        torch.testing.assert_close(got, b(x))
        assert random.getstate() == after and a.rng.getstate() == b.rng.getstate()
    assert not counters["graph_breaks"] and counters["frames"]["captured"] == 2  # the third generator is another one of the others


def test_a_check_that_fails_draws_the_numbers_again():
    def program(x):
        y = x * random.random()
        if x.sum() > 100:
            raise ValueError(f"too large by {random.random()}")
        return y

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    random.seed(1)
    fast(torch.ones(3))
    state = random.getstate()
    errors = []
    for f in (fast, program):
        random.setstate(state)
        with pytest.raises(ValueError) as e:
            f(torch.full((3,), 100.0))
        errors.append((str(e.value), random.getstate()))
    assert errors[0] == errors[1]


def test_a_graph_that_raises_draws_the_numbers_again():
    def program(x, i):
        return x[i] * random.random()

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    fast(torch.ones(3), torch.tensor([1]))
    random.seed(2)
    with pytest.raises(IndexError):
        fast(torch.ones(3), torch.tensor([7]))
    state = random.getstate()
    random.seed(2)
    with pytest.raises(IndexError):
        program(torch.ones(3), torch.tensor([7]))
    assert random.getstate() == state


def test_a_failed_guard_draws_once():
    """Entries are tried one after the other; sizes that are drawn are no guards."""

    def program(x, n):
        k = random.randint(0, 5)
        return x[k:] * n, torch.zeros(k)

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, dynamic=False)
    counters.clear()
    for n in (1, 2, 1, 2, 1):
        random.seed(n)
        got = fast(torch.arange(6.0), n)
        state = random.getstate()
        random.seed(n)
        for g, e in zip(got, program(torch.arange(6.0), n)):
            assert torch.equal(g, e)
        assert random.getstate() == state
    assert counters["frames"]["captured"] == 2


def test_a_branch_says_why():
    def program(x):
        return x * 2 if random.random() < 0.5 else x

    with pytest.raises(Unsupported, match="a branch on a random number") as e:
        lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)(torch.ones(3))
    assert e.value.code == "random"


def test_changing_sizes():
    def program(x):
        t = random.randint(0, 5)
        t0 = random.randint(0, x.shape[0] - t)
        x = x.clone()
        x[t0 : t0 + t] = 0
        return x * int(random.random() * x.shape[0])

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    counters.clear()
    for n in range(8, 20):
        random.seed(n)
        got = fast(torch.arange(float(n)))
        random.seed(n)
        assert torch.equal(got, program(torch.arange(float(n))))
    assert not counters["graph_breaks"] and counters["frames"]["captured"] == 2


def test_beside_a_function_that_is_allowed_in_the_graph():
    """It may draw from the same generator."""

    @lamina_dynamo.allow_in_graph
    def noise(x):
        return x + random.random()

    def program(x):
        return noise(x * random.random()) * random.random()

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    x = torch.ones(2)
    outs = []
    for f in (program, fast):
        random.seed(4)
        outs.append(([f(x).tolist() for _ in range(3)], random.getstate()))
    assert outs[0] == outs[1]
