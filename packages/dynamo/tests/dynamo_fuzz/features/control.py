"""Control flow: exceptions, with, loops, generators, match, closures, every kind of parameter."""

import contextlib
import sys

import torch
from lamina_dynamo import graph_break

from ..observe import breaking_print as print

LOG = []
WATCHED = ("LOG", "COUNT")
COUNT = 0


class Suppress:
    def __init__(self, *kinds): self.kinds = kinds
    def __enter__(self): LOG.append("enter"); return self
    def __exit__(self, kind, exc, tb): LOG.append(("exit", kind and kind.__name__)); return kind is not None and issubclass(kind, self.kinds)

class Mine(ValueError):
    def __init__(self, a, b=2): super().__init__(a); self.b = b
    def __str__(self): return f"mine {self.args} {self.b}"

@contextlib.contextmanager
def tagged(n, swallow=False):
    LOG.append(("in", n))
    try: yield n
    except KeyError as e:
        LOG.append(("caught", e.args))
        if not swallow: raise
    finally: LOG.append(("out", n))


def raise_from(x):
    try:
        try: {}["k"]
        except KeyError as e: raise Mine("w", b=x.shape[0]) from e
    except Mine as e:
        graph_break()
        return x, e.b, str(e), repr(e.__cause__), e.__context__ is e.__cause__, e.__suppress_context__

def raise_from_none(x):
    try:
        try: 1 // 0
        except ZeroDivisionError: raise ValueError("v") from None
    except ValueError as e: print("x"); return e.__cause__, repr(e.__context__), e.__suppress_context__, x

def raise_context(x):
    try:
        try: raise KeyError(1)
        except KeyError: print("first"); raise ValueError(2)
    except ValueError as e: return repr(e.__context__), x

def raise_to_caller(x):
    y = x + 1; print("before")
    raise Mine("out", b=3)

def raise_to_caller_from_inside(x):
    def deep(n):
        if n == 0: raise Mine(n)
        return deep(n - 1)
    try: return deep(2)
    finally: LOG.append("cleanup")

def reraise(x):
    out = []
    try:
        try: raise Mine(1)
        except Mine as e: out.append(e.args); graph_break(); raise
    except ValueError as e: out.append(type(e).__name__)
    return out, x

def finally_return(x):
    try: raise ValueError(1)
    finally: print("fin"); return x + 1

def finally_return_over_return(x):
    try: return x
    finally: LOG.append(1); return x * 2

def finally_break(x):
    for i in range(5):
        try:
            if i == 2: raise ValueError
            print(i)
        finally:
            if i == 2: break
    return x + i

def finally_continue(x):
    out = []
    for i in range(3):
        try:
            if i == 1: continue
            out.append(i)
        finally: out.append(("f", i)); graph_break()
    return out, x

def nested_finally(x):
    try:
        try:
            try: raise KeyError("in")
            finally: LOG.append("a"); graph_break()
        except KeyError as e: LOG.append(repr(e)); raise ValueError("mid") from e
        finally: LOG.append("b")
    except ValueError as e: return x, str(e)
    finally: LOG.append("c")

def try_else(x):
    r = []
    for i in range(4):
        try: v = 10 // (i - 1)
        except ZeroDivisionError as e: r.append(str(e)); print("zero")
        else: r.append(v)
        finally: r.append("f")
    return r, x

def except_tuple_and_bare(x):
    out = []
    for f in (KeyError, ValueError, RuntimeError, StopIteration, TypeError):
        try: raise f("a", 1)
        except (KeyError, ValueError) as e: out.append(("tuple", e.args))
        except RuntimeError: out.append("rt")
        except: out.append(("bare", sys.exc_info()[0].__name__)); graph_break()
    return out, x

def exception_name_is_deleted(x):
    e = 1
    try: raise ValueError
    except ValueError as e: pass
    try: e
    except UnboundLocalError as u: return str(u), x

def exc_info_in_handler(x):
    try: raise Mine(5)
    except Mine:
        a = sys.exc_info()[1].args; print("in"); b = sys.exc_info()[1].args
    return a, b, sys.exc_info()[0], x

