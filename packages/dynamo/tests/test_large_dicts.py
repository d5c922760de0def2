"""Large outside dictionaries: read key by key, copied where the program does more, never with what they held at capture."""

import copy
from collections import OrderedDict, defaultdict

import pytest
import torch
from lamina_dynamo import optimize
from lamina_dynamo.lift import LARGE_DICT

LARGE = 30


@pytest.fixture(autouse=True)
def fewer_entries_are_many(monkeypatch):
    monkeypatch.setattr("lamina_dynamo.lift.LARGE_DICT", LARGE)


class Plain(dict):
    pass


class Ordered(OrderedDict):
    pass


READS = {
    "truth": lambda d, x: x + 1 if d else x,
    "bool": lambda d, x: x + bool(d),
    "len": lambda d, x: x + len(d),
    "in": lambda d, x: x + ("new" in d) + ("k39" not in d),
    "get": lambda d, x: x + d.get("new", 3),
    "item": lambda d, x: x + d["k3"],
    "equal": lambda d, x: x + (d == {"k0": 0}),
    "or": lambda d, x: x + sum((d | {"z": 1}).values()),
    "or_right": lambda d, x: x + sum(({"z": 1} | d).values()),
    "keys": lambda d, x: x + sum(len(k) for k in d),
    "items": lambda d, x: x + sum(v for _, v in d.items()),
    "list": lambda d, x: x + len(list(d)[-1]),
    "reversed": lambda d, x: x + len(next(reversed(d))),
    "star": lambda d, x: x + sum({**d}.values()),
    "copy": lambda d, x: x + sum(copy.copy(d).values()) + sum(d.copy().values()),
    "deepcopy": lambda d, x: x + sum(copy.deepcopy(d).values()),
    "text": lambda d, x: x + len(str(d)) + len(f"{d}"),
    "any": lambda d, x: x + any(d) + len(max(d, default="")),
    "view": lambda d, x: x + len(d.keys() & {"new", "k3"}),
}
CHANGES = (lambda d: None, lambda d: d.update(new=7), lambda d: d.update(k3=70), lambda d: d.pop("k0"), lambda d: d.clear())


def compiled(fn, graphs):
    def backend(gm, example_inputs):
        graphs.append(gm)
        return gm.forward

    return optimize(fn, backend)


def outcome(fn, *args):
    try:
        return fn(*args).tolist()
    except (LookupError, StopIteration) as error:
        return repr(error)


def fill(d, size=LARGE + 10):
    for i in range(size):
        d[f"k{i}"] = i
    return d


@pytest.mark.parametrize("make", [dict, Plain, OrderedDict, Ordered, lambda: defaultdict(int)], ids=["dict", "subclass", "OrderedDict", "ordered_subclass", "defaultdict"])
@pytest.mark.parametrize("name", READS)
def test_what_is_read_of_a_large_dict_follows_its_changes(name, make):
    d, x, graphs = fill(make()), torch.ones(2), []

    def read(x):
        return READS[name](d, x)

    fast = compiled(read, graphs)
    assert outcome(fast, x) == outcome(read, x) and len(graphs) == 1
    for change in CHANGES:
        change(d)
        assert outcome(fast, x) == outcome(read, x)


@pytest.mark.parametrize("name", READS)
def test_a_dict_too_large_to_copy_is_never_stale(name, monkeypatch):
    monkeypatch.setattr("lamina_dynamo.lift.MAX_COPIED", LARGE + 1)
    d, x = fill({}), torch.ones(2)

    def read(x):
        return READS[name](d, x)

    fast = compiled(read, [])
    for change in CHANGES:
        change(d)
        assert outcome(fast, x) == outcome(read, x)


def test_writing_to_a_large_dict_is_replayed():
    x, graphs = torch.ones(2), []

    def write(d, x):
        d["new"] = d["k3"] + len(d)
        d.pop("k1")
        d.setdefault("w", d.get("missing"))
        return x * len(d)

    fast, mine, eager = compiled(write, graphs), fill({}), fill({})
    assert torch.equal(fast(mine, x), write(eager, x)) and list(mine.items()) == list(eager.items()) and len(graphs) == 1


def test_a_long_sequential_is_one_graph(monkeypatch):
    monkeypatch.setattr("lamina_dynamo.lift.LARGE_DICT", LARGE_DICT)
    model, x, graphs = torch.nn.Sequential(*[torch.nn.ReLU() if i % 2 else torch.nn.Identity() for i in range(LARGE_DICT + 100)]), torch.randn(3), []
    fast = compiled(model, graphs)
    assert torch.equal(fast(x), model(x)) and len(graphs) == 1


def test_reading_one_key_does_not_depend_on_the_others():
    d, x, graphs = fill({}), torch.ones(2), []
    fast = compiled(lambda x: x * d["k3"], graphs)
    for i in range(5):
        assert fast(x).tolist() == [3.0, 3.0]
        d[f"more{i}"] = i
    assert len(graphs) == 1
