"""Every guard kind, passing and failing, before and after it was remembered."""

import enum
import math

import pytest
import torch

from lamina_dynamo.guards import Guard, GuardKind, GuardSet, TensorSpec, global_state, shape_guard, state_guard
from lamina_dynamo.native import compile_guards
from lamina_dynamo.source import InstanceDictSource, LocalSource, OffsetSource, SizeSource, StrideSource, TypeSource, instance_attr

K = GuardKind
X, Y, Z = LocalSource("x"), LocalSource("y"), LocalSource("z")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class A:
    present = 1

    def __init__(self, **kw):
        self.__dict__.update(kw)


class B(A):
    pass


class Slotted:
    __slots__ = ("here", "absent")

    def __init__(self):
        self.here = 1


class Dynamic:
    def __getattr__(self, name):
        if name == "made":
            return 1
        raise AttributeError(name)


obj, other = A(), A()
nan = float("nan")

# kind, expected, values that pass, values that fail
CASES = [
    (K.TYPE, int, [1, 0, 10**30], [True, 1.0, "1", None]),
    (K.TYPE, A, [obj, A()], [B(), A, None]),
    (K.ID, obj, [obj], [other, None, A]),
    (K.ID, torch.relu, [torch.relu], [torch.sin, None]),
    (K.ID, 3, [3], [4, None, "3"]),
    (K.EQUALS, 1, [1], [True, 1.0, 2, "1", None]),
    (K.EQUALS, True, [True], [1, False, None]),
    (K.EQUALS, 10**30, [10**30], [10**30 + 1, 1e30]),
    (K.EQUALS, 0.0, [0.0], [-0.0, 0, False, 1.0]),
    (K.EQUALS, nan, [nan, float("nan"), math.nan * -1], [0.0, 1, None]),
    (K.EQUALS, 1 + 2j, [1 + 2j], [1 + 0j, 1]),
    (K.EQUALS, "text", ["text", "".join(["te", "xt"])], ["other", b"text", None]),
    (K.EQUALS, b"text", [b"text"], ["text", b"t"]),
    (K.EQUALS, (1, ("a", 2.0)), [(1, ("a", 2.0))], [(1, ("a", 2)), (True, ("a", 2.0)), [1, ("a", 2.0)], (1,), ()]),
    (K.EQUALS, [1, 2], [[1, 2]], [[1, 2, 3], [1, True], (1, 2)]),
    (K.EQUALS, {"a": 1, "b": 2}, [{"a": 1, "b": 2}], [{"b": 2, "a": 1}, {"a": 1}, {"a": True, "b": 2}]),
    (K.EQUALS, slice(1, None, 2), [slice(1, None, 2)], [slice(1, 3, 2), slice(True, None, 2), None]),
    (K.EQUALS, range(0, 3, 2), [range(0, 3, 2)], [range(0, 4, 2), range(3)]),
    (K.EQUALS, torch.float32, [torch.float32], [torch.float64, None]),
    (K.EQUALS, torch.device("cpu"), [torch.device("cpu")], [torch.device("meta"), "cpu"]),
    (K.EQUALS, torch.Size([2, 3]), [torch.Size([2, 3])], [(2, 3), torch.Size([2, 4])]),
    (K.EQUALS, frozenset({1, 2}), [frozenset({2, 1})], [frozenset({1}), {1, 2}]),
    (K.EQUALS, None, [None], [0, False, ""]),
    (K.EQUALS, Ellipsis, [...], [None]),
    (K.ID, Color.RED, [Color.RED], [Color.BLUE, 1]),
    (K.NONE, None, [None], [0, False, torch.ones(1)]),
    (K.NOT_NONE, None, [0, False, obj], [None]),
    (K.BOOL, True, [True], [False, 1, None]),
    (K.BOOL, False, [False], [True, 0, None]),
    (K.LEN, 2, [[1, 2], (1, 2), {1: 1, 2: 2}, {1, 2}, "ab", b"ab", frozenset({1, 2}), torch.ones(2)], [[1], [], "abc", 3, None, {}]),
    (K.LEN, 0, [[], (), {}, "", set()], [[1], 0, None]),
    (K.DICT_KEYS, ("a", "b"), [{"a": 1, "b": 2}, {"a": 0, "b": 0}], [{"b": 1, "a": 2}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {}, [], None]),
    (K.DICT_KEYS, (1, (2, "x")), [{1: 0, (2, "x"): 0}], [{True: 0, (2, "x"): 0}, {1: 0}]),
    (K.HAS_KEY, "a", [{"a": 1}], [{}, {"b": 1}, [], None, "a"]),
    (K.NO_KEY, "a", [{}, {"b": 1}], [{"a": 1}, None, []]),
    (K.HAS_ATTR, "present", [A(), B(), A(present=3)], [object(), 1, None]),
    (K.HAS_ATTR, "made", [Dynamic(), A(made=1)], [A(), 1]),
    (K.HAS_ATTR, "here", [Slotted()], [A()]),
    (K.HAS_ATTR, "absent", [A(absent=1)], [Slotted()]),
    (K.NO_ATTR, "extra", [A(), B(), 1, None, A], [A(extra=1)]),
    (K.NO_ATTR, "present", [1, None, object()], [A(), A]),
    (K.WEAK_TYPE, A, [A(), B()], [1, A, None]),
]


