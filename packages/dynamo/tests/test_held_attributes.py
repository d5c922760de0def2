"""Attributes that one call's tensor or object has and another's lacks: read, written, deleted, asked for."""

import functools
import types

import enum

import pytest
import torch
from torch import nn

from lamina_dynamo.runtime import Options, compile_callable

NAMES = ("sizes", "dev", "offset", "constant", "fake_mode", "storage_key", "nothing", "tag")


def missing(x, w):
    texts = []
    for t in (x, w, x + 1):
        for name in NAMES:
            try:
                getattr(t, name)
            except AttributeError as e:
                texts.append((str(e), e.name, e.obj is t))
            texts.append(hasattr(t, name))
    return texts


def deleted(x, w):
    texts = []
    w.tag = 3
    del w.tag
    for t in (x, w, x * 2):
        try:
            del t.tag
        except AttributeError as e:
            texts.append(str(e))
        texts.append(getattr(t, "tag", None))
    return texts


def made(x, w):
    y = x + 1
    y.tag = [1]
    y.tag.append(2)
    z = y.tag
    del y.tag
    return z, hasattr(y, "tag"), y


def asked(x, w):
    return x * 2 if hasattr(x, "tag") else x


def asked_with_default(x, w):
    return x * getattr(x, "tag", 5) + getattr(w, "tag", 7)


def caught(x, w):
    try:
        return x * x.tag
    except AttributeError:
        return x - 1


def tensors(*tagged):
    x, w = torch.ones(2), nn.Parameter(torch.ones(2))
    for t in ("x", "w"):
        if t in tagged:
            {"x": x, "w": w}[t].tag = 4
    return x, w


@pytest.mark.parametrize("fn", [missing, deleted, made, asked, asked_with_default, caught], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", [((), ("x",), ("w",), ("x", "w"), ()), (("x", "w"), (), ("x",))])
def test_attributes_of_tensors(fn, order):
    graphs = []
    compiled = compile_callable(fn, Options(lambda gm, examples: graphs.append(gm) or gm.forward, fullgraph=True))
    for tagged in order:
        ours, theirs = tensors(*tagged), tensors(*tagged)
        got, want = compiled(*ours), fn(*theirs)
        if isinstance(want, torch.Tensor):
            assert torch.equal(got, want)
        else:
            assert str(got) == str(want)
        assert [t.__dict__ for t in ours] == [t.__dict__ for t in theirs]


class Plain:
    pass


class Slotted:
    __slots__ = ("tag",)


class Net(nn.Module):
    pass


class Part(functools.partial):
    def __new__(cls):
        return super().__new__(cls, len)


def store_and_delete(o, x):
    o.tag = 1
    del o.tag
    return x * (2 if hasattr(o, "tag") else 3)


def read_or_not(o, x):
    try:
        return x * o.tag
    except AttributeError:
        return x


def read_or_make(o, x):
    try:
        n = o.tag
    except AttributeError:
        n = o.tag = 7
    return x * n


def through_the_dictionary(o, x):
    return x * o.__dict__.get("tag", 8) + len(vars(o))


def set_default(o, x):
    o.__dict__.setdefault("tag", 5)
    return x * o.tag


def delete(o, x):
    try:
        del o.tag
    except AttributeError as e:
        return x - len(str(e))
    return x


@pytest.mark.parametrize("kind", [Plain, Slotted, Net, types.SimpleNamespace, Part])
@pytest.mark.parametrize("fn", [store_and_delete, read_or_not, read_or_make, through_the_dictionary, set_default, delete], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", [(False, True, False), (True, False, True)])
def test_attributes_of_objects(fn, kind, order):
    if kind is Slotted and fn in (through_the_dictionary, set_default):
        return
    graphs = []
    compiled = compile_callable(fn, Options(lambda gm, examples: graphs.append(gm) or gm.forward, fullgraph=True))
    for tagged in order:
        ours, theirs = kind(), kind()
        if tagged:
            ours.tag = theirs.tag = 4
        assert torch.equal(compiled(ours, torch.ones(2)), fn(theirs, torch.ones(2)))
        assert getattr(ours, "tag", None) == getattr(theirs, "tag", None)


@pytest.mark.parametrize("kind", [Plain, Net])
def test_a_class_that_gets_the_attribute(kind):
    compiled = compile_callable(read_or_not, Options(lambda gm, examples: gm.forward))
    o, x = kind(), torch.ones(2)
    assert torch.equal(compiled(o, x), x)
    kind.tag = 6
    try:
        assert torch.equal(compiled(o, x), x * 6)
    finally:
        del kind.tag
    assert torch.equal(compiled(o, x), x)


@pytest.mark.parametrize("kind", [types.SimpleNamespace, Part, Plain])
def test_values_of_attributes_are_read_at_each_call(kind):
    def f(x):
        y = x * o.tag
        o.tag += 1
        return y + o.tag

    graphs, o, x = [], kind(), torch.ones(2)
    compiled = compile_callable(f, Options(lambda gm, examples: graphs.append(gm) or gm.forward, fullgraph=True))
    for tag in (1.5, 2.5, 7.0):
        o.tag = tag
        assert torch.equal(compiled(x), x * (2 * tag + 1)) and o.tag == tag + 1


@pytest.mark.parametrize("make", [lambda: types.SimpleNamespace(a=1), lambda: functools.partial(len), Plain, Slotted, Net, lambda: [1], lambda: enum.Enum("E", "A").A])
@pytest.mark.parametrize("name", ["late", "tag"])
def test_the_text_is_eagers(make, name):
    scope = {}
    exec(f"def f(o, x):\n    try:\n        return o.{name}\n    except AttributeError as e:\n        return str(e), e.name, e.obj is o, x + 1", scope)
    o, x = make(), torch.ones(2)
    got, want = compile_callable(scope["f"], Options(lambda gm, examples: gm.forward, fullgraph=True))(o, x), scope["f"](o, x)
    assert got[:3] == want[:3]
