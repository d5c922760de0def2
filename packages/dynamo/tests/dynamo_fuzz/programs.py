"""Program generator: random functions over statements, containers, mutation, exceptions, calls, closures, classes, generators, tensors.

Between: draws of hypothesis, which shrinks, or of a seeded `random.Random`, which is a hundred times as fast -> the text of a module with a function `program(x, n, items, table, box)`.
Keeps:   every program ends; names are used where they may be unbound only on purpose; values stay small. What fails in eager must fail alike compiled.
"""

from __future__ import annotations

import linecache
import random
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from lamina_dynamo.runtime import Options, compile_callable, reset

from .observe import Observation, observe

__all__ = ["WATCHED", "arguments", "difference", "forget", "module_of", "programs", "random_program", "reduced"]

WATCHED = ("COUNT", "LOG", "TABLE", "SHARED")

PRELUDE = '''\
import contextlib, torch
from collections import defaultdict, deque, OrderedDict
COUNT = 0
LOG = []
TABLE = {"g": 1}
SHARED = [1, 2]
class Fail(ValueError):
    def __init__(self, code): super().__init__(f"fail {code}"); self.code = code
class Guard:
    def __init__(self, swallow): self.swallow = swallow
    def __enter__(self): LOG.append("enter"); return 2
    def __exit__(self, kind, e, tb): LOG.append(("exit", kind and kind.__name__)); return self.swallow and kind is not None
class Box:
    size = 2
    def __init__(self, v, n): self.v, self.n, self.items = v, n, [n]
    def add(self, t): self.n += 1; return self.v + t
    def noisy(self, k=1): print("noisy", self.n); self.items.append(k); return self.n * k
    @property
    def twice(self): return self.v * 2
    @twice.setter
    def twice(self, t): self.v = t
    def __len__(self): return len(self.items)
    def __getitem__(self, i): return self.items[i]
    def __call__(self, a): return a + self.n
    def __iter__(self): return iter(self.items)
    def __contains__(self, k): return k in self.items
class Child(Box):
    def add(self, t): return super().add(t) - 1
    def __getattr__(self, name):
        if name.startswith("dyn"): return len(name)
        raise AttributeError(name)
@contextlib.contextmanager
def scope(tag):
    LOG.append(tag)
    try: yield len(LOG)
    finally: LOG.append(-1)
def helper(t, k=1, *rest, flag=False, **kw):
    if flag: print("helper", k, len(rest), sorted(kw))
    return t * k + len(rest)
def failing(k):
    if k % 2: raise Fail(k)
    return k
def numbers(k):
    for i in range(k): yield i
def chatty(k):
    LOG.append("start")
    for i in range(k):
        print("yield", i); got = yield i
        if got is not None: LOG.append(got)
    return k
def delegating(k):
    r = yield from chatty(k)
    yield r
'''