def case_id(case):
    kind, expected, _, _ = case
    return f"{kind.name}-{expected!r}"[:60] if kind not in (K.TYPE, K.ID, K.WEAK_TYPE) else f"{kind.name}-{getattr(expected, '__name__', type(expected).__name__)}"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_kind(case):
    kind, expected, good, bad = case
    for source, wrap in ((X, lambda v: v), (instance_attr(X, "v"), lambda v: A(v=v))):
        guard = Guard(source, kind, expected)
        program = compile_guards([guard], ["x"])
        for _ in range(2):
            for v in good:
                held = wrap(v)
                assert program.check((held,)), v
                assert program.check((held,)), v
                assert program.explain_failure((held,)) is None
            for v in bad:
                held = wrap(v)
                assert not program.check((held,)), v
                failure = program.explain_failure((held,))
                assert failure is not None and failure.guard.kind is kind and str(failure)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_change_in_place_is_seen(case):
    """One holder whose attribute changes: what was remembered must notice."""
    kind, expected, good, bad = case
    program = compile_guards([Guard(instance_attr(X, "v"), kind, expected)], ["x"])
    holder = A(v=good[0])
    for _ in range(4):
        for right in good:
            holder.v = right
            assert program.check((holder,)) and program.check((holder,))
            for wrong in bad:
                holder.v = wrong
                assert not program.check((holder,)), wrong
            holder.v = right
            assert program.check((holder,))
        del holder.v
        assert not program.check((holder,))


# ---- tensors -----------------------------------------------------------------------------------------------------------
class Sub(torch.Tensor):
    pass


def base():
    return torch.randn(2, 3, 4)


TENSOR_CHANGES = {
    "dtype": lambda: base().double(),
    "size": lambda: torch.randn(2, 3, 5),
    "rank": lambda: torch.randn(2, 12),
    "stride": lambda: torch.randn(3, 2, 4).transpose(0, 1),
    "requires_grad": lambda: base().requires_grad_(),
    "device": lambda: base().to("meta"),
    "subclass": lambda: base().as_subclass(Sub),
    "parameter": lambda: torch.nn.Parameter(base(), requires_grad=False),
    "conjugate": lambda: base().to(torch.complex64).conj(),
    "sparse": lambda: base().to_sparse(),
    "negative": lambda: torch._neg_view(base()),
    "not a tensor": lambda: [1],
    "none": lambda: None,
}


@pytest.mark.parametrize("change", TENSOR_CHANGES)
def test_tensor(change):
    guard = Guard(X, K.TENSOR, TensorSpec.of(base()))
    program = compile_guards([guard], ["x"])
    assert program.check((base(),)) and program.check((base() * 2,))
    other = TENSOR_CHANGES[change]()
    assert not program.check((other,))
    assert program.check((base(),))
    if isinstance(other, torch.Tensor):
        assert compile_guards([Guard(X, K.TENSOR, TensorSpec.of(other))], ["x"]).check((other,))
    assert "float32[2, 3, 4]" in program.explain_failure((other,)).expected


def test_inference_tensor_is_another_kind():
    program = compile_guards([Guard(X, K.TENSOR, TensorSpec.of(base()))], ["x"])
    with torch.inference_mode():
        t = base()
    assert not program.check((t,))


def test_leafness_is_not_looked_at():
    leaf = base().requires_grad_()
    program = compile_guards([Guard(X, K.TENSOR, TensorSpec.of(leaf))], ["x"])
    assert program.check((leaf,)) and program.check((leaf * 2,))


