"""Decoded CPython bytecode: instructions with resolved jumps, the exception table, lines, live variables.

Between: a code object -> the interpreter (`Program.ops`, `Program.args`) and the assembler (`Program.instructions`).
Keeps:   jump targets are instruction indices; CACHE and EXTENDED_ARG are folded away, superinstructions taken apart; one `Program` per code object.
Source:  CPython Lib/dis.py, Objects/exception_handling_notes.txt, Objects/locations.md; live variables: Appel, ch. 10.
"""

from __future__ import annotations

import dis
import opcode
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import ref

__all__ = ["ByCode", "ExceptionEntry", "Instruction", "Program", "live_locals", "program_of"]

VERSION = sys.version_info[:2]
T = TypeVar("T")
_CACHES: tuple[int, ...]
if VERSION >= (3, 13):
    _CACHES = tuple(opcode._inline_cache_entries.get(opcode.opname[i], 0) if i < len(opcode.opname) else 0 for i in range(256))  # type: ignore[attr-defined]
else:
    _CACHES = tuple(opcode._inline_cache_entries)  # type: ignore[attr-defined]
_NAMES = tuple(opcode.opname)
_EXTENDED = opcode.opmap["EXTENDED_ARG"]
_CACHE = opcode.opmap["CACHE"]
_JREL = frozenset(opcode.hasjrel)
_PAIRS = {  # 3.13's instructions on two locals are decoded as two
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"), "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"), "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
}  # fmt: skip
_BACKWARD = frozenset(i for i, n in enumerate(_NAMES) if "JUMP_BACKWARD" in n or "BACKWARD" in n)
NO_FALLTHROUGH = frozenset({"RETURN_VALUE", "RETURN_CONST", "RAISE_VARARGS", "RERAISE", "JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})


@dataclass(slots=True)
class Instruction:
    """One instruction. `target` is the index of the instruction jumped to; `arg` the raw argument."""

    op: str
    code: int
    arg: int
    index: int
    offset: int
    line: int | None
    target: int | None = None


class ExceptionEntry(NamedTuple):
    """Instructions `start <= i < end` raise to instruction `target` with the stack cut to `depth`."""

    start: int
    end: int
    target: int
    depth: int
    lasti: bool


class Program:
    """A decoded code object. `ops` and `args` are filled by the interpreter's table at first use."""

    __slots__ = ("_code", "args", "entries", "handler_of", "instructions", "live_cache", "ops", "torch_leaf")

    def __init__(self, code: CodeType) -> None:
        self._code = ref(code)
        self.instructions, index_of = _decode(code)
        self.entries = _exception_table(code, index_of)
        self.handler_of: list[ExceptionEntry | None] = [None] * len(self.instructions)
        for entry in self.entries:
            for i in range(entry.start, entry.end):
                self.handler_of[i] = entry
        self.ops: list[Any] | None = None
        self.args: list[Any] = []
        self.live_cache: list[frozenset[int]] | None = None

    def catches(self, i: int) -> bool:
        """Whether what instruction `i` raises comes to an `except` or `finally`. A `with` lets it pass, but for the few that suppress."""
        entry = self.handler_of[i]
        if entry is None or self.instructions[entry.target].op != "PUSH_EXC_INFO":
            return False
        return self.instructions[entry.target + 1].op != "WITH_EXCEPT_START"

    @property
    def code(self) -> CodeType:
        """The code object, which whoever uses its program keeps alive."""
        found = self._code()
        assert found is not None
        return found


class ByCode(Generic[T]):
    """What is known of code objects, each for as long as it lives. By identity: equal code objects may differ in their lines.

    Keeps: a value must not hold its own code object, or neither ever dies.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[CodeType], T]] = {}

    def get(self, code: CodeType) -> T | None:
        found = self._known.get(id(code))
        return None if found is None else found[1]

    def put(self, code: CodeType, value: T) -> T:
        key, known = id(code), self._known
        known[key] = ref(code, lambda _: known.pop(key, None)), value
        return value

    def __len__(self) -> int:
        return len(self._known)


_programs: ByCode[Program] = ByCode()


def program_of(code: CodeType) -> Program:
    """The program of a code object."""
    return _programs.get(code) or _programs.put(code, Program(code))


def _decode(code: CodeType) -> tuple[list[Instruction], dict[int, int]]:
    raw = code.co_code
    lines: dict[int, int | None] = {}
    for start, end, line in code.co_lines():
        for o in range(start, end, 2):
            lines[o] = line
    out: list[Instruction] = []
    index_of: dict[int, int] = {}
    ext, first, i, n = 0, None, 0, len(raw)
    while i < n:
        op, arg = raw[i], raw[i + 1] | ext
        if op == _CACHE:
            i += 2
            continue
        if first is None:
            first = i
        if op == _EXTENDED:
            ext = arg << 8
            i += 2
            continue
        index_of[first] = index_of[i] = len(out)
        for name, a in zip(_PAIRS[_NAMES[op]], (arg >> 4, arg & 15)) if _NAMES[op] in _PAIRS else ((_NAMES[op], arg),):
            out.append(Instruction(name, opcode.opmap[name], a, len(out), i, lines.get(i)))
        ext, first = 0, None
        i += 2 + 2 * _CACHES[op]
    index_of[n] = len(out)
    for ins in out:
        if ins.code in _JREL:
            after = ins.offset + 2 + 2 * _CACHES[ins.code]
            ins.target = index_of[after - 2 * ins.arg if ins.code in _BACKWARD else after + 2 * ins.arg]
    return out, index_of


def _exception_table(code: CodeType, index_of: dict[int, int]) -> list[ExceptionEntry]:
    data = iter(code.co_exceptiontable)
    out: list[ExceptionEntry] = []

    def varint() -> int:
        b = next(data)
        value = b & 63
        while b & 64:
            b = next(data)
            value = value << 6 | b & 63
        return value

    try:
        while True:
            start, length, target, dl = varint() * 2, varint() * 2, varint() * 2, varint()
            out.append(ExceptionEntry(_at(index_of, start), _at(index_of, start + length), index_of[target], dl >> 1, bool(dl & 1)))
    except StopIteration:
        return out


def _at(index_of: dict[int, int], offset: int) -> int:
    while offset not in index_of:  # inside the cache entries of an instruction
        offset += 2
    return index_of[offset]


# ---- live variables ----------------------------------------------------------------------------------------------------
_READS = {"LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_AND_CLEAR", "DELETE_FAST", "LOAD_DEREF", "LOAD_CLOSURE", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "DELETE_DEREF"}


def live_locals(program: Program, start: int) -> frozenset[int]:
    """Slots of localsplus that some path from instruction `start` may read before it writes them. Cells are always live."""
    if program.live_cache is None:
        program.live_cache = _liveness(program)
    return program.live_cache[start] if start < len(program.live_cache) else frozenset()


def _uses(ins: Instruction) -> tuple[list[int], int | None]:
    if ins.op in _READS:
        return [ins.arg], None
    if ins.op == "STORE_FAST":
        return [], ins.arg
    return [], None


def _liveness(program: Program) -> list[frozenset[int]]:
    ins, n = program.instructions, len(program.instructions)
    live: list[frozenset[int]] = [frozenset()] * (n + 1)
    changed = True
    while changed:
        changed = False
        for i in range(n - 1, -1, -1):
            it = ins[i]
            out: frozenset[int] = frozenset() if it.op in NO_FALLTHROUGH else live[i + 1]
            if it.target is not None:
                out |= live[it.target]
            handler = program.handler_of[i]
            reads, write = _uses(it)
            if write is not None:
                out -= {write}
            new = out.union(reads)
            if handler is not None:
                new |= live[handler.target]
            if new != live[i]:
                live[i] = new
                changed = True
    seen = _seen_by_builtins(program.code)
    return [s | seen for s in live] if seen else live


def _seen_by_builtins(code: CodeType) -> frozenset[int]:
    """Slots that functions which look at their caller's frame may read: `super()` the first, `locals()` and the like all."""
    if not {"locals", "vars", "dir", "eval", "exec"}.isdisjoint(code.co_names):
        return frozenset(range(len(code.co_varnames)))
    return frozenset({0}) if "super" in code.co_names and "__class__" in code.co_freevars and code.co_argcount else frozenset()


def stack_effect(ins: Instruction, jump: bool) -> int:
    """Change of stack depth, by CPython's own account."""
    arg = ins.arg if ins.code >= dis.HAVE_ARGUMENT else None
    return dis.stack_effect(ins.code, arg, jump=jump)
