"""Graph breaks: run the instruction that breaks in a copy of the user's code, then call a function that resumes after it.

Between: a capture that stops before a root instruction -> the tail of the replacement code.
How:     the replacement code leaves the call of the *break function* to the native half (a tail call: nothing of the frame is held
         while it runs). It is the frame's code with a prologue that restores locals and stack and jumps to the breaking
         instruction, so that its handlers and `with` blocks are those of the user; after that instruction it leaves to the
         *resume function*: the same code again with a prologue that jumps to the next instruction. The resume function is
         a compiled callable itself.
Keeps:   both are made from the original code object, whatever function the capture started in, and are kept by their
         place and shape, so that a break in a loop has one resume function; handled exceptions are set again by
         PUSH_EXC_INFO; cells are shared by making them free variables of the copies, which put their own back where they were.
"""

from __future__ import annotations

import dis
import functools
import sys
import types
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import torch

from .assembler import Asm, assemble, call_sequence, copy_instructions
from .bytecode import VERSION, ByCode, Program, live_locals, program_of
from .control import CannotRebuild, refusal
from .frames import NULL, ExcSlot, Frame, Unread
from .loops import note_break
from .native import extension
from .rebuild import Codegen
from .source import LocalSource

__all__ = ["Origin", "emit_break", "origin_of"]

PLAIN, EMPTY, SLOT = "plain", "null", "slot"  # kinds of stack items


@dataclass
class Origin:
    """Where the instructions of a resume function come from."""

    code: types.CodeType
    shift: int  # instructions of the prologue
    unread: tuple[str, ...] = ()  # parameters that are only kept alive


_origins: ByCode[Origin] = ByCode()


def origin_of(code: types.CodeType) -> Origin:
    return _origins.get(code) or Origin(code, 0)


def all_names(code: types.CodeType) -> tuple[str, ...]:
    """Names of localsplus, in order."""
    return code.co_varnames + tuple(v for v in code.co_cellvars if v not in code.co_varnames) + code.co_freevars


def _cell_names(code: types.CodeType) -> tuple[str, ...]:
    return code.co_cellvars + code.co_freevars


@dataclass(frozen=True)
class State:
    """What is alive at an instruction of the original code: names of bound locals, kinds of stack items, bound locals that nothing reads."""

    index: int
    locals: tuple[str, ...]
    stack: tuple[str, ...]
    unread: tuple[str, ...]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Parameters of a function that starts here."""
        return (*self.locals, *[n for n in self.stack_names if n], *self.unread)

    @property
    def stack_names(self) -> list[str]:
        """The parameter of each stack item; exception slots count for themselves, since a SWAP may move one."""
        return [f".stack{i}" if k == PLAIN else f".handled{self.stack[:i].count(SLOT)}" if k == SLOT else "" for i, k in enumerate(self.stack)]


# ---- at a break --------------------------------------------------------------------------------------------------------
def emit_break(cap: Any, cg: Codegen, frame: Frame, options: Any) -> list[str]:
    """The last lines of the replacement code of a frame that stops before `frame.pc`."""
    origin = origin_of(frame.code)
    code = origin.code
    program = program_of(code)
    at = frame.pc - origin.shift
    slots = [v for v in frame.stack if type(v) is ExcSlot]
    ins = program.instructions[at]
    copies = len(slots) > len(set(map(id, slots))) or ins.op == "COPY" and type(frame.stack[-ins.arg]) is ExcSlot
    if at < 0 or ins.op == "PUSH_EXC_INFO" or copies:  # the last two only where a test forces it
        raise CannotRebuild(None, refusal("break-at-start", "a graph break before the first instruction"))
    while program.instructions[at].op in ("KW_NAMES", "PRECALL"):
        at += 1
    start = _start(program, at)
    values = _values_by_name(frame)
    numbers = [(cap.number_source[n].local, v) for n, v in cap.symbolic_numbers.items() if type(cap.number_source[n]) is LocalSource]
    note_break(options, code, program.instructions[at].op == "FOR_ITER", [*values.items(), *numbers])
    cells = _cell_names(code)
    live = live_locals(program, start)
    names = all_names(code)
    bound = tuple(names[i] for i in sorted(live) if names[i] not in cells and values.get(names[i], NULL) is not NULL)
    stack = list(frame.stack)
    kinds = tuple(EMPTY if v is NULL else SLOT if type(v) is ExcSlot else PLAIN for v in stack)
    handled = _handled(stack, cap.handled)
    called = _callable_position(program.instructions[at], stack)
    args = [cg.value(values[n]) for n in bound]
    for i, (v, k) in enumerate(zip(stack, kinds)):
        if k == SLOT:
            args.append(cg.value(handled[i]))
        elif k == PLAIN:
            v = _without_the_peer(v) if i == called else v
            expr = cg.value(v)
            if i == called and _runs_python(v) and getattr(v, "__module__", None) not in _REPEATS_OR_TRANSFORMS:
                from .eval_frame import call_with_hook
                from .runtime import frame_callback

                expr = f"{cg.constant(functools.partial)}({cg.constant(call_with_hook)}, {cg.constant(frame_callback(options))}, {expr})"
            args.append(expr)
    unread = {n: e for n in code.co_varnames if n not in bound and n not in cells and (e := _kept(cap, cg, values.get(n, NULL)))}
    args += unread.values()
    entry = State(start, bound, kinds, tuple(unread))
    break_code = _break_code(code, at, entry, frame.globals, options)
    if cells:
        closure = "".join(f"{_cell(cg, frame, n)}, " for n in cells)
        fn = f"{cg.constant(types.FunctionType)}({cg.constant(break_code)}, {cg.constant(frame.globals)}, {code.co_name!r}, None, ({closure}))"
    else:
        fn = cg.constant(types.FunctionType(break_code, frame.globals, code.co_name))
    return [f"return {cg.constant(extension().tail)}({', '.join([fn, *args])})"]


def _start(program: Program, at: int) -> int:
    """A call starts at the instructions that prepare it."""
    start = at
    if program.instructions[at].op == "CALL":
        while start and program.instructions[start - 1].op in ("PRECALL", "KW_NAMES"):
            start -= 1
    return start


def _values_by_name(frame: Frame) -> dict[str, Any]:
    """A copy's free variables come last and have the names of its cells."""
    return dict(reversed(list(zip(all_names(frame.code), frame.fast))))