def test_dynamic_dims():
    spec = TensorSpec.of(base(), dynamic={1})
    assert spec.sizes == (2, None, 4) and spec.strides == (None, 4, 1)
    program = compile_guards([Guard(X, K.TENSOR, spec)], ["x"])
    assert program.check((torch.randn(2, 7, 4),)) and program.check((torch.randn(2, 1, 4),))
    assert not program.check((torch.randn(3, 7, 4),))
    assert not program.check((torch.randn(2, 7, 5),))
    assert not program.check((torch.randn(2, 4, 7).transpose(1, 2),))


def test_metadata_of_a_remembered_tensor_changes_in_place():
    holder = A(t=base())
    program = compile_guards([Guard(instance_attr(X, "t"), K.TENSOR, TensorSpec.of(base()))], ["x"])
    assert program.check((holder,)) and program.check((holder,))
    holder.t.requires_grad_()
    assert not program.check((holder,))
    holder.t.requires_grad_(False)
    assert program.check((holder,))
    holder.t.resize_(3, 3)
    assert not program.check((holder,))
    holder.t.data = base()
    assert program.check((holder,))
    holder.t.data = base().half()
    assert not program.check((holder,))


# ---- aliases -----------------------------------------------------------------------------------------------------------
def test_alias_and_no_alias():
    same = compile_guards([Guard(X, K.ALIAS, Y)], ["x", "y"])
    apart = compile_guards([Guard(X, K.NO_ALIAS, (Y, Z))], ["x", "y", "z"])
    a, b, c = base(), base(), base()
    for _ in range(2):
        assert same.check((a, a)) and not same.check((a, b))
        assert apart.check((a, b, c))
        for bad in ((a, a, b), (a, b, a), (a, b, b), (a, a, a)):
            assert not apart.check(bad)
            assert apart.explain_failure(bad).guard.kind is K.NO_ALIAS


def test_no_alias_of_arguments_and_held_tensors():
    holder = A(t=base(), u=base())
    program = compile_guards([Guard(Y, K.NO_ALIAS, (instance_attr(X, "t"), instance_attr(X, "u")))], ["x", "y"])
    free = base()
    assert program.check((holder, free)) and program.check((holder, free))
    assert not program.check((holder, holder.t)) and not program.check((holder, holder.u))
    holder.u = holder.t
    assert not program.check((holder, free))


def test_no_overlap():
    apart = compile_guards([Guard(X, K.NO_OVERLAP, (Y, Z))], ["x", "y", "z"])
    a, b, c = base(), base(), base()
    for _ in range(2):
        assert apart.check((a, b, c))
        for bad in ((a, a, b), (a, b, b.view(-1)), (a, a[:1], c), (a.detach(), b, a)):
            assert not apart.check(bad)
            assert apart.explain_failure(bad).guard.kind is K.NO_OVERLAP


# ---- shapes ------------------------------------------------------------------------------------------------------------
SHAPES = [
    ("s0 == 4", (4, 1), (5, 1)),
    ("s0 * 2 == s1", (3, 6), (3, 7)),
    ("s0 >= 2 and s1 != 0", (2, 1), (1, 1)),
    ("s0 < 2 or s1 > 5", (9, 6), (9, 5)),
    ("not s0 == s1", (1, 2), (2, 2)),
    ("s0 // 3 == 2", (8, 1), (9, 1)),
    ("s0 % 4 == 3", (7, 1), (8, 1)),
    ("(-s0) // 4 == -2", (7, 1), (9, 1)),
    ("-s0 % 4 == 1", (7, 1), (8, 1)),
    ("min(s0, s1) == 3", (3, 9), (4, 9)),
    ("max(s0, s1, 5) == 5", (4, 3), (4, 6)),
    ("2 <= s0 < 5", (4, 1), (5, 1)),
    ("s0 ** 2 + 1 == s1", (3, 10), (3, 9)),
    ("floordiv(s0, 2) + mod(s1, 3) == 4", (6, 4), (6, 5)),
    ("s0 // s1 == 2", (4, 2), (4, 0)),
]


@pytest.mark.parametrize(("text", "good", "bad"), SHAPES, ids=[s[0] for s in SHAPES])
def test_shape(text, good, bad):
    guard = shape_guard(text, {"s0": SizeSource(X, 0), "s1": Y})
    program = compile_guards([guard], ["x", "y"])
    assert program.check((torch.zeros(good[0], 2), good[1])) and program.check((torch.zeros(good[0], 2), good[1]))
    assert not program.check((torch.zeros(bad[0], 2), bad[1]))
    failure = program.explain_failure((torch.zeros(bad[0], 2), bad[1]))
    assert failure.guard == guard and "L['x'].size(0)" in str(guard) and "size(0) = " in failure.saw
    assert not program.check((3, good[1]))
    assert program.check((torch.zeros(good[0], 2), "x")) == ("s1" not in text)
    assert not program.check((torch.zeros(()), good[1]))


