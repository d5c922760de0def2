"""Sources: interned, printed as Python over the frame's roots, read and rebuilt alike."""

import copy
import gc
import pickle
import types
import weakref

import pytest
import torch

from lamina_dynamo.guards import Guard, GuardKind
from lamina_dynamo.native import compile_guards
from lamina_dynamo.source import (
    AttrSource,
    BuiltinSource,
    CallSource,
    CellSource,
    FreeCellSource,
    ClosureSource,
    CodeSource,
    ConstantSource,
    DefaultsSource,
    GlobalSource,
    GlobalsSource,
    InstanceDictSource,
    ItemSource,
    KeySource,
    KwDefaultsSource,
    LocalSource,
    MethodFunctionSource,
    MethodSelfSource,
    OffsetSource,
    SizeSource,
    StrideSource,
    TypeAttrSource,
    TypeSource,
    instance_attr,
    module_member,
)

HERE = ["a global"]


class Thing:
    shared = ("class", "attribute")

    def __init__(self, **kw):
        self.__dict__.update(kw)

    def method(self):
        return self


def example():
    n = 7

    def fn(a, b=2, *, k={"z": 3}):
        return n

    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    thing = Thing(x=[10, 11, (12, 13)], d={"one": 1, 2: "two"})
    x = torch.arange(24.0).reshape(2, 3, 4)[:, 1:]
    L = {"fn": fn, "net": net, "thing": thing, "bound": thing.method, "x": x}
    return types.SimpleNamespace(L=L, G=globals(), C={"free": thing}, cells={"free": types.CellType(thing)})


L = LocalSource
CASES = {
    "L['x']": L("x"),
    "G['HERE']": GlobalSource("HERE"),
    "G": GlobalsSource(),
    "C['free']": CellSource("free"),
    "cell('free')": FreeCellSource("free"),
    "__builtins__['len']": BuiltinSource("len"),
    "const(Thing)": ConstantSource(Thing),
    "L['thing'].x": instance_attr(L("thing"), "x"),
    "L['thing'].x[2][1]": ItemSource(ItemSource(instance_attr(L("thing"), "x"), 2), 1),
    "L['thing'].x[-1]": ItemSource(instance_attr(L("thing"), "x"), -1),
    "L['thing'].d['one']": ItemSource(instance_attr(L("thing"), "d"), "one"),
    "list(L['thing'].d)[1]": KeySource(instance_attr(L("thing"), "d"), 1),
    "L['thing'].__dict__": InstanceDictSource(L("thing")),
    "L['net'][0].weight": module_member(module_member(L("net"), "_modules", "0"), "_parameters", "weight"),
    "type(L['thing'])": TypeSource(L("thing")),
    "lookup(type(L['thing']), 'shared')": TypeAttrSource(TypeSource(L("thing")), "shared"),
    "L['thing'].method": AttrSource(L("thing"), "method"),
    "getattr(L['thing'], 'not an identifier')": None,
    "L['fn'].__code__": CodeSource(L("fn")),
    "L['fn'].__closure__[0].cell_contents": ClosureSource(L("fn"), 0),
    "L['fn'].__defaults__[0]": DefaultsSource(L("fn"), 0),
    "L['fn'].__kwdefaults__['k']": KwDefaultsSource(L("fn"), "k"),
    "L['bound'].__self__": MethodSelfSource(L("bound")),
    "L['bound'].__func__": MethodFunctionSource(L("bound")),
    "L['x'].size(1)": SizeSource(L("x"), 1),
    "L['x'].stride(0)": StrideSource(L("x"), 0),
    "L['x'].storage_offset()": OffsetSource(L("x")),
    "len(L['thing'].x)": CallSource(len, instance_attr(L("thing"), "x")),
}


@pytest.mark.parametrize("text", list(CASES))
def test_name(text):
    source = CASES[text] or AttrSource(L("thing"), "not an identifier")
    assert source.name() == text


READABLE = [s for s in CASES.values() if s is not None]


@pytest.mark.parametrize("source", READABLE, ids=lambda s: s.name())
def test_both_readers_agree(source):
    frame = example()
    want = source.read(frame)
    program = compile_guards([], list(frame.L), free_names=["free"], supplied=[source])
    closure = (frame.cells["free"],)
    for _ in range(3):
        (got,) = program.supply(tuple(frame.L.values()), frame.G, closure)
        assert got is want or (got == want and type(got) is type(want))


def test_interned():
    assert instance_attr(L("a"), "b") is instance_attr(L("a"), "b")
    assert ItemSource(L("a"), 1) is not ItemSource(L("a"), True)
    assert ItemSource(L("a"), 1) is not ItemSource(L("a"), "1")
    assert ConstantSource([]) is not ConstantSource([])
    source = module_member(L("self"), "_parameters", "w")
    assert copy.deepcopy(source) is source is pickle.loads(pickle.dumps(source)) is copy.copy(source)


def test_immutable_and_checked():
    with pytest.raises(AttributeError):
        L("a").local = "b"
    with pytest.raises(TypeError):
        ItemSource(L("a"))


def test_nothing_is_kept():
    class Local:
        pass

    obj = Local()
    gone = weakref.ref(obj)
    source = instance_attr(ConstantSource(obj), "x")
    del obj
    assert gone() is not None
    del source
    gc.collect()
    assert gone() is None


def test_chain_and_root():
    source = module_member(L("self"), "_parameters", "w")
    assert source.root is L("self")
    assert [type(s).__name__ for s in source.chain()] == ["ItemSource", "ItemSource", "InstanceDictSource", "LocalSource"]


def test_unreadable_is_a_failed_guard_not_an_error():
    g = Guard(ItemSource(instance_attr(L("o"), "missing"), 3), GuardKind.NONE)
    program = compile_guards([g], ["o"])
    for value in (3, Thing(), Thing(missing=[]), Thing(missing={}), Thing(missing=4), None, torch.ones(2)):
        assert not program.check((value,))
        assert program.explain_failure((value,)).guard == g
    assert program.check((Thing(missing=[0, 0, 0, None]),))