def _kept(cap: Any, cg: Codegen, v: Any) -> str:
    """Expression of what a local variable holds that nothing reads, if it has a life outside of this capture: it was passed in, or goes out otherwise."""
    if type(v) is Unread:
        return cg.source(LocalSource(v.name))
    made = cap.inputs.get(id(v))
    found = made.source if made is not None else cap.sources.get(id(v))
    return cg.source(found) if type(found) is LocalSource else cg.known(v)


def _cell(cg: Codegen, frame: Frame, name: str) -> str:
    v = _values_by_name(frame).get(name, NULL)
    if type(v) is not types.CellType:  # before MAKE_CELL: only at the very start
        raise CannotRebuild(None, refusal("break-at-start", "a graph break before cells are made"))
    return cg.cell(v)


def _handled(stack: list[Any], now: Any) -> dict[int, Any]:
    """The exception being handled inside each exception slot of the stack."""
    slots = [i for i, v in enumerate(stack) if type(v) is ExcSlot]
    out = {}
    for j, i in enumerate(slots):
        out[i] = stack[slots[j + 1]].exc if j + 1 < len(slots) else now
    return out


# Functions whose Python callees stay eager: they run them again later and compare what was saved, or under a transform.
_REPEATS_OR_TRANSFORMS = frozenset({"torch.utils.checkpoint", "torch._functorch.apis", "torch._functorch.eager_transforms", "torch._higher_order_ops.associative_scan"})


def _without_the_peer(v: Any) -> Any:
    """What runs in the place of functions that would start the reference compiler."""
    from .rules.control_flow import run_cond, run_while_loop

    return run_cond if v is torch.cond else run_while_loop if v is torch.while_loop else v


def _callable_position(ins: Any, stack: list[Any]) -> int | None:
    if ins.op == "CALL":
        base = len(stack) - ins.arg - 2
        if VERSION >= (3, 13):
            return base
        return base + 1 if stack[base] is NULL else base
    if ins.op == "CALL_KW":
        return len(stack) - ins.arg - 3
    if ins.op == "CALL_FUNCTION_EX":
        base = len(stack) - 2 - (ins.arg & 1)
        return base - 1 if VERSION >= (3, 13) else base
    return None


def _runs_python(v: Any) -> bool:
    """Whether calling `v` may enter Python frames worth capturing."""
    return not isinstance(v, (types.BuiltinFunctionType, types.MethodWrapperType, types.MethodDescriptorType, types.WrapperDescriptorType)) and v not in _NEVER