class _Writer:
    """Draws one program."""

    def __init__(self, integer: Callable[[int, int], int]) -> None:
        self.between = integer
        self.lines: list[str] = []
        self.names: dict[str, list[str]] = {"T": ["x"], "I": ["n"], "L": ["items", "SHARED"], "D": ["table", "TABLE"], "B": ["box"], "F": []}
        self.fresh = 0
        self.loops = 0
        self.in_generator = self.in_handler = False
        self.budget = integer(3, 14)

    def pick(self, *options: Any) -> Any:
        return options[self.between(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.between(0, 99) < percent

    def name(self, kind: str) -> str:
        return self.pick(*self.names[kind])

    def new(self, kind: str) -> str:
        if self.names[kind] and self.chance(30):
            old = self.name(kind)
            if not old.isupper():
                return old
        self.fresh += 1
        return f"{kind.lower()}{self.fresh}"

    def bind(self, kind: str, name: str) -> str:
        if name not in self.names[kind]:
            self.names[kind].append(name)
        return name

    def emit(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    # ---- expressions ---------------------------------------------------------------------------------------------
    def integer(self, depth: int = 0) -> str:
        if depth > 2 or self.chance(35):
            return self.pick(self.name("I"), str(self.between(-3, 4)))
        a, l, d, b = self.integer(depth + 1), self.name("L"), self.name("D"), self.name("B")
        return self.pick(
            f"(({a} + {self.integer(depth + 1)}) % 7)", f"({a} * 2 % 5)", f"(-{a})", f"len({l})", f"len({d})", f"{b}.n", f"{b}.noisy({a} % 3)", f"len({b})", f"{b}({a}) % 9", f"int({a} > 1)",
            f"({a} if {self.condition(depth + 1)} else {self.integer(depth + 1)})", f"sum(i for i in {l} if isinstance(i, int)) % 11", f"failing({a})", f"sum(numbers({a} % 4))", f"(lambda q: q + {a})(1)", f"{self.name('T')}.shape[0]",
            f"max({a}, {self.integer(depth + 1)})", "COUNT", f"({d}.get('a', {a}) if isinstance({d}.get('a', 0), int) else 0)", f"next(iter([{a}]))", f"(lambda *q, **k: len(q) + len(k))({a}, 1, z=2)", f"{l}.count({a})", f"abs({a})", f"getattr({b}, 'extra', {a})", f"(w := {a}) + 1",
        )  # fmt: skip

    def tensor(self, depth: int = 0) -> str:
        if depth > 2 or self.chance(30):
            return self.name("T")
        a, b = self.tensor(depth + 1), self.name("B")
        return self.pick(
            f"({a} + {self.tensor(depth + 1)})", f"({a} * {self.pick('2', '0.5', self.integer(depth + 1))})", f"{a}.relu()", f"torch.sin({a})", f"({a} - {a}.mean())", f"{a}.clone()", f"torch.where({a} > 0, {a}, {self.tensor(depth + 1)})", f"{b}.add({a})", f"{b}.v", f"{b}.twice",
            f"helper({a}, {self.integer(depth + 1)})", f"helper({a}, 2, 3, flag={self.pick('True', 'False')}, z=1)", f"{a}.sum()", f"{a}[0]", f"torch.stack([{a}, {a}]).sum(0)", f"sum([{a}, {a}])", f"(lambda q: q * 2)({a})", f"{a}.view(-1)[:1]", f"{a}.detach()", f"({a} if {self.condition(depth + 1)} else {self.tensor(depth + 1)})",
            *[f"{f}({a})" for f in self.names["F"]],
        )  # fmt: skip

    def condition(self, depth: int = 0) -> str:
        if depth > 2:
            return self.pick("True", f"{self.name('I')} > 1")
        a = self.integer(depth + 1)
        return self.pick(
            f"{a} > {self.integer(depth + 1)}", f"{a} == 2", f"{self.tensor(depth + 1)}.sum() > {self.integer(depth + 1)}", f"{a} in {self.name('L')[:1] and self.name('B')}", f"not {a}", f"'a' in {self.name('D')}", f"{self.name('L')} is {self.name('L')}", f"isinstance({self.name('B')}, Child)",
            f"{a} > 0 and {self.condition(depth + 1)}", f"{a} < 1 or {self.condition(depth + 1)}", f"0 < {a} < 3", f"hasattr({self.name('B')}, 'extra')", f"len({self.name('L')}) > 2",
        )  # fmt: skip

    def value(self) -> str:
        return self.pick(self.integer, self.integer, self.tensor, lambda: self.name("L"), lambda: f"'{self.pick('a', 'b', 'k')}'", lambda: f"({self.integer()}, {self.tensor()})", lambda: f"[{self.integer()}]", lambda: "None")()

    # ---- statements ----------------------------------------------------------------------------------------------
    def block(self, depth: int, limit: int) -> None:
        kept = {k: list(v) for k, v in self.names.items()}
        for _ in range(self.between(1, limit)):
            if self.budget <= 0:
                break
            self.budget -= 1
            self.statement(depth)
        if self.lines[-1].endswith(":") or self.lines[-1].startswith("    " * depth) is False:
            self.emit(depth, "pass")
        self.names = kept

    def statement(self, depth: int) -> None:
        simple = (self._assign_tensor, self._assign_integer, self._list, self._dict, self._object, self._print, self._global, self._mutate_tensor, self._raise, self._call)
        nested = (self._if, self._for, self._while, self._try, self._with, self._function, self._comprehension, self._match, self._generator, self._iterator)
        if depth > 4 or self.chance(45):
            self.pick(*simple)(depth)
        else:
            self.pick(*nested)(depth)

    def _assign_tensor(self, d: int) -> None:
        text = self.tensor()
        self.emit(d, f"{self.bind('T', self.new('T'))} = {text}")

    def _assign_integer(self, d: int) -> None:
        text = self.integer()
        self.emit(d, f"{self.bind('I', self.new('I'))} = {text}")

    def _list(self, d: int) -> None:
        l, v = self.name("L"), self.value()
        text = self.pick(
            f"{l}.append({v})", f"{l}.insert({self.integer()}, {v})", f"{l}.pop()", f"{l}[{self.integer()}] = {v}", f"{l}.extend([{v}, 1])", f"{l} += [{v}]" if not l.isupper() else f"{l}.extend([{v}])", f"del {l}[{self.integer()}]", f"{l}.reverse()", f"{l}[1:2] = [{v}]", f"{l}.clear()", f"{l}.remove({self.integer()})", "",
        )  # fmt: skip
        if text:
            self.emit(d, text)
        else:
            text = self.pick(f"[{v}, {self.value()}]", f"list({l})", f"{l}[::-1]", f"[*{l}, {v}]", f"sorted(i for i in {l} if isinstance(i, int))", f"list(zip({l}, [1, 2]))", "list(chatty(2))", f"list(deque({l}, maxlen=2))", f"[a for a, *b in [({v}, 1)]]")
            self.emit(d, f"{self.bind('L', self.new('L'))} = {text}")

    def _dict(self, d: int) -> None:
        t, v, k = self.name("D"), self.value(), self.pick("'a'", "'b'", "'k'", "1")
        text = self.pick(f"{t}[{k}] = {v}", f"{t}.update(a={v})", f"{t}.pop({k}, None)", f"{t}.pop({k})", f"{t}.setdefault({k}, {v})", f"del {t}[{k}]", f"{t}.clear()", "")
        if text:
            self.emit(d, text)
        else:
            text = self.pick(f"{{{k}: {v}, 'q': 1}}", f"dict({t})", f"{{**{t}, 'z': {v}}}", f"{t} | {{'m': 1}}", f"{{i: {v} for i in 'ab'}}", f"OrderedDict({t})", "defaultdict(list)")
            self.emit(d, f"{self.bind('D', self.new('D'))} = {text}")

    def _object(self, d: int) -> None:
        b, v = self.name("B"), self.value()
        text = self.pick(f"{b}.extra = {v}", f"{b}.n = {self.integer()}", f"{b}.v = {self.tensor()}", f"{b}.twice = {self.tensor()}", f"del {b}.extra", f"{b}.items.append({v})", f"{b}.n += 1", f"{b}.__dict__['extra'] = {self.integer()}", "")
        if text:
            self.emit(d, text)
        else:
            text = self.pick(f"Box({self.tensor()}, {self.integer()})", f"Child({self.tensor()}, 1)", f"type({b})({self.tensor()}, 2)")
            self.emit(d, f"{self.bind('B', self.new('B'))} = {text}")

    def _print(self, d: int) -> None:
        l = self.name("L")
        self.emit(d, self.pick(f"print({self.integer()})", "print('here', len(LOG))", f"print({self.tensor()}.sum() > 0)", f"LOG.append({self.integer()})", f'print(f"{{{self.integer()}}} {{len({l})!r:>3}}")', f"torch.manual_seed({self.integer()} % 3)"))

    def _global(self, d: int) -> None:
        self.emit(d, self.pick(f"COUNT += {self.integer()}", f"TABLE['g'] = {self.value()}", f"SHARED.append({self.integer()})", f"SHARED = [{self.integer()}]", "LOG.append(COUNT)"))

    def _mutate_tensor(self, d: int) -> None:
        t = self.name("T")
        self.emit(d, self.pick(f"{t}.add_({self.integer()})", f"{t} += 1", f"{t}[0] = {self.integer()}", f"{t}.mul_(2)", f"{t}.tag = {self.integer()}", f"{t} = {t}.t() if {t}.dim() == 2 else {t}"))

    def _raise(self, d: int) -> None:
        text = self.pick(f"raise Fail({self.integer()})", "raise KeyError('k')", "int('z')", f"assert {self.condition()}, 'no'", "[][1]", f"{{}}[{self.integer()}]", "raise Fail(1) from KeyError(2)", "raise" if self.in_handler else "1 // 0", f"{self.name('B')}.nope")
        self.emit(d, f"if {self.condition()}: {text}" if self.chance(60) else text)

    def _call(self, d: int) -> None:
        self.emit(d, self.pick(f"helper({self.tensor()}, flag=True, **{{'a': 1}})", f"{self.name('B')}.noisy(*[{self.integer()}])", f"failing({self.integer()})", f"{self.name('D')}.update(dict(zip('ab', {self.name('L')})))", f"list(map(print, [{self.integer()}]))"))

    def _if(self, d: int) -> None:
        self.emit(d, f"if {self.condition()}:")
        self.block(d + 1, 3)
        if self.chance(50):
            if self.chance(40):
                self.emit(d, f"elif {self.condition()}:")
                self.block(d + 1, 2)
            self.emit(d, "else:")
            self.block(d + 1, 3)

    def _loop_body(self, d: int) -> None:
        self.loops += 1
        self.block(d + 1, 3)
        if self.chance(40):
            self.emit(d + 1, f"if {self.condition()}: {self.pick('break', 'continue', 'break')}")
            if self.chance(50):
                self.block(d + 1, 2)
        self.loops -= 1
        if self.chance(20):
            self.emit(d, "else:")
            self.block(d + 1, 2)

    def _for(self, d: int) -> None:
        self.fresh += 1
        i = f"i{self.fresh}"
        l = self.name("L")
        head, names = self.pick(
            (f"for {i} in range({self.integer()} % 4)", [i]), (f"for {i} in list({l})[:3]", []), (f"for {i}, _e in enumerate({l}[:3])", [i]), (f"for {i}, _k in zip(range(3), 'ab')", [i]), (f"for _k, _v in list({self.name('D')}.items())[:3]", []), (f"for {i} in numbers(3)", [i]), (f"for {i} in chatty(2)", [i]), (f"for {i} in delegating(2)", [i]),
            (f"for _k in {self.name('D')}", []), (f"for {i} in {self.name('B')}.items[:2]", []), (f"for {i} in (j * 2 for j in range(3))", [i]), (f"for {i} in {{1, 2}}", [i]), (f"for {i} in reversed([1, 2, 3])", [i]), (f"for {i}, (_p, *_q) in [(1, (2, 3)), (4, (5,))]", [i]),
        )  # fmt: skip
        self.emit(d, f"{head}:")
        kept = list(self.names["I"])
        self.names["I"] = [*kept, *names]
        self._loop_body(d)
        self.names["I"] = kept

    def _while(self, d: int) -> None:
        self.fresh += 1
        c = f"c{self.fresh}"
        self.emit(d, f"{c} = 0")
        self.emit(d, f"while {c} < {self.between(1, 4)}{self.pick('', f' and ({self.condition()})')}:")
        self.emit(d + 1, f"{c} += 1")
        self._loop_body(d)

    def _try(self, d: int) -> None:
        self.emit(d, "try:")
        self.block(d + 1, 3)
        caught = self.chance(85)
        if caught:
            for kind in self.pick(("Fail",), ("(KeyError, IndexError)", "Exception"), ("Fail", "Exception"), ("Exception",)):
                self.emit(d, f"except {kind} as e:")
                self.emit(d + 1, self.pick("LOG.append(type(e).__name__)", "print('caught', type(e).__name__, e.args)", "LOG.append(str(e.__context__ is None))"))
                was, self.in_handler = self.in_handler, True
                if self.chance(60):
                    self.block(d + 1, 2)
                self.in_handler = was
            if self.chance(25):
                self.emit(d, "else:")
                self.block(d + 1, 2)
        if not caught or self.chance(30):
            self.emit(d, "finally:")
            self.block(d + 1, 2)
            if self.chance(12):
                self.emit(d + 1, f"return {self.value()}")

    def _with(self, d: int) -> None:
        head = self.pick("torch.no_grad()", "Guard(True)", "Guard(False) as w", "scope('s') as w", "scope(1), Guard(True)", "contextlib.suppress(KeyError, Fail)", "torch.set_grad_enabled(False)", "contextlib.nullcontext(3) as w", "contextlib.ExitStack() as _s")
        self.emit(d, f"with {head}:")
        if "_s" in head:
            self.emit(d + 1, self.pick("_s.callback(LOG.append, 'cb')", "_s.enter_context(Guard(True))", "_s.enter_context(scope('es'))"))
        self.block(d + 1, 3)
        if self.chance(15):
            self.emit(d + 1, f"return {self.value()}")

    def _function(self, d: int) -> None:
        self.fresh += 1
        f, t = f"f{self.fresh}", f"q{self.fresh}"
        captured = self.pick("", f"nonlocal {self.cell}" if self.cell else "")
        self.emit(d, f"def {f}({t}, m={self.integer()}, *more):")
        if captured:
            self.emit(d + 1, captured)
            self.emit(d + 1, f"{self.cell} += m")
        kept = self.names
        self.names = {**{k: list(v) for k, v in kept.items()}, "T": [t, *[n for n in kept["T"] if n == "x"]], "I": ["m", "n"], "F": []}
        self.names = {k: [n for n in v if n not in kept.get(k, ()) or n in ("x", "n", "items", "table", "box", "SHARED", "TABLE", t, "m")] for k, v in self.names.items()}
        loops, self.loops, handler, self.in_handler, cell, self.cell = self.loops, 0, self.in_handler, False, self.cell, ""
        self.block(d + 1, 2)
        self.emit(d + 1, f"return {self.tensor()}")
        self.names, self.loops, self.in_handler, self.cell = kept, loops, handler, cell
        self.bind("F", f)
        self.emit(d, f"{self.bind('T', self.new('T'))} = {f}({self.tensor()})")

    def _comprehension(self, d: int) -> None:
        a, t = self.integer(), self.tensor()
        text = self.pick(f"[{t} * i for i in range(3)]", f"[(print('c', i), i + {a})[1] for i in range(2)]", f"[i for i in range(4) if i != {a}]", "[[i, j] for i in range(2) for j in range(i)]", f"list({{i: {a} for i in range(3)}}.values())", "[*{i % 2 for i in range(3)}]", f"[f(i) for f in [lambda z: z + {a}] for i in (1, 2)]", "[v for v in chatty(2)]")
        self.emit(d, f"{self.bind('L', self.new('L'))} = {text}")

    def _match(self, d: int) -> None:
        self.emit(d, f"match {self.value()}:")
        for case in self.pick(("0 | 1", "int(k) if k > 1", "_"), ("[a, *b]", "torch.Tensor()", "_"), ("(a, b)", "str() | None"), ("int()", "[]", "[a]", "_")):
            self.emit(d + 1, f"case {case}:")
            self.block(d + 2, 2)

    def _generator(self, d: int) -> None:
        self.fresh += 1
        g = f"g{self.fresh}"
        self.emit(d, f"{g} = {self.pick('chatty', 'delegating', 'numbers')}({self.between(1, 3)})")
        l = self.bind("L", self.new("L"))
        self.emit(d, f"{l} = [next({g}, None)]")
        self.block(d, 1)
        self.emit(d, self.pick(f"{l}.extend({g})", f"{l}.append({g}.send(None))", f"{g}.close()", f"{l}.append(next({g}, 'end'))", f"{g}.throw(Fail(3))", f"{l} += list({g})"))

    def _iterator(self, d: int) -> None:
        self.fresh += 1
        it = f"t{self.fresh}_it"
        self.emit(d, f"{it} = {self.pick('iter([1, 2, 3])', 'enumerate([4, 5])', 'zip([1, 2], numbers(2))', 'map(lambda z: z + 1, [1, 2])', 'iter({1: 2, 3: 4}.items())', 'reversed([1, 2])', '(j for j in range(3))', 'filter(None, [0, 1, 2])')}")
        l = self.bind("L", self.new("L"))
        self.emit(d, f"{l} = [next({it})]")
        self.block(d, 2)
        self.emit(d, f"{l}.extend({it})")

    cell = ""

    def program(self) -> str:
        cell = self.chance(40)
        if cell:
            self.cell = "count"
        body_start = len(self.lines)
        while self.budget > 0:
            self.budget -= 1
            self.statement(1)
        head = ["def program(x, n, items, table, box):", "    global COUNT, SHARED"]
        if cell:
            head.append("    count = n")
            self.names["I"].append("count")
        results = [self.name(k) for k in ("T", "I", "L", "D")]
        tail = [f"    return {', '.join(results)}, box"]
        return PRELUDE + "\n".join([*head, *self.lines[body_start:], *tail]) + "\n"


@st.composite
def programs(draw: Any) -> str:
    """Text of a module."""
    text = _Writer(lambda least, most: draw(st.integers(least, most))).program()
    assume(_is_python(text))
    return text


def random_program(seed: int) -> str:
    """Text of the module with this number."""
    draws = random.Random(seed)
    while not _is_python(text := _Writer(draws.randint).program()):
        pass
    return text


def _is_python(text: str) -> bool:
    """The grammar above knows not every rule: where `:=` may stand, for one."""
    try:
        compile(text, "<generated>", "exec")
    except SyntaxError:
        return False
    return True


def reduced(text: str) -> str:
    """A program that still differs from eager, with as many lines taken away as one pass after the other finds."""
    lines = text[len(PRELUDE) :].splitlines()
    size = len(lines) // 2
    while size:
        at = 1
        while at < len(lines) - 1:
            fewer = lines[:at] + lines[at + size :]
            if _differs(PRELUDE + "\n".join(fewer) + "\n"):
                lines = fewer
            else:
                at += size
        size //= 2
    return PRELUDE + "\n".join(lines) + "\n"


def _differs(text: str) -> bool:
    return _is_python(text) and difference(text) is not None


_number = [0]


def module_of(text: str) -> types.ModuleType:
    """A new module of this text, where `forget` finds it; its lines show in tracebacks."""
    _number[0] += 1
    name = f"generated_{_number[0]}"
    module = sys.modules[name] = types.ModuleType(name)
    file = f"<{name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def forget(module: types.ModuleType) -> None:
    sys.modules.pop(module.__name__, None)
    linecache.cache.pop(f"<{module.__name__}>", None)


def arguments(module: types.ModuleType, which: int) -> tuple[Any, ...]:
    """New arguments of `program`, of one of two kinds."""
    x = (torch.arange(4.0).reshape(2, 2) - 1.5, torch.linspace(-1, 2, 6).reshape(3, 2))[which]
    kind = (module.Box, module.Child)[which]
    return x, (2, 3)[which], [[3, 1], [1, x + 1]][which], [{"a": 1}, {"a": 5, "k": x}][which], kind(x * 2, which + 1)


def run(text: str, compiled: bool, calls: tuple[int, ...] = (0, 1, 0)) -> list[Observation]:
    """What the calls of a fresh copy of the program do."""
    module = module_of(text)
    program = module.program
    fn = compile_callable(program, Options(lambda gm, example_inputs: gm.forward)) if compiled else program
    try:
        return [observe(fn, arguments(module, i), vars(module), WATCHED).without_frames() for i in calls]
    finally:
        forget(module)
        if compiled:
            reset()


def difference(text: str) -> str | None:
    """Where compiled leaves eager; None if it does not."""
    want = run(text, False)
    try:
        got = run(text, True)
    except Exception as e:
        return f"crash: {type(e).__name__}: {e}"
    for i, (w, g) in enumerate(zip(want, got)):
        if w != g:
            return f"call {i}: {w.difference(g)}"
    return None