def exception_groups(x):
    g = ExceptionGroup("g", [ValueError(1), TypeError(2)])
    try: raise g
    except ExceptionGroup as e: m, r = e.split(ValueError); print(len(e.exceptions)); return m.exceptions, r.exceptions, e.message, x

def except_star(x):
    out = []
    try: raise ExceptionGroup("g", [ValueError(1), TypeError(2), KeyError(3)])
    except* ValueError as e: out.append(len(e.exceptions))
    except* (TypeError, KeyError) as e: out.append(len(e.exceptions))
    return out, x

def exception_notes(x):
    e = ValueError("v"); e.add_note("note"); e.extra = 3; graph_break()
    try: raise e
    except ValueError as f: return f is e, f.__notes__, f.extra, x

def exception_with_tensor(x):
    try: raise Mine(x + 1)
    except Mine as e: graph_break(); return e.args[0] * 2

def assert_statement(x):
    assert x.shape[0] > 0, "no"
    try: assert x.shape[0] > 100, f"shape {x.shape[0]}"
    except AssertionError as e: print("assert"); return str(e), x

def unbound(x):
    if x.shape[0] > 100: y = 1
    try: return y
    except UnboundLocalError as e: return str(e)

def user_error_in_torch(x):
    try: return x @ torch.ones(7, 7)
    except RuntimeError as e: return type(e).__name__, x + 1

def with_suppress(x):
    with contextlib.suppress(KeyError, ValueError):
        x = x + 1; print("s"); raise KeyError(1)
    with contextlib.nullcontext(5) as five: x = x + five
    return x

def with_own_suppress(x):
    with Suppress(ValueError) as s:
        LOG.append(s.kinds[0].__name__); graph_break(); raise Mine(1)
    with Suppress(): y = x + 1
    return y

def with_returns_inside(x):
    for i in range(3):
        with Suppress(KeyError):
            print(i)
            if i == 1: return x + i
    return None

def with_break_continue(x):
    out = []
    for i in range(4):
        with tagged(i):
            if i == 1: continue
            if i == 3: break
            out.append(i); print("w", i)
    return out, x

def with_nested(x):
    with tagged(1) as a, Suppress(ValueError) as b, torch.no_grad():
        with tagged(2) as c: graph_break(); y = x * a + c
        raise ValueError("q")
    return y, torch.is_grad_enabled()

def with_generator_swallows(x):
    with tagged("s", swallow=True): print("in"); raise KeyError("k")
    try:
        with tagged("n"): raise KeyError("l")
    except KeyError as e: return e.args, x

def with_exit_raises(x):
    class Bad:
        def __enter__(self): return 1
        def __exit__(self, *a): raise RuntimeError("exit")
    try:
        with Bad(): graph_break(); raise ValueError("body")
    except RuntimeError as e: return repr(e.__context__), x

def with_exit_stack(x):
    with contextlib.ExitStack() as stack:
        a = stack.enter_context(tagged(1)); stack.callback(LOG.append, "callback"); stack.enter_context(Suppress(ValueError)); print("es"); y = x + a
        raise ValueError("z")
    return y

def with_closing(x):
    class R:
        def close(self): LOG.append("closed")
    with contextlib.closing(R()): x = x + 1
    return x

def with_context_decorator(x):
    @tagged("deco")
    def inner(t): LOG.append("body"); return t + 1
    return inner(x), inner(x + 1)

def with_grad_modes(x):
    a = []
    with torch.no_grad(): a.append(torch.is_grad_enabled()); graph_break(); a.append(torch.is_grad_enabled())
    with torch.enable_grad(): a.append(torch.is_grad_enabled())
    with torch.inference_mode(): y = x + 1; a.append(y.is_inference())
    with torch.set_grad_enabled(False): graph_break(); z = x * 2
    return a, z

def while_else(x):
    i = 0
    while i < 5:
        i += 1
        if i == 9: break
    else: i = 100; print("else")
    for j in range(3):
        if j == 1: break
    else: j = 50
    return x + i + j