def test_shape_overflow_is_a_miss():
    program = compile_guards([shape_guard("n * n > 0", {"n": Y})], ["y"])
    assert program.check((5,)) and not program.check((2**40,)) and not program.check((2**80,))


def test_shape_of_strides_and_offsets():
    program = compile_guards([shape_guard("st == 2 * n and off == 3", {"st": StrideSource(X, 0), "n": SizeSource(X, 1), "off": OffsetSource(X)})], ["x"])
    good = torch.zeros(40)[3:].as_strided((2, 4), (8, 1), 3)
    assert program.check((good,))
    assert not program.check((torch.zeros(40).as_strided((2, 4), (8, 1), 2),))
    assert not program.check((torch.zeros(40).as_strided((2, 4), (7, 1), 3),))


def test_equality_of_a_size():
    program = compile_guards([Guard(SizeSource(X, 0), K.EQUALS, 3)], ["x"])
    assert program.check((torch.ones(3),)) and program.check((torch.ones(3, 1),)) and not program.check((torch.ones(4),))


def test_bad_shape_text_is_refused():
    with pytest.raises(ValueError, match="not a shape condition"):
        compile_guards([shape_guard("x.foo", {})], ["x"])


# ---- global state ------------------------------------------------------------------------------------------------------
def _function_mode():
    from torch.overrides import TorchFunctionMode

    return TorchFunctionMode()


def _dispatch_mode():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        @classmethod
        def _should_skip_dynamo(cls):
            return False

    return Mode()


class Default:
    def __enter__(self):
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *exc):
        torch.set_default_dtype(torch.float32)


class Deterministic:
    def __enter__(self):
        torch.use_deterministic_algorithms(True, warn_only=True)

    def __exit__(self, *exc):
        torch.use_deterministic_algorithms(False)


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default_dtype": Default,
    "deterministic": Deterministic,
    "function_mode": _function_mode,
    "dispatch_mode": _dispatch_mode,
    "no_torch_function": torch._C.DisableTorchFunction,
    "no_torch_function_subclass": torch._C.DisableTorchFunctionSubclass,
}


@pytest.mark.parametrize("state", STATES)
def test_global_state(state):
    program = compile_guards([state_guard()], [])
    assert program.check(()) and program.check(())
    with STATES[state]():
        assert not program.check(())
        failure = program.explain_failure(())
        assert failure.guard.kind is K.GLOBAL_STATE and "the same" not in failure.saw
        inner = compile_guards([state_guard()], [])
        assert inner.check(())
    assert program.check(()) and not inner.check(())


def test_autocast_dtype_is_part_of_the_state():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        program = compile_guards([state_guard()], [])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert program.check(())
    with torch.autocast("cpu", dtype=torch.float16):
        assert not program.check(())
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        assert not program.check(())


def test_number_of_threads_is_not_part_of_the_state():
    before, threads = global_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert global_state() == before
    finally:
        torch.set_num_threads(threads)


# ---- records -----------------------------------------------------------------------------------------------------------
def test_guard_set_keeps_order_and_drops_duplicates():
    gs = GuardSet()
    gs.add(X, K.TYPE, int)
    gs.add(X, K.EQUALS, 1)
    gs.add(X, K.EQUALS, True)
    gs.add(X, K.TYPE, int)
    gs.add(X, K.NO_KEY, "a")
    gs.add(X, K.NO_KEY, "b")
    gs.add(X, K.NO_KEY, "a")
    assert [str(g) for g in gs] == ["type(L['x']) is int", "L['x'] == 1", "L['x'] == True", "'a' not in L['x']", "'b' not in L['x']"]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_text(case):
    text = str(Guard(X, case[0], case[1]))
    assert "L['x']" in text and "0x" not in text


def test_records_do_not_keep_the_object_alive():
    import gc
    import weakref

    thing = A()
    gone = weakref.ref(thing)
    program = compile_guards([Guard(X, K.ID, thing), Guard(InstanceDictSource(X), K.NO_KEY, "q"), Guard(TypeSource(X), K.ID, A)], ["x"])
    assert program.check((thing,)) and program.check((thing,)) and not program.is_dead()
    del thing
    gc.collect()
    assert gone() is None and program.is_dead()
    assert not program.check((A(),)) and not program.check((None,))
