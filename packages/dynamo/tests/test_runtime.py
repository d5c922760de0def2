"""Calls end to end: misses, the recompile limit, reset, failures of our own, threads, forks, lifetimes."""

import copy
import gc
import logging
import math
import os
import sys
import threading
import time
import traceback
import warnings
import weakref

import pytest
import torch

import lamina_dynamo
from lamina_dynamo import calls, convert, disable, optimize, reset
from lamina_dynamo.cache import caches_alive
from lamina_dynamo.control import Observed
from lamina_dynamo.eval_frame import hook_enabled
from lamina_dynamo.native import RUN_EAGER
from lamina_dynamo.runtime import Options, compile_callable, frame_callback
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import CompilerError, Unsupported, UserError
from lamina_dynshape.support.logs import log


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setenv("LAMINA_STRICT", "1")
    counters.clear()
    reset()
    yield
    reset()


class Count:
    """A backend that runs the graph and counts compilations and calls."""

    def __init__(self):
        self.compiled = self.called = 0

    def __call__(self, gm, example_inputs):
        self.compiled += 1

        def run(*args):
            self.called += 1
            return gm.forward(*args)

        return run


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(3, 3)
        self.scale = 2.0

    def forward(self, x, flag=True):
        y = self.lin(x) * self.scale
        return y if flag else -y


def test_a_function_a_module_a_method_and_a_callable():
    class Callable:
        def __init__(self):
            self.k = 3

        def __call__(self, x):
            return x * self.k

        def method(self, x):
            return x + self.k

    x, net, obj = torch.randn(2, 3), Net(), Callable()
    for target in (lambda x: x.relu() + 1, net, obj, obj.method, net.forward, torch.sin):
        backend = Count()
        compiled = optimize(target, backend)
        for _ in range(3):
            assert torch.equal(compiled(x), target(x))
        assert (backend.compiled, backend.called) == (1, 3)
    assert torch.equal(compile_callable(optimize(net, Count()), Options(Count()))(x), net(x)), "compiled twice"