def while_true_with_breaks(x):
    n = 0
    while True:
        n += 1
        if n % 2: print("odd", n); continue
        if n > 5: break
        x = x + n
    return x, n

def loops_in_loops(x):
    out = []
    for i in range(3):
        for j in range(i):
            if (i + j) % 2: print(i, j)
            else: continue
            out.append((i, j)); x = x + i * j
    return x, out

def data_dependent_loop(x):
    n = 0
    while x.sum() < 30 and n < 10: x = x + 1; n += 1
    return x, n

def data_dependent_branches(x):
    y = x if x.sum() > 0 else -x
    if (x > 0).any() and not (x > 100).any(): y = y + 1
    elif x.max() > 5: y = y - 1
    return y, bool(x.min() < 0), int(x.shape[0]), x.sum().item() > 2

def gen_basic(x):
    def g(n):
        got = yield n
        while got: got = yield got * 2
        return "done"
    it = g(1); a = next(it); b = it.send(4); graph_break(); c = it.send(5)
    try: it.send(0)
    except StopIteration as e: return a, b, c, e.value, x

def gen_throw(x):
    def g():
        try: yield 1
        except ValueError as e: LOG.append(("caught", e.args)); yield 2
        finally: LOG.append("final")
        yield 3
    it = g(); out = [next(it), it.throw(ValueError("t")), next(it)]
    return out, list(it), x

def gen_throw_through(x):
    def inner():
        try: yield 1
        finally: LOG.append("inner")
    def outer(): yield from inner()
    it = outer(); next(it)
    try: it.throw(KeyError, KeyError("k"))
    except KeyError as e: return e.args, x

def gen_throw_context(x):
    def plain():
        try: yield 1
        finally: LOG.append("final")
    def handling():
        try: raise KeyError("own")
        except KeyError: yield 1
    def delegating(): yield from plain()
    for make in (plain, handling, delegating):
        for started in (False, True):
            try: raise ValueError("outside")
            except ValueError:
                it = make()
                if started: next(it)
                try: it.throw(RuntimeError("thrown"))
                except RuntimeError as e: LOG.append((make.__name__, started, repr(e.__context__)))
    return x

def gen_handler_resumed_elsewhere(x):
    def g():
        try: raise KeyError("own")
        except KeyError: yield 1
        yield 2
        raise IndexError("late")
    def again():
        try: raise KeyError("own")
        except KeyError:
            yield 1
            raise
    for make in (g, again):
        it = make()
        try: raise OSError("first")
        except OSError: next(it)
        try: raise ValueError("second")
        except ValueError:
            try: next(it); next(it)
            except LookupError as e: LOG.append((repr(e), repr(e.__context__)))
            try: raise
            except ValueError as e: LOG.append(repr(e))
    return x

def raised_again(x):
    e, g = KeyError("e"), ValueError("g")
    for other in (OSError("first"), IndexError("second")):
        try:
            try: raise other
            except Exception: raise e
        except KeyError: LOG.append(repr(e.__context__))
    try:
        try: raise e
        except KeyError: raise g
    except ValueError:
        try: raise e
        except KeyError: LOG.append((repr(e.__context__), repr(g.__context__)))
    return x

def gen_close(x):
    def g():
        try: yield 1; yield 2
        except GeneratorExit: LOG.append("exit"); raise
        finally: LOG.append("fin")
    it = g(); next(it); it.close(); it.close()
    def bad():
        try: yield 1
        except GeneratorExit: yield 2
    b = bad(); next(b)
    try: b.close()
    except RuntimeError as e: LOG.append(str(e))
    n = g(); n.close()
    return x, list(it), list(n)

def gen_return_and_delegate(x):
    def a(): v = yield 1; LOG.append(v); return "ra"
    def b(): r = yield from a(); LOG.append(r); q = yield from [7, 8]; return (r, q)
    it = b(); out = [next(it), it.send("sent"), next(it)]
    try: next(it)
    except StopIteration as e: out.append(e.value)
    return out, x

