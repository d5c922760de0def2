"""What may change between two calls of a class, a function or a module: compiled code must follow eager, and a call stays cheap."""

from __future__ import annotations

import collections
import functools
import logging
import sys
import threading
import types
import weakref

import lamina_dynamo
import pytest
import torch
from lamina_dynamo import source as src
from lamina_dynamo.guards import GuardKind, GuardSet
from lamina_dynamo.native import compile_guards
from torch import nn

X = torch.arange(1.0, 4.0)


def text(v):
    return repr([text(x) for x in v]) if isinstance(v, (list, tuple)) else repr(v)


def follows(program, *changes):
    """`program`, compiled, gives what it gives in eager after each change."""
    compiled = lamina_dynamo.optimize(program, lambda gm, examples: gm.forward, recompile_limit=64)
    for change in (lambda: None, *changes):
        change()
        for _ in range(2):
            assert text(compiled(X)) == text(program(X)), change


def putting(obj, **attributes):
    return lambda: [setattr(obj, k, v) for k, v in attributes.items()]


def taking(obj, name):
    return lambda: delattr(obj, name)


class Root:
    def method(self, x):
        return x + 1


def family():
    mid = type("Mid", (Root,), {})
    leaf = type("Leaf", (mid,), {"method": lambda self, x: super(leaf, self).method(x) * 3})
    return mid, leaf


def test_bases_and_what_is_asked_of_them():
    mid, leaf = family()
    other = type("Other", (Root,), {})
    o = leaf()
    follows(
        lambda x: (isinstance(o, mid), issubclass(leaf, other), leaf.__mro__[1].__name__, leaf.__bases__[0] is mid, mid in leaf.__mro__, x + 1),
        putting(leaf, __bases__=(other,)), putting(leaf, __bases__=(mid,)), putting(mid, __bases__=(other,)), putting(mid, __name__="Renamed"),
    )  # fmt: skip


def test_what_super_finds():
    mid, leaf = family()
    late = type("Late", (leaf,), {"has": lambda self: hasattr(super(late, self), "late")})
    o, p = leaf(), late()
    follows(
        lambda x: (o.method(x), p.has()),
        putting(mid, method=lambda self, x: x + 100), taking(mid, "method"), putting(mid, __bases__=(type("New", (Root,), {"method": lambda self, x: x - 1}),)), putting(Root, late=1), taking(Root, "late"),
    )  # fmt: skip


def test_properties_and_class_methods_through_super():
    base = type("B", (), {"p": property(lambda self: 1), "c": classmethod(lambda cls: 2), "s": staticmethod(lambda: 3), "data": 4})

    class Derived(base):
        def all(self):
            return super().p, super().c(), super().s(), super().data

    d = Derived()
    follows(lambda x: (d.all(), x + 1), putting(base, p=property(lambda self: 10)), putting(base, c=classmethod(lambda cls: 20)), putting(base, s=staticmethod(lambda: 30)), putting(base, data=40), putting(base, p=50))


def test_a_metaclass_that_answers_itself_and_asks_type_for_the_rest():
    class ByName(type):
        def __getattribute__(cls, name):
            return 62 if name == "side" else type.__getattribute__(cls, name)

    class BySuper(type):
        def __getattribute__(cls, name):
            return 63 if name == "side" else super().__getattribute__(name)

    class A(metaclass=ByName):
        a = 3

    class B(metaclass=BySuper):
        a = 4

    def program(x):
        return x * A.a + A.side + B.a * B.side, hasattr(A, "late"), hasattr(B, "late")

    assert lamina_dynamo.optimize(program, lambda gm, examples: gm.forward, fullgraph=True)(torch.ones(1)) == program(torch.ones(1)) == (317, False, False)


def test_a_metaclass():
    class Meta(type):
        pass

    class Kept(metaclass=Meta):
        k = 1

    def program(x):
        try:
            late = Kept.late
        except AttributeError as e:
            late = str(e)
        return x + Kept.k, late, hasattr(Kept, "late")

    follows(
        program, putting(Meta, late=4), putting(Meta, late=5), putting(Meta, k=property(lambda cls: 99)), taking(Meta, "k"), putting(Meta, __getattr__=lambda cls, name: 77), taking(Meta, "late"),
        putting(Meta, __getattribute__=lambda cls, name: 33),
    )  # fmt: skip


