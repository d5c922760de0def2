"""Assembling bytecode: instructions with label targets -> a code object, for 3.11, 3.12 and 3.13.

Between: `resume` (which edits a copy of the user's instructions) -> `types.CodeType`.
Keeps:   targets are instruction objects; argument widths, inline caches, exception table and line table are computed here.
Source:  CPython Objects/exception_handling_notes.txt, Objects/locations.md, Lib/opcode.py.
"""

from __future__ import annotations

import opcode
from dataclasses import dataclass
from types import CodeType
from typing import Any, NamedTuple

from .bytecode import _BACKWARD, _CACHES, _JREL, VERSION, Program

__all__ = ["Asm", "Region", "assemble", "call_sequence", "copy_instructions"]


class Region(NamedTuple):
    """The exception handler in force at an instruction."""

    target: Asm
    depth: int
    lasti: bool


@dataclass(eq=False, slots=True)
class Asm:
    """One instruction to assemble."""

    op: str
    arg: int = 0
    line: int | None = None
    target: Asm | None = None
    region: Region | None = None


def copy_instructions(program: Program, local: Any) -> list[Asm]:
    """The instructions of a program, locals renumbered by `local(old index) -> new index`."""
    out = [Asm(i.op, i.arg, i.line) for i in program.instructions]
    for ins, asm in zip(program.instructions, out):
        if ins.target is not None:
            asm.target = out[ins.target]
        elif ins.op in _LOCAL_OPS:
            asm.arg = local(ins.arg)
    for entry in program.entries:
        region = Region(out[entry.target], entry.depth, entry.lasti)
        for i in range(entry.start, entry.end):
            out[i].region = region
    return out


_LOCAL_OPS = frozenset({
    "LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_AND_CLEAR", "STORE_FAST", "DELETE_FAST", "LOAD_CLOSURE", "LOAD_DEREF", "STORE_DEREF", "DELETE_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "MAKE_CELL",
})  # fmt: skip


def call_sequence(load: list[Asm], args: list[Asm], count: int) -> list[Asm]:
    """Instructions that call what `load` pushes with the `count` values that `args` push."""
    null = Asm("PUSH_NULL")
    head = [*load, null] if VERSION >= (3, 13) else [null, *load]
    tail = [Asm("PRECALL", count), Asm("CALL", count)] if VERSION == (3, 11) else [Asm("CALL", count)]
    return head + args + tail


def assemble(items: list[Asm], code: CodeType, **changes: Any) -> CodeType:
    """A code object of these instructions; `changes` are further fields of `CodeType.replace`."""
    extended = [0] * len(items)
    position = {id(a): i for i, a in enumerate(items)}
    while True:
        offsets, at = [], 0
        for a, e in zip(items, extended):
            offsets.append(at)
            at += 1 + e + _CACHES[opcode.opmap[a.op]]
        offsets.append(at)
        grew = False
        for i, a in enumerate(items):
            if a.target is not None:
                grew |= _aim(a, i, position[id(a.target)], offsets)
            need = 0 if a.arg < 256 else 1 if a.arg < 65536 else 2 if a.arg < 1 << 24 else 3
            if need > extended[i]:
                extended[i] = need
                grew = True
        if not grew:
            break
    raw = bytearray()
    for a, e in zip(items, extended):
        for k in range(e, 0, -1):
            raw += bytes((opcode.opmap["EXTENDED_ARG"], a.arg >> 8 * k & 255))
        raw += bytes((opcode.opmap[a.op], a.arg & 255)) + b"\0\0" * _CACHES[opcode.opmap[a.op]]
    return code.replace(
        co_code=bytes(raw), co_linetable=_line_table(items, offsets, code.co_firstlineno), co_exceptiontable=_exception_table(items, offsets, position), **changes
    )  # fmt: skip


def _aim(a: Asm, i: int, target: int, offsets: list[int]) -> bool:
    """Set a jump's direction and distance (in code units, from the end of the instruction and its caches). True: its size changed by that."""
    forward, size = target > i, _CACHES[opcode.opmap[a.op]]
    if VERSION == (3, 11) or a.op.startswith(("JUMP_FORWARD", "JUMP_BACKWARD")):
        a.op = a.op.replace("BACKWARD", "FORWARD") if forward else a.op.replace("FORWARD", "BACKWARD")
        if forward and a.op == "JUMP_FORWARD_NO_INTERRUPT":
            a.op = "JUMP_FORWARD"
    number = opcode.opmap[a.op]
    assert number in _JREL
    distance = offsets[target] - offsets[i + 1]
    a.arg = -distance if number in _BACKWARD else distance
    resized = _CACHES[number] != size
    assert a.arg >= 0 or resized, (a, i, target)
    return resized


def _line_table(items: list[Asm], offsets: list[int], first: int) -> bytes:
    out = bytearray()
    line = first
    for i, a in enumerate(items):
        length = offsets[i + 1] - offsets[i]
        while length > 0:
            n = min(length, 8)
            if a.line is None:
                out.append(0x80 | 15 << 3 | n - 1)
            else:
                out.append(0x80 | 13 << 3 | n - 1)
                delta = a.line - line
                line = a.line
                value = -delta << 1 | 1 if delta < 0 else delta << 1
                while value >= 64:
                    out.append(value & 63 | 64)
                    value >>= 6
                out.append(value)
            length -= n
    return bytes(out)


def _varint(value: int) -> list[int]:
    out = [value & 63]
    value >>= 6
    while value:
        out.insert(0, value & 63 | 64)
        value >>= 6
    return out


def _exception_table(items: list[Asm], offsets: list[int], position: dict[int, int]) -> bytes:
    out = bytearray()
    i = 0
    while i < len(items):
        region = items[i].region
        j = i + 1
        while j < len(items) and items[j].region == region and region is not None:
            j += 1
        if region is not None:
            parts = [_varint(offsets[i]), _varint(offsets[j] - offsets[i]), _varint(offsets[position[id(region.target)]]), _varint(region.depth << 1 | region.lasti)]
            parts[0][0] |= 128
            for p in parts:
                out += bytes(p)
        i = j
    return bytes(out)