def gen_stop_inside(x):
    def g(): yield 1; raise StopIteration("no")
    it = g(); next(it)
    try: next(it)
    except RuntimeError as e: return str(e), repr(e.__cause__), x

def gen_reentrant(x):
    def g(): yield next(me[0])
    me = []; it = g(); me.append(it)
    try: next(it)
    except ValueError as e: return str(e), x

def gen_break_inside(x):
    def g():
        for i in range(3): print("g", i); yield x + i
    return [t * 2 for t in g()], sum(1 for _ in g())

def gen_abandoned(x):
    def g():
        try:
            for i in range(10): yield i
        finally: list()
    for v in g():
        if v == 2: break
    print("after"); return x + v

def gen_in_with(x):
    def g():
        with tagged("g"):
            yield 1; yield 2
    out = list(g()); it = g(); out.append(next(it)); it.close()
    return out, x

def gen_recursive(x):
    def walk(t):
        if isinstance(t, (list, tuple)):
            for v in t: yield from walk(v)
        else: yield t
    return list(walk([1, (2, [3, x]), 4]))

def gen_expression_late_binding(x):
    k = 1; g = (i * k for i in range(3)); k = 10; graph_break()
    return list(g), x

def gen_to_functions(x):
    g = lambda: (i for i in (3, 1, 2))
    return sorted(g()), max(g()), sum(g()), list(zip(g(), g())), dict((i, i) for i in g()), set(g()), tuple(g()), ",".join(str(i) for i in g()), any(i > 2 for i in g()), [*g()], min(g(), key=lambda v: -v), x

def gen_outside(x, g):
    a = next(g); y = x + a; b = list(g)
    return y, b

def match_values(x, v):
    match v:
        case 0 | 1: r = "small"
        case int(n) if n > 100: r = ("big", n)
        case str() as s: r = ("str", s)
        case [1, *rest]: r = ("one", rest)
        case [a, [b, c]]: r = (a, b, c)
        case {"k": k, "z": {"y": y}, **rest}: r = (k, y, rest)
        case None | True: r = "singleton"
        case Mine(args=(q,), b=w): r = (q, w)
        case torch.float32: r = "dtype"
        case _: graph_break(); r = "other"
    return r, x

def match_all(x):
    return [match_values(x, v)[0] for v in (0, 1, 2, 500, "s", [1, 2, 3], (4, (5, 6)), {"k": 1, "z": {"y": 2}, "r": 3}, {"k": 1}, None, True, Mine(3, b=4), torch.float32, [], 2.5)]

def match_positional(x):
    class P:
        __match_args__ = ("a", "b")
        def __init__(self, a, b): self.a, self.b = a, b
    out = []
    for v in (P(0, 1), P(1, x), P(2, 3), 5):
        match v:
            case P(0, b): out.append(b)
            case P(1, b=t): out.append(t + 1); print("t")
            case P() as p: out.append(p.a)
            case _: out.append(None)
    return out

def closures_nonlocal(x):
    n, log = 0, []
    def inc(k=1):
        nonlocal n
        n += k; log.append(n); return n
    inc(); graph_break(); inc(5); f = lambda: n * 100; inc()
    return n, log, f(), x

def closures_in_loops(x):
    fs = [lambda: i for i in range(3)]; gs = [lambda i=i: i for i in range(3)]; graph_break()
    return [f() for f in fs], [g() for g in gs], x

def closure_returned(x):
    n = 3
    def f(a, b=n, *, c=x): return a + b + n + c
    n = 4; graph_break()
    return f, f(1)

def closure_deleted(x):
    n = 1
    def f(): return n
    del n
    try: return f()
    except NameError as e: return str(e), x

def closure_shared(x):
    v = [0]; c = 0
    def up():
        nonlocal c
        c += 1; v[0] += c
    def down():
        nonlocal c
        c -= 1; v.append(c)
    up(); print("s"); down(); up(); up()
    return v, c, up, down