def test_names_and_members_of_functions():
    def g(a, b=2, *, c=3):
        "first"
        return a

    g.tag = 1
    follows(
        lambda x: (g.__name__, g.__doc__, g.__defaults__, g.__kwdefaults__["c"], g.__dict__.get("late"), g.tag, getattr(g, "late", 0), g.__code__.co_argcount, len(g.__dict__), x + 1),
        putting(g, __name__="h"), putting(g, __doc__="second"), putting(g, __defaults__=(9,)), lambda: g.__kwdefaults__.update(c=5), putting(g, __kwdefaults__={"c": 8}), putting(g, tag=4),
        putting(g, late=1), putting(g, __code__=(lambda a, b=2, d=1, *, c=3: a).__code__),
    )  # fmt: skip


def test_the_dictionary_of_a_class():
    cls = type("C", (), {"a": 1})
    follows(lambda x: (sorted(k for k in vars(cls) if len(k) == 1), "late" in cls.__dict__, vars(cls).get("a"), x + 1), putting(cls, a=2), putting(cls, b=3), putting(cls, late=1))


def test_what_a_descriptor_holds():
    cls = type("C", (), {"m": functools.partialmethod(lambda self, a, k: a + k, k=5)})
    o, held = cls(), cls.__dict__["m"]
    follows(lambda x: o.m(x), lambda: held.keywords.update(k=10), putting(cls, m=functools.partialmethod(lambda self, a, k: a - k, k=1)))


def test_two_closures_that_were_one():
    def make():
        n = 1

        def bump():
            nonlocal n
            n += 1
            return n

        return bump, lambda: n

    (bump, first), (_, second) = make(), make()
    names = {"bump": bump, "first": first, "second": first}
    compiled = lamina_dynamo.optimize(lambda x: (x, names["bump"](), names["first"](), names["second"]()), lambda gm, examples: gm.forward)
    assert compiled(X)[1:] == (2, 2, 2)
    names["second"] = second
    assert compiled(X)[1:] == (3, 3, 1)


def test_the_order_of_an_ordered_dictionary():
    table = collections.OrderedDict(a=1, b=2)
    follows(lambda x: (list(table), x + next(iter(table.values()))), lambda: table.move_to_end("a"), lambda: table.move_to_end("a", last=False))


def test_order_of_hooks():
    lin = nn.Linear(3, 3)
    first, _ = lin.register_forward_hook(lambda m, args, out: out + 1), lin.register_forward_hook(lambda m, args, out: out * 2)
    follows(lambda x: lin(x), lambda: lin._forward_hooks.move_to_end(first.id))


def test_a_list_that_says_what_it_iterates_over():
    class Listed(list):
        def __iter__(self):
            return iter([8])

    listed = Listed([1, 2])
    follows(lambda x: (x, 2 in listed, 8 in listed, list(listed)))


def test_defaults_of_two_functions_of_one_name():
    one, two = (collections.namedtuple("N", "a b", defaults=[d]) for d in (2, 3))
    follows(lambda x: (x, one(1).b, two(1).b), *[lambda d=d: setattr(one.__new__, "__defaults__", (d,)) for d in (7, 8, 9)])


def test_what_a_module_lacks(monkeypatch):
    m = types.ModuleType("late_module")
    monkeypatch.setitem(sys.modules, "late_module", m)
    other = types.ModuleType("late_module")
    other.late = 7

    def program(x):
        import late_module

        return x, hasattr(late_module, "late"), getattr(late_module, "late", 0)

    follows(program, putting(m, late=1), taking(m, "late"), putting(m, __getattr__=lambda name: 5), lambda: monkeypatch.setitem(sys.modules, "late_module", other))


def test_an_attribute_over_a_member_of_a_module():
    net = nn.Sequential()
    net.w = nn.Parameter(torch.ones(3))
    follows(lambda x: x * net.w, lambda: net.__dict__.update(w=torch.zeros(3)), lambda: net.__dict__.pop("w"))


