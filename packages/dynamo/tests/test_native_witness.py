"""What is remembered of a success must never outlive what it relies on: random programs of changes, against a full check."""

import gc
import random
import types

import pytest
import torch

from lamina_dynamo.guards import GuardKind, GuardSet, TensorSpec
from lamina_dynamo.native import compile_guards
from lamina_dynamo.source import (
    AttrSource,
    CellSource,
    ClosureSource,
    CodeSource,
    ConstantSource,
    DefaultsSource,
    GlobalSource,
    GlobalsSource,
    InstanceDictSource,
    ItemSource,
    KwDefaultsSource,
    LocalSource,
    TypeAttrSource,
    TypeSource,
    instance_attr,
    module_member,
)

K, L = GuardKind, LocalSource


class Leaf(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2, 3))
        self.register_buffer("b", torch.zeros(3))
        self.scale = 2.5

    def forward(self, x):
        return x * self.scale


class Other(Leaf):
    pass


class Weight(torch.nn.Parameter):
    pass


class World:
    """Everything a frame can reach, and what can happen to it."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        n = 1000

        def inlined(x, k=5000, *, kw="kw"):
            return n

        self.cell = inlined.__closure__[0]
        self.inlined = inlined
        self.net = torch.nn.Module()
        self.net.layers = torch.nn.ModuleList(Leaf() for _ in range(3))
        self.net.items = [torch.zeros(2), 7, "s", [1, 2]]
        self.net.table = {"a": torch.zeros(3), "n": 12345, 3: (1, 2)}
        self.net.pair = (torch.zeros(4), [torch.zeros(1)])
        self.net.plain = types.SimpleNamespace(depth=3, inner=types.SimpleNamespace(flag=True))
        self.x = torch.zeros(2, 3)
        self.globals = {"CONST": 11111, "fn": inlined, "mode": "train", "big": torch.zeros(5)}
        self.free = types.CellType(99999)
        self.undo = []

    def roots(self):
        return (self.net, self.x), self.globals, (self.free,)

    def guards(self):
        gs = GuardSet()
        net, x = L("net"), L("x")
        gs.add(x, K.TENSOR, TensorSpec.of(self.x))
        gs.add(net, K.TYPE, type(self.net))
        for i in range(3):
            leaf = module_member(module_member(net, "_modules", "layers"), "_modules", str(i))
            m = self.net.layers[i]
            gs.add(leaf, K.TYPE, Leaf)
            gs.add(module_member(leaf, "_parameters", "w"), K.TENSOR, TensorSpec.of(m.w))
            gs.add(module_member(leaf, "_buffers", "b"), K.TENSOR, TensorSpec.of(m.b))
            gs.add(instance_attr(leaf, "scale"), K.EQUALS, m.scale)
            gs.add(instance_attr(leaf, "training"), K.BOOL, True)
            gs.add(instance_attr(leaf, "_forward_hooks"), K.LEN, 0)
            gs.add(InstanceDictSource(leaf), K.NO_KEY, "forward")
            gs.add(TypeAttrSource(TypeSource(leaf), "forward"), K.ID, Leaf.forward)
            gs.add(AttrSource(leaf, "scale"), K.EQUALS, m.scale) if i == 2 else None
        gs.add(instance_attr(module_member(net, "_modules", "layers"), "_modules"), K.DICT_KEYS, ("0", "1", "2"))
        items = instance_attr(net, "items")
        gs.add(items, K.LEN, 4)
        gs.add(ItemSource(items, 0), K.TENSOR, TensorSpec.of(self.net.items[0]))
        gs.add(ItemSource(items, 1), K.EQUALS, 7)
        gs.add(ItemSource(items, -2), K.EQUALS, "s")
        gs.add(ItemSource(items, 3), K.EQUALS, [1, 2])
        table = instance_attr(net, "table")
        gs.add(table, K.DICT_KEYS, ("a", "n", 3))
        gs.add(ItemSource(table, "a"), K.TENSOR, TensorSpec.of(self.net.table["a"]))
        gs.add(ItemSource(table, "n"), K.EQUALS, 12345)
        gs.add(ItemSource(ItemSource(table, 3), 1), K.EQUALS, 2)
        gs.add(ItemSource(instance_attr(net, "pair"), 0), K.TENSOR, TensorSpec.of(self.net.pair[0]))
        gs.add(ItemSource(ItemSource(instance_attr(net, "pair"), 1), 0), K.TENSOR, TensorSpec.of(self.net.pair[1][0]))
        plain = instance_attr(net, "plain")
        gs.add(instance_attr(plain, "depth"), K.EQUALS, 3)
        gs.add(instance_attr(instance_attr(plain, "inner"), "flag"), K.BOOL, True)
        gs.add(plain, K.NO_ATTR, "extra")
        gs.add(GlobalSource("CONST"), K.EQUALS, 11111)
        gs.add(GlobalSource("mode"), K.EQUALS, "train")
        gs.add(GlobalsSource(), K.NO_KEY, "len")
        gs.add(GlobalSource("big"), K.TENSOR, TensorSpec.of(self.globals["big"]))
        fn = GlobalSource("fn")
        gs.add(fn, K.TYPE, types.FunctionType)
        gs.add(CodeSource(fn), K.ID, self.inlined.__code__)
        gs.add(ClosureSource(fn, 0), K.EQUALS, 1000)
        gs.add(DefaultsSource(fn, 0), K.EQUALS, 5000)
        gs.add(KwDefaultsSource(fn, "kw"), K.EQUALS, "kw")
        gs.add(CellSource("free"), K.EQUALS, 99999)
        gs.add(ItemSource(ConstantSource(HELD), "v"), K.EQUALS, 1)
        supplied = [module_member(module_member(module_member(net, "_modules", "layers"), "_modules", str(i)), "_parameters", "w") for i in range(3)]
        return list(gs), [*supplied, ItemSource(items, 0), ItemSource(table, "a"), ItemSource(ItemSource(instance_attr(net, "pair"), 1), 0)]

    def expected_supply(self):
        return [*(m.w for m in self.net.layers), self.net.items[0], self.net.table["a"], self.net.pair[1][0]]

    # each change: (do, undo); half of them keep the guards true
    def changes(self):
        leaf = self.rng.choice(list(self.net.layers))
        net, g, r = self.net, self.globals, self.rng
        assign = lambda o, n, v: (lambda old=getattr(o, n): setattr(o, n, v) or (lambda: setattr(o, n, old)))()
        item = lambda o, k, v: (lambda old=o[k]: o.__setitem__(k, v) or (lambda: o.__setitem__(k, old)))()
        return {
            "same weight shape": lambda: assign(leaf, "w", torch.nn.Parameter(torch.ones(2, 3))),
            "other weight shape": lambda: assign(leaf, "w", torch.nn.Parameter(torch.ones(3, 2))),
            "weight data": lambda: leaf.w.data.add_(1) is None or None,
            "frozen": lambda: leaf.w.requires_grad_(not leaf.w.requires_grad) is None or (lambda: leaf.w.requires_grad_(True)),
            "weight data replaced": lambda: assign(leaf.w, "data", r.choice([torch.ones(2, 3), torch.ones(3, 2), torch.ones(3, 2).t(), torch.ones(4, 3)[2:], torch.ones(2, 3).double()])),
            "weight resized": lambda: leaf.w.data.resize_(r.choice([2, 3]), 3) is None or (lambda: setattr(leaf.w, "data", torch.ones(2, 3))),
            "weight class": lambda: assign(leaf.w, "__class__", r.choice([torch.nn.Parameter, Weight])),
            "buffer": lambda: assign(leaf, "b", torch.ones(r.choice([3, 4]))),
            "scale": lambda: assign(leaf, "scale", r.choice([2.5, 2.0, float("2.5")])),
            "train": lambda: assign(leaf, "training", not leaf.training),
            "hook": lambda: leaf.register_forward_hook(print).remove,
            "own forward": lambda: leaf.__dict__.__setitem__("forward", 1) or (lambda: leaf.__dict__.pop("forward", None)),
            "class": lambda: assign(leaf, "__class__", r.choice([Leaf, Other])),
            "class attribute": lambda: assign(Leaf, "forward", r.choice([Leaf.forward, lambda self, x: x])),
            "unrelated class attribute": lambda: assign(Leaf, "note", r.random()) if hasattr(Leaf, "note") else setattr(Leaf, "note", 0),
            "new attribute": lambda: setattr(leaf, "counter", r.random()),
            "new dict": lambda: assign(leaf, "__dict__", dict(leaf.__dict__)),
            "append layer": lambda: net.layers.append(Leaf()) and (lambda: net.layers.pop(3)),
            "same items": lambda: assign(net, "items", list(net.items)),
            "append item": lambda: net.items.append(1) or net.items.pop,
            "item 0": lambda: item(net.items, 0, torch.ones(r.choice([2, 3]))),
            "item 1": lambda: item(net.items, 1, r.choice([7, 8])),
            "item 3": lambda: item(net.items, 3, r.choice([[1, 2], [1, 3]])),
            "inside item 3": lambda: item(net.items[3], 1, r.choice([2, 4])),
            "table a": lambda: item(net.table, "a", torch.ones(r.choice([3, 4]))),
            "table n": lambda: item(net.table, "n", r.choice([12345, 54321])),
            "table key": lambda: net.table.__setitem__("z", 0) or (lambda: net.table.pop("z", None)),
            "table entry gone and back": lambda: (lambda kept: net.table.clear() or net.table.update(kept))(dict(net.table)),
            "table entry gone": lambda: (lambda v: lambda: net.table.setdefault(3, v))(net.table.pop(3, (1, 2))),
            "table merged": lambda: net.table.__ior__({"n": r.choice([12345, 12346])}) is None or (lambda: net.table.update(n=12345)),
            "same table": lambda: assign(net, "table", dict(net.table)),
            "pair": lambda: assign(net, "pair", (torch.ones(r.choice([4, 5])), net.pair[1])),
            "inside pair": lambda: item(net.pair[1], 0, torch.ones(r.choice([1, 2]))),
            "depth": lambda: assign(net.plain, "depth", r.choice([3, 4])),
            "inner flag": lambda: assign(net.plain.inner, "flag", r.choice([True, False])),
            "inner": lambda: assign(net.plain, "inner", types.SimpleNamespace(flag=r.choice([True, True, 1]))),
            "extra": lambda: setattr(net.plain, "extra", 1) or (lambda: net.plain.__dict__.pop("extra", None)),
            "global": lambda: item(g, "CONST", r.choice([11111, 11112])),
            "global mode": lambda: item(g, "mode", r.choice(["train", "eval"])),
            "global noise": lambda: g.__setitem__("noise", r.random()),
            "shadowed builtin": lambda: g.__setitem__("len", 1) or (lambda: g.pop("len", None)),
            "global tensor": lambda: item(g, "big", torch.ones(r.choice([5, 6]))),
            "other globals": lambda: assign(self, "globals", dict(g)),
            "cell": lambda: assign(self.cell, "cell_contents", r.choice([1000, 1001])),
            "free": lambda: assign(self.free, "cell_contents", r.choice([99999, 99998])),
            "other cell": lambda: assign(self, "free", types.CellType(r.choice([99999, 99998]))),
            "defaults": lambda: assign(self.inlined, "__defaults__", (r.choice([5000, 5001]),)),
            "kwdefaults": lambda: assign(self.inlined, "__kwdefaults__", {"kw": r.choice(["kw", "k"])}),
            "inside kwdefaults": lambda: item(self.inlined.__kwdefaults__, "kw", r.choice(["kw", "k"])),
            "code": lambda: assign(self.inlined, "__code__", r.choice([self.inlined.__code__, self.inlined.__code__.replace(co_name="other")])),
            "x": lambda: assign(self, "x", torch.ones(2, r.choice([3, 4]))),
            "other net": lambda: assign(self, "net", World(1).net),
            "held": lambda: item(HELD, "v", r.choice([1, 2])),
        }

    def step(self):
        """One random change, or undo of all, which makes every guard true again."""
        if self.undo and self.rng.random() < 0.3:
            while self.undo:
                self.undo.pop()()
            return "undo"
        name, change = self.rng.choice(list(self.changes().items()))
        undo = change()
        if callable(undo):
            self.undo.append(undo)
        return name


HELD = {"v": 1}


@pytest.mark.parametrize("seed", range(12))
def test_remembering_never_changes_the_answer(seed):
    world = World(seed)
    guards, supplied = world.guards()
    program = compile_guards(guards, ["net", "x"], free_names=["free"], supplied=supplied)
    assert program.failure(*world.roots()) is None
    hits = 0
    note = Leaf.__dict__.get("note")
    try:
        for i in range(400):
            name = world.step()
            for _ in range(world.rng.choice([1, 1, 3, 20])):
                want = program.failure(*world.roots()) is None
                got = program.supply(*world.roots())
                assert (got is not None) == want, f"step {i}: after {name} remembered says {not want}: {program.explain_failure(*world.roots())}"
                if got is not None:
                    assert all(a is b for a, b in zip(got, world.expected_supply(), strict=True)), name
                    hits += 1
            if i % 50 == 0:
                gc.collect()
    finally:
        while world.undo:
            world.undo.pop()()
        if note is None and "note" in Leaf.__dict__:
            del Leaf.note
    assert hits > 30 and not program.stats()["needs_user_code"], "the test must see remembered successes"
    assert program.failure(*world.roots()) is None and program.check(*world.roots())


@pytest.mark.parametrize("place", ["cell", "list"])
def test_a_new_object_at_an_old_address_is_not_the_old_one(place):
    """Cells and lists have no version: equal pointers must not be enough."""
    cell, items = types.CellType(0), [0]
    source = CellSource("c") if place == "cell" else ItemSource(instance_attr(L("h"), "items"), 0)
    program = compile_guards(GuardSet_of(source, K.EQUALS, 10**6), ["h"], free_names=["c"])
    holder = types.SimpleNamespace(items=items)

    def put(text):
        if place == "cell":
            cell.cell_contents = None  # frees the address that the next number takes
            cell.cell_contents = int(text)
        else:
            items[0] = None
            items[0] = int(text)

    roots = (holder,), {}, (cell,)
    for _ in range(3):
        put("1000000")
        assert program.check(*roots) and program.check(*roots)
        put("1000001")
        assert not program.check(*roots)


def GuardSet_of(*args):
    gs = GuardSet()
    gs.add(*args)
    return list(gs)


def test_what_changes_at_every_call_is_read_again_instead_of_remembered():
    holder = types.SimpleNamespace(count=0, w=torch.zeros(2))
    program = compile_guards(GuardSet_of(instance_attr(L("h"), "w"), K.TENSOR, TensorSpec.of(holder.w)), ["h"])
    for _ in range(50):
        holder.count += 1
        assert program.check((holder,))
    before = program.stats()["hits"]
    for _ in range(50):
        holder.count += 1
        assert program.check((holder,))
    assert program.stats()["hits"] - before == 50, "the remembered form was rebuilt"
    assert program.stats()["witnesses"] == 1
    holder.w = torch.zeros(3)
    assert not program.check((holder,))


def test_many_instances_share_one_program():
    program = compile_guards(GuardSet_of(instance_attr(L("h"), "w"), K.TENSOR, TensorSpec.of(torch.zeros(2))), ["h"], supplied=[instance_attr(L("h"), "w")])
    holders = [types.SimpleNamespace(w=torch.zeros(2)) for _ in range(30)]
    for _ in range(10):
        for h in holders:
            assert program.supply((h,))[0] is h.w
    holders[3].w = torch.zeros(3)
    assert [program.check((h,)) for h in holders] == [i != 3 for i in range(30)]
    before = program.stats()["hits"]
    for _ in range(10):
        for h in holders:
            program.check((h,))
    assert program.stats()["hits"] - before >= 290 - 10, "after many instances nothing is pinned to one"


def test_new_dictionary_argument_at_every_call():
    program = compile_guards(GuardSet_of(ItemSource(L("d"), "k"), K.TENSOR, TensorSpec.of(torch.zeros(2))), ["d"], supplied=[ItemSource(L("d"), "k")])
    for i in range(100):
        t = torch.zeros(2 + (i == 99))
        assert (program.supply(({"k": t},)) == (t,)) if i < 99 else not program.check(({"k": t},))