def recursion(x):
    def fact(n): return 1 if n < 2 else n * fact(n - 1)
    def even(n): return True if n == 0 else odd(n - 1)
    def odd(n): return False if n == 0 else even(n - 1)
    return fact(6), even(7), x

def recursion_with_break(x):
    def f(n):
        if n == 0: print("bottom"); return x
        return f(n - 1) + n
    return f(3)

def parameters(x):
    def f(a, b=2, /, c=3, *args, d, e=5, **kw): return a, b, c, args, d, e, sorted(kw.items())
    return f(1, d=4), f(1, 2, 3, 4, 5, d=6, z=7), f(*[1, 2], **{"d": 3, "c": 9}), f(1, *(2, 3), *[4], d=1, **{"q": 1}, **{"r": 2}), x

def parameter_errors(x):
    def f(a, /, b, *, c): return 1
    out = []
    for call in (lambda: f(), lambda: f(1, 2), lambda: f(1, 2, 3, c=4), lambda: f(1, b=2, c=3, d=4), lambda: f(a=1, b=2, c=3), lambda: f(1, 2, b=3, c=4), lambda: f(**{"b": 1}, **{"b": 2})):
        try: call()
        except TypeError as e: out.append(str(e))
    return out, x

def mutable_default(x):
    def f(v, acc=[]): acc.append(v); return acc
    f(1); graph_break(); a = f(2)
    return a, f(3), x

def decorators(x):
    import functools
    def twice(f):
        @functools.wraps(f)
        def w(*a, **k): LOG.append(f.__name__); return f(f(*a, **k))
        return w
    @twice
    def add(t): "doc"; return t + 1
    return add(x), add.__name__, add.__doc__, add.__wrapped__(x)

def global_writes(x):
    global COUNT, FRESH
    COUNT += 1; FRESH = x; graph_break(); COUNT += 10; r = FRESH is x
    del FRESH
    try: FRESH
    except NameError as e: return str(e), r, COUNT

def walrus_everywhere(x):
    out = [y := 1, y + 1]; l = [z for i in range(4) if (z := i * 2) > 2]; graph_break()
    while (n := len(out)) < 5: out.append(n)
    return out, l, z, y, (lambda: (q := 3) + q)(), x

def chained_and_conditional(x):
    a = 1 < 2 < 3, 1 < 3 < 2, 1 == 1.0 != 2; b = 0 or "" or [] or "last"; c = 1 and 2 and 0; d = "y" if x.shape[0] else "n"; e = not None, None is None, 3 in (1, 2), x is x
    return a, b, c, d, e, [1, 2] == [1, 2], 1 is not None

def delete_names(x):
    a = 1; b = [1, 2]; del a, b[0]; graph_break(); a = 5
    return a, b, x

def augmented(x):
    a = 5; a += 1; a -= 2; a *= 3; a //= 2; a **= 2; a %= 7; a <<= 2; a >>= 1; a |= 8; a &= 12; a ^= 1; f = 5.0; f /= 2; s = "a"; s += "b"; t = (1,); t += (2,); l = m = [1]; l += [2]; d = {"q": [1]}; d["q"][0] += 5; x = x.clone(); y = x; x += 1; x @= torch.eye(x.shape[-1]) if x.dim() > 1 else 1
    return a, f, s, t, l is m, d, x, y

def early_returns(x):
    if x.dim() == 0: return 0
    for i in range(3):
        if i == 1:
            with tagged("r"):
                try: print("ret"); return x + i
                finally: LOG.append("fin")

def classes_in_frame(x):
    class A:
        k = 2
        l = [k * i for i in range(2)] if False else [k]
        def __init__(self, v): self.v = v
        def get(self): return self.v * self.k
    class B(A):
        def get(self): return super().get() + 1
    b = B(x); graph_break()
    return b.get(), A.l, B.__mro__[1].__name__, isinstance(b, A), issubclass(B, A)


ARGS = {"gen_outside": lambda x: (x, (i for i in range(3))), "match_values": lambda x: (x, {"k": 1, "z": {"y": [2]}, "rest": x})}