@pytest.mark.parametrize("owner, name", [(nn.functional, "relu"), (torch, "sin"), (torch.Tensor, "cos"), (nn.Linear, "forward"), (nn.functional, "linear"), (torch.Tensor, "late")])
def test_what_programs_patch_in_torch(monkeypatch, owner, name):
    lin = nn.Linear(3, 3)

    def program(x):
        return nn.functional.relu(x), torch.sin(x), x.cos(), lin(x).detach(), x.late() if hasattr(x, "late") else 0

    follows(program, lambda: monkeypatch.setattr(owner, name, lambda *args, **kwargs: args[0] * 100 if owner is not nn.Linear else args[1], raising=False), monkeypatch.undo)


def test_levels_of_loggers():
    logger = logging.getLogger("lamina.test_levels")
    parent = logging.Logger("parent", 10)
    follows(lambda x: (x, logger.isEnabledFor(20), logger.level, logging.getLogger("lamina.test_levels").getEffectiveLevel()), lambda: logger.setLevel(10), lambda: logger.setLevel(0), putting(logger, parent=parent), putting(logger, disabled=True))


def test_a_record_that_is_emitted_later(caplog):
    logger = logging.getLogger("lamina.test_records")
    logger.setLevel(30)

    def program(x):
        logger.info("seen")
        return x + 1

    compiled = lamina_dynamo.optimize(program, lambda gm, examples: gm.forward)
    compiled(X)
    assert not caplog.records
    logger.setLevel(20)
    compiled(X)
    assert [r.getMessage() for r in caplog.records] == ["seen"]


def test_locals_of_a_thread():
    local = threading.local()
    local.v = 2
    follows(lambda x: (x + local.v, getattr(local, "late", 0)), putting(local, v=3), putting(local, late=1), taking(local, "late"))


def test_weak_containers():
    class Key:
        pass

    a, b = Key(), Key()
    values, keys, members = weakref.WeakValueDictionary(a=a), weakref.WeakKeyDictionary({a: 1}), weakref.WeakSet([a])
    follows(lambda x: (x, "b" in values, len(values), keys.get(b), b in members), lambda: values.update(b=b), lambda: keys.update({b: 2}), lambda: members.add(b), lambda: keys.update({b: 3}))


def test_anomaly_mode_and_the_cache_of_autocast():
    try:
        follows(
            lambda x: (x + 1, torch.is_anomaly_enabled(), torch.is_autocast_cache_enabled()),
            lambda: torch.set_anomaly_enabled(True), lambda: torch.set_anomaly_enabled(False), lambda: torch.set_autocast_cache_enabled(False),
        )  # fmt: skip
    finally:
        torch.set_anomaly_enabled(False)
        torch.set_autocast_cache_enabled(True)


def program_of(*guards):
    found = GuardSet()
    for g in guards:
        found.add(*g)
    return compile_guards(found, ("o",))


def test_an_mro_guard_is_remembered_and_keeps_nothing_alive():
    mid, leaf = family()
    alive = weakref.ref(mid)
    program = program_of((src.ConstantSource(leaf), GuardKind.MRO, leaf.__mro__))
    assert "Mid" in str(program.guards[0])
    assert all(program.check((1,)) for _ in range(3))
    leaf.__bases__ = (Root,)
    assert not program.check((1,))
    assert "Mid" in program.explain_failure((1,)).expected
    leaf.__bases__ = (mid,)
    assert program.check((1,))
    leaf.__bases__ = (Root,)
    del mid
    __import__("gc").collect()
    assert alive() is None and not program.check((1,))


def test_member_guards():
    def g():
        pass

    program = program_of(*[(src.MemberSource(src.ConstantSource(g), n), GuardKind.EQUALS, getattr(g, n)) for n in ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__")])
    assert all(program.check((1,)) for _ in range(3))
    for name, value in (("__name__", "h"), ("__doc__", "text"), ("__defaults__", ())):
        before = getattr(g, name)
        setattr(g, name, value)
        assert not program.check((1,)), name
        setattr(g, name, before)
        assert program.check((1,))
