"""Stack shuffling, constants and fast locals."""

from __future__ import annotations

from types import CellType
from typing import Any

from ..control import observe
from ..frames import NULL, Frame
from . import handler


@handler("NOP", "RESUME", "PRECALL")
def nop(f: Frame, arg: Any) -> None:
    pass


@handler("POP_TOP", "END_FOR")
def pop_top(f: Frame, arg: Any) -> None:
    f.stack.pop()


@handler("PUSH_NULL")
def push_null(f: Frame, arg: Any) -> None:
    f.stack.append(NULL)


@handler("COPY")
def copy(f: Frame, i: int) -> None:
    f.stack.append(f.stack[-i])


@handler("SWAP")
def swap(f: Frame, i: int) -> None:
    s = f.stack
    s[-1], s[-i] = s[-i], s[-1]


@handler("LOAD_CONST", arg="const")
def load_const(f: Frame, value: Any) -> None:
    f.stack.append(value)


def _unbound(f: Frame, i: int) -> None:
    names = f.code.co_varnames + tuple(v for v in f.code.co_cellvars if v not in f.code.co_varnames) + f.code.co_freevars
    observe(UnboundLocalError(f"cannot access local variable {names[i]!r} where it is not associated with a value"))


@handler("LOAD_FAST", "LOAD_FAST_CHECK")
def load_fast(f: Frame, i: int) -> None:
    v = f.fast[i]
    if v is NULL:
        _unbound(f, i)
    f.stack.append(v)


@handler("LOAD_CLOSURE")
def load_closure(f: Frame, i: int) -> None:
    f.stack.append(f.fast[i])


@handler("LOAD_FAST_AND_CLEAR")
def load_fast_and_clear(f: Frame, i: int) -> None:
    f.stack.append(f.fast[i])
    f.fast[i] = NULL


@handler("STORE_FAST")
def store_fast(f: Frame, i: int) -> None:
    f.fast[i] = f.stack.pop()


@handler("DELETE_FAST")
def delete_fast(f: Frame, i: int) -> None:
    if f.fast[i] is NULL:
        _unbound(f, i)
    f.fast[i] = NULL


# ---- cells -------------------------------------------------------------------------------------------------------------
@handler("MAKE_CELL")
def make_cell(f: Frame, i: int) -> None:
    v = f.fast[i]
    cell = CellType() if v is NULL else CellType(v)
    f.cap.own_cells[id(cell)] = (cell, None, None, None)
    f.fast[i] = cell


@handler("COPY_FREE_VARS")
def copy_free_vars(f: Frame, n: int) -> None:
    f.fast[-n:] = f.cap.closure_of(f.func)


def _name_of_cell(f: Frame, i: int) -> str:
    names = f.code.co_varnames + tuple(v for v in f.code.co_cellvars if v not in f.code.co_varnames) + f.code.co_freevars
    return names[i]


@handler("LOAD_DEREF")
def load_deref(f: Frame, i: int) -> None:
    try:
        f.stack.append(f.fast[i].cell_contents)
    except ValueError:
        from ..resume import origin_of

        f.cap.guard_empty(f.fast[i])
        name = _name_of_cell(f, i)
        if name in origin_of(f.code).code.co_freevars:
            observe(NameError(f"cannot access free variable {name!r} where it is not associated with a value in enclosing scope"))
        observe(UnboundLocalError(f"cannot access local variable {name!r} where it is not associated with a value"))


@handler("LOAD_CLASSDEREF")
def load_classderef(f: Frame, i: int) -> None:
    name = _name_of_cell(f, i)
    if f.namespace is not None and name in f.namespace:
        f.stack.append(f.namespace[name])
    else:
        load_deref(f, i)


@handler("LOAD_FROM_DICT_OR_DEREF")
def load_from_dict_or_deref(f: Frame, i: int) -> None:
    f.stack.pop()
    load_classderef(f, i)


@handler("STORE_DEREF")
def store_deref(f: Frame, i: int) -> None:
    f.fast[i].cell_contents = f.stack.pop()


@handler("DELETE_DEREF")
def delete_deref(f: Frame, i: int) -> None:
    del f.fast[i].cell_contents