CHANGES = {
    "dtype": lambda net, x: (net.double(), x.double()),
    "rank": lambda net, x: (net, x[0]),
    "grad of input": lambda net, x: (net, x.clone().requires_grad_()),
    "scale": lambda net, x: (setattr(net, "scale", 3.0) or net, x),
    "frozen": lambda net, x: (net.requires_grad_(False), x),
    "other class": lambda net, x: (setattr(net, "lin", torch.nn.Sequential(net.lin)) or net, x),
    "hook": lambda net, x: (net.lin.register_forward_hook(lambda m, a, out: out * 2) and net, x),
    "own forward": lambda net, x: (setattr(net.lin, "forward", lambda x: x) or net, x),
    "parameter replaced by another shape": lambda net, x: (setattr(net, "lin", torch.nn.Linear(3, 5)) or net, x),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    net, x = Net(), torch.randn(2, 3)
    backend = Count()
    compiled = optimize(net, backend)
    assert torch.equal(compiled(x), net(x)) and torch.equal(compiled(x), net(x))
    assert backend.compiled == 1
    same, y = CHANGES[change](net, x)
    assert same is net
    for _ in range(2):
        assert torch.equal(compiled(y), net(y))
    assert backend.compiled == 2 and backend.called == 4
    assert counters.total("recompiles") == 1


def test_what_does_not_matter_is_not_seen():
    net, x = Net(), torch.randn(2, 3)
    backend = Count()
    compiled = optimize(net, backend)
    compiled(x)
    net.lin.weight = torch.nn.Parameter(torch.randn(3, 3))
    net.lin.bias.data.zero_()
    net.unrelated = 3
    net.eval()  # nothing in it looks at `training`
    net.lin.note = "x"
    assert torch.equal(compiled(torch.randn(2, 3) * 0 + 1), net(torch.ones(2, 3)))
    net.load_state_dict(Net().state_dict())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(compiled(x), net(x))
    finally:
        torch.set_num_threads(threads)
    assert backend.compiled == 1


def test_the_recompile_limit_and_its_warning():
    backend = Count()
    compiled = optimize(lambda x, k: x * len(k), backend, recompile_limit=3)
    x = torch.ones(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(10):
            assert torch.equal(compiled(x, "a" * k), x * k)
    assert len(caught) == 1 and backend.compiled == 3
    text = str(caught[0].message)
    assert "3 times" in text and "L['k']" in text and "expected: 'aa'" in text and "saw:      'aaa'" in text and "test_runtime.py" in text
    assert torch.equal(compiled(x, "a"), x) and backend.called == 4, "what was compiled still runs"
    reset()
    assert torch.equal(compiled(x, "a" * 8), x * 8) and backend.compiled == 4


def test_the_log_of_recompiles(monkeypatch, caplog):
    logger = log("recompiles")
    with caplog.at_level(logging.DEBUG, logger="lamina.recompiles"):
        logger.addHandler(caplog.handler)
        compiled = optimize(lambda x: x + 1, Count())
        compiled(torch.ones(2)), compiled(torch.ones(2, dtype=torch.int64))
        logger.removeHandler(caplog.handler)
    assert "entry 0: L['x'] is Tensor float32[2]" in caplog.text and "int64[2]" in caplog.text
    assert "try: pass tensors of one class and dtype" in caplog.text


def test_dead_entries_make_room():
    backend = Count()

    def apply(m, x):
        return m(x)

    compiled = optimize(apply, backend, recompile_limit=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):

            class Local(Net):
                pass

            assert compiled(Local(), torch.randn(2, 3)).shape == (2, 3)
            del Local
            gc.collect()


def test_reset_compiles_again():
    backend = Count()
    compiled = optimize(lambda x: x + 1, backend)
    compiled(torch.ones(2)), compiled(torch.ones(2))
    reset()
    compiled(torch.ones(2))
    assert backend.compiled == 2


def test_callables_of_one_code_share_entries():
    def make():
        def f(x):
            return x + 1

        return f

    backend = Count()
    a, b = optimize(make(), backend), optimize(make(), backend)
    a(torch.ones(2)), b(torch.ones(2))
    assert backend.compiled == 1
    optimize(make(), Count())(torch.ones(2))
    n1, n2 = Net(), Net()
    backend = Count()
    m1, m2 = optimize(n1, backend), optimize(n2, backend)
    x = torch.ones(2, 3)
    assert torch.equal(m1(x), n1(x)) and torch.equal(m2(x), n2(x))


# ---- errors ------------------------------------------------------------------------------------------------------------
def broken(*args, **kwargs):
    raise AssertionError("a bug of capture")


def test_our_own_failure_is_reported_and_the_call_runs_eagerly(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMINA_STRICT", "0")
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(convert, "convert_frame", broken)
    compiled = optimize(lambda x: x + 1, Count())
    with pytest.warns(RuntimeWarning, match="a bug of capture") as caught:
        for _ in range(3):
            assert torch.equal(compiled(torch.ones(2)), torch.ones(2) + 1)
    assert len(caught) == 1
    report = str(caught[0].message).rsplit("Report: ", 1)[1]
    text = open(report).read()
    assert "a bug of capture" in text and "float32 (2,)" in text and "RETURN_VALUE" in text


def test_our_own_failure_is_raised_when_strict(monkeypatch):
    monkeypatch.setattr(convert, "convert_frame", broken)
    with pytest.raises(AssertionError, match="a bug of capture"):
        optimize(lambda x: x + 1, Count())(torch.ones(2))


@pytest.mark.parametrize("error", [Unsupported("a reason"), UserError("wrong"), CompilerError("no compiler")])
def test_errors_for_the_user_reach_him(monkeypatch, error):
    monkeypatch.setenv("LAMINA_STRICT", "0")

    def raising(*args, **kwargs):
        raise error

    monkeypatch.setattr(convert, "convert_frame", raising)
    with pytest.raises(type(error)):
        optimize(lambda x: x + 1, Count(), fullgraph=True)(torch.ones(2))


def test_wrong_arguments_raise_as_eager():
    net = Net()
    compiled = optimize(net, Count())
    for args in ((), (torch.ones(2, 3), 1, 2), (torch.ones(2, 4),)):
        with pytest.raises(Exception) as want:
            net(*args)
        for _ in range(2):
            with pytest.raises(type(want.value)) as got:
                compiled(*args)
            assert str(got.value) == str(want.value)


def test_exceptions_of_the_program_show_the_users_frames():
    def inner(x):
        raise KeyError(f"user {x.shape}")

    def outer(x):
        return inner(x + 1)

    compiled = optimize(outer, Count())
    for _ in range(2):
        with pytest.raises(KeyError, match="user") as caught:
            compiled(torch.ones(2))
        names = [f.name for f in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-1] == "inner" and "outer" in names


def test_run_eager_is_for_one_call(monkeypatch):
    monkeypatch.setattr(convert, "convert_frame", lambda *a, **k: RUN_EAGER)
    backend = Count()
    compiled = optimize(lambda x: x + 1, backend)
    assert torch.equal(compiled(torch.ones(2)), torch.ones(2) + 1) and backend.compiled == 0
    monkeypatch.undo()
    compiled(torch.ones(2))
    assert backend.compiled == 1


def test_disable_runs_the_original_of_compiled_functions():
    backend = Count()
    inner = optimize(lambda x: x + 1, backend)

    @disable
    def outer(x):
        return inner(x)

    assert torch.equal(outer(torch.ones(2)), torch.ones(2) + 1) and backend.compiled == 0


def test_grad_mode_is_left_as_it_was():
    compiled = optimize(lambda x: x * 2, Count())
    x = torch.ones(2, requires_grad=True)
    assert compiled(x).requires_grad
    with torch.no_grad():
        assert not compiled(x).requires_grad and not torch.is_grad_enabled()
    assert compiled(x).requires_grad and torch.is_grad_enabled()


# ---- threads and processes ---------------------------------------------------------------------------------------------
def test_the_dispatcher_is_left_as_it_was():
    """Guards of the dispatcher are never entered at capture: torn down out of order they would leave it switched off, and fakes unprotected."""
    from torch.utils._mode_utils import no_dispatch

    before = str(torch._C._dispatch_tls_local_exclude_set())

    def f(x):
        with no_dispatch(), torch._C._DisableFuncTorch():
            state = torch.get_rng_state()
        return x + state.dim()

    for _ in range(2):
        assert torch.equal(optimize(f, Count())(torch.ones(2)), torch.full((2,), 2.0))
        assert str(torch._C._dispatch_tls_local_exclude_set()) == before


def test_threads_compile_once_and_agree():
    net, backend = Net(), Count()
    compiled = optimize(net, backend)
    xs = [torch.randn(4, 3) for _ in range(8)]
    want = [net(x) for x in xs]
    errors, start = [], threading.Barrier(8)

    def work(i):
        try:
            start.wait()
            for _ in range(50):
                assert torch.equal(compiled(xs[i]), want[i])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and backend.compiled == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fork():
    torch.set_num_threads(1)
    compiled = optimize(lambda x: x + 1, Count())
    x = torch.ones(2)
    compiled(x)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fresh = optimize(lambda x: x * 3, Count())
            if torch.equal(compiled(x), x + 1) and torch.equal(fresh(x), x * 3) and torch.equal(compiled(x.double()), x.double() + 1):
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert torch.equal(compiled(x), x + 1)


def test_fork_while_another_thread_compiles(monkeypatch):
    """The child must not wait for a lock whose holder exists only in the parent."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    inside, release = threading.Event(), threading.Event()
    real = convert.convert_frame

    def slow(*args, **kwargs):
        inside.set()
        release.wait(20)
        return real(*args, **kwargs)

    monkeypatch.setattr(convert, "convert_frame", slow)
    thread = threading.Thread(target=lambda: optimize(lambda x: x - 1, Count())(torch.ones(2)))
    thread.start()
    inside.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            convert.convert_frame = real
            if torch.equal(optimize(lambda x: x * 3, Count())(torch.ones(2)), torch.ones(2) * 3):
                code = 0
        finally:
            os._exit(code)
    deadline = threading.Timer(20, lambda: os.kill(pid, 9))
    deadline.start()
    status = os.waitpid(pid, 0)[1]
    deadline.cancel()
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0


# ---- lifetimes ---------------------------------------------------------------------------------------------------------
def test_a_model_and_its_code_die_with_it():
    def make():
        net = Net()
        compiled = optimize(net, Count())
        compiled(torch.ones(2, 3)), compiled(torch.ones(2, 3))
        return weakref.ref(net), weakref.ref(net.lin.weight), weakref.ref(compiled), weakref.ref(compiled.cache)

    make()
    gc.collect()
    before = len(caches_alive())
    refs = [r for _ in range(10) for r in make()]
    gc.collect()
    assert [r() for r in refs] == [None] * len(refs)
    assert len(caches_alive()) == before


def test_a_function_that_uses_a_module_lets_it_go():
    def use(m, x):
        return m(x)

    compiled = optimize(use, Count())
    net = Net()
    compiled(net, torch.ones(2, 3)), compiled(net, torch.ones(2, 3))
    gone = weakref.ref(net), weakref.ref(net.lin.weight)
    del net
    gc.collect()
    assert [g() for g in gone] == [None, None]


def test_no_growth_over_many_calls():
    import tracemalloc

    net = Net()
    compiled = optimize(net, lambda gm, ex: gm.forward)
    x = torch.ones(2, 3)

    def calls(n):
        with torch.no_grad():
            for _ in range(n):
                compiled(x)

    calls(2000)
    gc.collect()
    counts = sys.getrefcount(net), sys.getrefcount(net.lin.weight), sys.getrefcount(x), sys.getrefcount(None)
    gc.collect()
    tracemalloc.start()
    try:
        calls(500)
        first = tracemalloc.get_traced_memory()[0]
        calls(20000)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - first < 20_000
    finally:
        tracemalloc.stop()
    after = sys.getrefcount(net), sys.getrefcount(net.lin.weight), sys.getrefcount(x), sys.getrefcount(None)
    assert after[:3] == counts[:3] and abs(after[3] - counts[3]) < 100


def test_deepcopy_of_a_model_that_holds_a_compiled_part():
    net = Net()
    net.fast = optimize(net.forward, Count())
    x = torch.ones(2, 3)
    net.fast(x)
    other = copy.deepcopy(net)
    assert torch.equal(other(x), net(x))


def test_a_builtin_that_is_replaced_is_seen(monkeypatch):
    import builtins

    real, backend, x = max, Count(), torch.ones(1)
    compiled = optimize(lambda x, n: x * max(n, 1), backend)
    before = compiled(x, 3)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "max", lambda *a, **k: 7 if a == (3, 1) else real(*a, **k))
        during = compiled(x, 3)
    assert (before.item(), during.item(), compiled(x, 3).item(), backend.compiled) == (3, 7, 3, 2)


# ---- modes, transforms, subclasses -------------------------------------------------------------------------------------
def test_a_users_mode_sees_every_operator():
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    class Dispatch(TorchDispatchMode):
        seen = 0

        @classmethod
        def _should_skip_dynamo(cls):
            return False

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Dispatch.seen += 1
            return func(*args, **(kwargs or {})) * 2

    class Function(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Function.seen += 1
            return func(*args, **(kwargs or {}))

    backend = Count()
    compiled = optimize(lambda x: x.sin() + 1, backend)
    x = torch.ones(2)
    for _ in range(2):
        plain = compiled(x)
        with Dispatch():
            doubled = compiled(x)
        with Function():
            same = compiled(x)
        assert torch.equal(doubled, (x.sin() * 2 + 1) * 2) and torch.equal(same, plain)
    assert Dispatch.seen == 4 and Function.seen >= 4 and backend.compiled == 1


def test_functorch_transforms():
    compiled = optimize(lambda x: x.sin() + 1, Count())
    x = torch.ones(2, 3)
    for _ in range(2):
        assert torch.equal(torch.func.vmap(compiled)(x), x.sin() + 1)
        assert torch.equal(torch.func.grad(lambda z: compiled(z).sum())(x), x.cos())
        assert torch.equal(compiled(x), x.sin() + 1)


class Wrapper(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        out = func(*[a.inner if isinstance(a, Wrapper) else a for a in args], **(kwargs or {}))
        return Wrapper(out) if isinstance(out, torch.Tensor) else out

    __torch_function__ = torch._C._disabled_torch_function_impl


def test_what_is_unsupported_runs_eagerly_without_fullgraph():
    x = torch.ones(2)
    compiled = optimize(lambda x: x * 2, Count())
    for _ in range(12):
        assert torch.equal(compiled(Wrapper(x)).inner, x * 2)
    with pytest.raises(Unsupported, match="subclass"):
        optimize(lambda x: x * 2, Count(), fullgraph=True)(Wrapper(x))


def test_captures_in_vain_end(monkeypatch):
    asked = []

    def nothing(*args, **kwargs):
        asked.append(1)
        return RUN_EAGER

    monkeypatch.setattr(convert, "convert_frame", nothing)
    compiled = optimize(lambda x: x + 1, Count(), recompile_limit=3)
    for _ in range(10):
        compiled(torch.ones(2))
    assert len(asked) == 3


def test_an_exception_that_only_the_capture_meets_is_counted_and_an_error_under_fullgraph(monkeypatch):
    def only_in_capture(cap, args, kwargs):
        raise Observed(ValueError("wrong here alone"))

    monkeypatch.setitem(calls.RULES, id(math.gcd), only_in_capture)

    def inner(x):
        y = x + 0
        return y * math.gcd(4, 6)  # here

    program = lambda x: inner(x)
    before = counters["graph_breaks"]["capture-raised"]
    assert torch.equal(optimize(program, Count())(torch.ones(2)), torch.full((2,), 2.0))
    assert counters["graph_breaks"]["capture-raised"] == before + 1
    with pytest.raises(Unsupported, match="only the capture meets") as error:
        optimize(program, Count(), fullgraph=True)(torch.ones(2))
    assert "wrong here alone" in str(error.value) and "# here" in str(error.value)
    line = inner.__code__.co_firstlineno + 2
    assert (error.value.where.file, error.value.where.line) == (__file__, line)


def test_an_exception_of_the_program_is_no_break():
    def program(x):
        raise KeyError(x.shape[0])

    before = dict(counters["graph_breaks"])
    with pytest.raises(KeyError):
        optimize(program, Count(), fullgraph=True)(torch.ones(2))
    assert dict(counters["graph_breaks"]) == before


# ---- exceptions of a graph's run -----------------------------------------------------------------------------------------
def _eagerly(gm, example_inputs):
    return gm.forward


def _looks_up(x, i, seen):
    seen.append("before")
    row = (x * 2)[i]
    seen.append("after")
    return row + 1


def _looks_up_after_a_break(x, i, seen):
    torch.compiler.is_compiling()
    lamina_dynamo.graph_break()
    return _looks_up(x, i, seen)


def _draws_and_looks_up(x, i, seen):
    return torch.nn.functional.dropout(x)[i]


def _own_frames(error):
    return [(f.filename, f.lineno, f.name) for f in traceback.extract_tb(error.__traceback__) if f.filename == __file__]


@pytest.mark.parametrize("fn", [_looks_up, _looks_up_after_a_break, _draws_and_looks_up])
def test_an_exception_of_the_graphs_run_is_eagers_with_the_users_frames(fn):
    compiled, x, bad = optimize(fn, _eagerly), torch.ones(3), torch.tensor([7])
    compiled(x, torch.tensor([1]), [])
    found = []
    for f in (fn, compiled):
        seen = []
        with pytest.raises(IndexError) as caught:
            f(x, bad, seen)
        found.append((str(caught.value), seen, _own_frames(caught.value)[1:]))
    assert found[0] == found[1] and found[0][2]
    assert counters["frames"]["captured"] >= 1 and counters["recompiles"] == {}


def test_an_exception_of_a_graph_that_wrote_to_an_input_names_the_lines():
    def program(x, i):
        x.add_(1)
        return x[i]

    compiled, x = optimize(program, _eagerly), torch.zeros(3)
    compiled(x, torch.tensor([1]))
    with pytest.raises(IndexError) as caught:
        compiled(x, torch.tensor([7]))
    line = program.__code__.co_firstlineno
    assert f"{__file__}:{line + 1} in" in caught.value.__notes__[0] and f"{__file__}:{line + 2} in" in caught.value.__notes__[0]
    assert x.tolist() == [2, 2, 2]  # written once per call


def test_an_exception_of_the_graph_alone(monkeypatch):
    def broken(gm, example_inputs):
        def run(*args):
            raise RuntimeError("wrong code")

        return run

    program = lambda x: x + 1
    with pytest.raises(RuntimeError, match="wrong code"):
        optimize(program, broken)(torch.ones(2))
    monkeypatch.setenv("LAMINA_STRICT", "0")
    with pytest.warns(RuntimeWarning, match="failed while running the compiled graph"):
        assert optimize(program, broken)(torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="wrong code"):
        optimize(program, broken, fullgraph=True)(torch.ones(2))


# ---- what breaks hold ------------------------------------------------------------------------------------------------------
def test_what_is_dropped_after_a_break_dies():
    def program(x, n):
        reads = lambda: x + n
        made = x * 2
        ref = weakref.ref(made)
        lamina_dynamo.graph_break()
        alive = ref() is not None
        made = reads()
        lamina_dynamo.graph_break()
        return alive, ref() is None, made

    compiled = optimize(program, _eagerly)
    for _ in range(2):
        assert compiled(torch.ones(1), 2)[:2] == program(torch.ones(1), 2)[:2] == (True, True)


def test_what_a_collection_calls_is_no_part_of_the_program():
    times = []

    def callback(phase, info):
        times.append(time.perf_counter())

    counters.clear()
    gc.callbacks.append(callback)
    try:
        with hook_enabled(frame_callback(Options(_eagerly))):
            gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert times and not counters["graph_breaks"]


def test_breaks_in_a_loop_do_not_nest():
    depths = []

    def program(x):
        for _ in range(3000):
            note()
            x = x + 1
        return x

    @disable
    def note():
        depths.append(len(traceback.extract_stack()) if len(depths) in (1, 2900) else 0)

    assert optimize(program, _eagerly)(torch.zeros(1)) == 3000
    assert depths[1] == depths[2900] > 0