_NEVER = (print, int, float, bool, str, list, dict, tuple, set, len, isinstance, range, type, super, locals, globals, vars, dir, eval, exec, warnings.warn, sys._getframe)  # the last ones look at the frame that calls them


# ---- code --------------------------------------------------------------------------------------------------------------
def _layout(code: types.CodeType, args: tuple[str, ...], temps: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """(co_varnames of a copy whose parameters are `args`, map of old localsplus index -> new)."""
    cells = _cell_names(code)
    varnames = args + temps + tuple(v for v in code.co_varnames if v not in cells and v not in args)
    old = all_names(code)
    index = dict(zip(cells, _cell_slots(code, len(varnames)))) | {n: i for i, n in enumerate(varnames)}
    return varnames, lambda i: index[old[i]]


def _cell_slots(code: types.CodeType, first: int) -> list[int]:
    """Where a copy has the cells of the original: its own stay cell variables, then come the free variables that bring all of them."""
    own = len(code.co_cellvars)
    return [first + i + own * (i >= own) for i in range(len(_cell_names(code)))]


def _prologue(code: types.CodeType, state: State, target: Asm, first: int) -> list[Asm]:
    """Take the cells, push the stack, set the handled exceptions, jump. `first`: the slot of the first cell."""
    out = [Asm("COPY_FREE_VARS", len(_cell_names(code)))] if _cell_names(code) else []
    for i in range(len(code.co_cellvars)):
        out += [Asm("LOAD_FAST", first + len(code.co_cellvars) + i), Asm("STORE_FAST", first + i)]
    out.append(Asm("RESUME", 0, code.co_firstlineno))
    arg = len(state.locals)
    for kind in state.stack:
        if kind == EMPTY:
            out.append(Asm("PUSH_NULL"))
            continue
        out += [Asm("LOAD_FAST", arg), Asm("DELETE_FAST", arg)]  # `locals()` does not show it
        arg += 1
        if kind == SLOT:
            out += [Asm("PUSH_EXC_INFO"), Asm("POP_TOP")]
    out.append(Asm("JUMP_FORWARD", 0, None, target))
    return out


def _copy(code: types.CodeType, state: State, temps: tuple[str, ...]) -> tuple[list[Asm], list[Asm], dict[str, Any]]:
    """(prologue, copy of the body, fields that change)."""
    args = state.arguments
    varnames, local = _layout(code, args, temps)
    body = copy_instructions(program_of(code), local)
    flags = code.co_flags & ~(4 | 8)
    if _cell_names(code):
        flags |= 0x10
    changes = dict(
        co_argcount=len(args), co_posonlyargcount=0, co_kwonlyargcount=0, co_nlocals=len(varnames), co_varnames=varnames, co_cellvars=code.co_cellvars, co_freevars=_cell_names(code), co_flags=flags,
        co_stacksize=code.co_stacksize + len(args) + len(state.stack) + len(_cell_names(code)) + 8,
    )  # fmt: skip
    return _prologue(code, state, body[state.index], len(varnames)), body, changes


def _resume_callable(code: types.CodeType, state: State, globals_: Any, options: Any) -> Any:
    """The compiled callable that resumes at `state`; with cells, a function from the tuple of cells to it."""
    kept = options.__dict__.setdefault("_resume_functions", {})
    key = (id(code), state, id(globals_))
    if key not in kept:
        from .cache import cache_for
        from .runtime import compile_function

        prologue, body, changes = _copy(code, state, ())
        made = assemble(prologue + body, code, **changes)
        _origins.put(made, Origin(code, len(prologue), state.unread))
        if _cell_names(code):
            kept[key] = functools.partial(_with_cells, made, globals_, options)
            kept[key, "cache"] = cache_for(made, options)  # a callable with cells is another one at each call
        else:
            kept[key] = compile_function(types.FunctionType(made, globals_, code.co_name), options)
    return kept[key]


def _with_cells(code: types.CodeType, globals_: Any, options: Any, cells: tuple[Any, ...]) -> Any:
    from .runtime import compile_function

    return compile_function(types.FunctionType(code, globals_, code.co_name, None, cells), options)


def _break_code(code: types.CodeType, at: int, entry: State, globals_: Any, options: Any) -> types.CodeType:
    """The code of the break function: enters at `entry`, runs instruction `at`, leaves to resume functions."""
    kept = options.__dict__.setdefault("_break_codes", {})
    key = (id(code), at, entry, id(globals_))
    if key not in kept:
        kept[key] = (code, _make_break_code(code, at, entry, globals_, options))
    return kept[key][1]


def _make_break_code(code: types.CodeType, at: int, entry: State, globals_: Any, options: Any) -> types.CodeType:
    from .eval_frame import mark_skip

    program = program_of(code)
    successors = _successors(program, at, entry)
    depth = max([len(kinds) for _, _, kinds in successors], default=0)
    temps = tuple(f".temp{i}" for i in range(depth))
    prologue, body, changes = _copy(code, entry, temps)
    varnames = changes["co_varnames"]
    consts = list(code.co_consts)
    splices: list[Asm] = []
    ins, asm = program.instructions[at], body[at]
    inserted: list[Asm] = []
    for jump, successor, kinds in successors:
        bound = _bound_after(program, ins, entry)
        live = _names_live(program, successor)
        state = State(successor, tuple(n for n in bound if n in live), kinds, tuple(n for n in bound if n not in live))
        first, splice = _leave(code, state, entry, globals_, options, varnames, consts, ins.line)
        if jump:
            filler = _exhausted_filler(ins.op)
            splices += filler + splice
            asm.target = (filler + splice)[0]
        else:
            inserted.append(Asm("JUMP_FORWARD", 0, ins.line, first, asm.region))
            splices += splice
    inserted[:0] = _method_fix(asm)
    body[at + 1 : at + 1] = inserted
    made = assemble(prologue + body + splices, code, co_consts=tuple(consts), **changes)
    mark_skip(made)
    return made


def _method_fix(asm: Asm) -> list[Asm]:
    """Load a method as a plain attribute and a NULL, whose kinds are known."""
    if asm.op == "LOAD_METHOD":
        asm.op = "LOAD_ATTR"
        return [Asm("PUSH_NULL", 0, asm.line, None, asm.region), Asm("SWAP", 2, asm.line, None, asm.region)]
    if asm.op == "LOAD_SUPER_ATTR" and asm.arg & 1 or asm.op == "LOAD_ATTR" and VERSION >= (3, 12) and asm.arg & 1:
        asm.arg &= ~1
        fix = [Asm("PUSH_NULL", 0, asm.line, None, asm.region)]
        return fix if VERSION >= (3, 13) else [*fix, Asm("SWAP", 2, asm.line, None, asm.region)]
    return []


def _exhausted_filler(op: str) -> list[Asm]:
    """What FOR_ITER skips where the iterator is exhausted."""
    if op != "FOR_ITER" or VERSION < (3, 12):
        return []
    return [Asm("END_FOR")] if VERSION == (3, 12) else [Asm("END_FOR"), Asm("POP_TOP")]


def _names_live(program: Program, index: int) -> set[str]:
    names = all_names(program.code)
    return {names[i] for i in live_locals(program, index)}


def _bound_after(program: Program, ins: Any, entry: State) -> tuple[str, ...]:
    """Names that are bound after the instruction."""
    names = all_names(program.code)
    bound = {*entry.locals, *entry.unread}
    if ins.op == "STORE_FAST":  # a comprehension puts back NULL where the name was unbound
        (bound.discard if entry.stack[-1] == EMPTY else bound.add)(names[ins.arg])
    if ins.op in ("DELETE_FAST", "LOAD_FAST_AND_CLEAR"):
        bound.discard(names[ins.arg])
    return tuple(n for n in names if n in bound and n not in _cell_names(program.code))


def _successors(program: Program, at: int, entry: State) -> list[tuple[bool, int, tuple[str, ...]]]:
    """(by jump?, index, kinds of the stack there) of each way out of an instruction."""
    from .bytecode import NO_FALLTHROUGH

    ins, stack = program.instructions[at], entry.stack
    bound = {i for i, n in enumerate(all_names(program.code)) if n in entry.locals or n in _cell_names(program.code)}
    out = []
    if ins.op not in NO_FALLTHROUGH:
        out.append((False, at + 1, _kinds_after(ins, stack, False, bound)))
    if ins.target is not None:
        kinds, target = _kinds_after(ins, stack, True, bound), ins.target
        if ins.op == "FOR_ITER" and VERSION >= (3, 12):
            kinds, target = stack[:-1], target + (1 if VERSION == (3, 12) else 2)
        out.append((True, target, kinds))
    return out


def _kinds_after(ins: Any, stack: tuple[str, ...], jump: bool, bound: set[int]) -> tuple[str, ...]:
    """Kinds of the stack items after an instruction; what it pushes is a plain value unless it is listed here."""
    shuffled = _SHUFFLES.get(ins.op)
    if shuffled is not None:
        return shuffled(stack, ins.arg)
    if ins.op == "LOAD_FAST_AND_CLEAR":
        return (*stack, PLAIN if ins.arg in bound else EMPTY)
    arg = ins.arg if ins.code >= dis.HAVE_ARGUMENT else None
    depth = len(stack) + dis.stack_effect(ins.code, arg, jump=jump)
    if ins.op == "CALL" and VERSION == (3, 11):
        depth = len(stack) - ins.arg - 1
    if ins.op == "LOAD_METHOD" or ins.op == "LOAD_ATTR" and VERSION >= (3, 12) and ins.arg & 1:
        return (*stack[:-1], PLAIN, EMPTY) if VERSION >= (3, 13) else (*stack[:-1], EMPTY, PLAIN)
    if ins.op == "LOAD_SUPER_ATTR" and ins.arg & 1:
        return (*stack[:-3], PLAIN, EMPTY) if VERSION >= (3, 13) else (*stack[:-3], EMPTY, PLAIN)
    if ins.op == "LOAD_GLOBAL" and ins.arg & 1:
        return (*stack, PLAIN, EMPTY) if VERSION >= (3, 13) else (*stack, EMPTY, PLAIN)
    kept = stack[:depth]
    grown = kept + (PLAIN,) * (depth - len(kept))
    if ins.op in ("CALL", "CALL_KW", "CALL_FUNCTION_EX"):
        return (*grown[:-1], PLAIN)
    return grown


def _swap(stack: tuple[str, ...], i: int) -> tuple[str, ...]:
    items = list(stack)
    items[-1], items[-i] = items[-i], items[-1]
    return tuple(items)


_SHUFFLES: dict[str, Any] = {
    "PUSH_NULL": lambda s, a: (*s, EMPTY),
    "COPY": lambda s, a: (*s, s[-a]),
    "SWAP": _swap,
    "PUSH_EXC_INFO": lambda s, a: (*s[:-1], SLOT, PLAIN),
}


def _leave(code: types.CodeType, state: State, entry: State, globals_: Any, options: Any, varnames: tuple[str, ...], consts: list[Any], line: int | None) -> tuple[Asm, list[Asm]]:
    """Instructions that empty the stack into temporaries and leave the call of the resume function to the caller."""
    slot = {n: i for i, n in enumerate(varnames)}
    out: list[Asm] = []
    consts.append(None)
    for i in range(len(state.stack) - 1, -1, -1):
        if state.stack[i] == SLOT:
            out += [Asm("LOAD_CONST", len(consts) - 1), Asm("PUSH_EXC_INFO"), Asm("POP_TOP")]  # leaves what is being handled
            out += [Asm("STORE_FAST", slot[state.stack_names[i]]), Asm("POP_EXCEPT")]
        else:
            out.append(Asm("STORE_FAST", slot[f".temp{i}"]))
    # Weakly: code objects are invisible to the garbage collector, and this one is held, through the options, by what it would hold.
    # Whoever runs it holds the options, and they the callable.
    consts.append(weakref.proxy(_resume_callable(code, state, globals_, options)))
    load = [Asm("LOAD_CONST", len(consts) - 1, line)]
    cells = _cell_names(code)
    if cells:
        pushes = [Asm("LOAD_FAST", i, line) for i in _cell_slots(code, len(varnames))]
        load = call_sequence(load, [*pushes, Asm("BUILD_TUPLE", len(cells), line)], 1)
    args = [Asm("LOAD_FAST", slot[n], line) for n in state.locals]
    for i, name in enumerate(state.stack_names):
        if name:
            args.append(Asm("LOAD_FAST", slot[name if state.stack[i] == SLOT else f".temp{i}"], line))
    args += [Asm("LOAD_FAST", slot[n], line) for n in state.unread]
    consts.append(extension().tail)
    out += [*call_sequence([Asm("LOAD_CONST", len(consts) - 1, line)], [*load, *args], 1 + len(args)), Asm("RETURN_VALUE", 0, line)]
    for a in out:
        a.line = line
    return out[0], out

