"""Texts: `str.format`, and texts of values that only the run knows, which are made after the graph.

Between: f-strings, `str`, `%`, `print`, logging -> a str, or an `OpenText` that the replacement code makes into one where it lives on.
Keeps:   whoever asks an open text for anything but more text breaks the graph; memory that an open text shows is not written after it.
Source:  CPython Objects/stringlib/unicode_format.h.
"""

from __future__ import annotations

import itertools
import operator
import string
from typing import Any, NamedTuple, NoReturn

import torch

from .attributes import load_attr
from .control import CannotRebuild, Observed, refusal, stands_for, unsupported

__all__ = ["OpenText", "Piece", "format_text", "is_open", "joined", "percent", "refuse_write", "shown", "text_expression"]

MAX_NESTING = 8  # of containers of tensors whose text is wanted
_CONVERSIONS = {None: 0, "s": 1, "r": 2, "a": 3}
_split = string._string.formatter_field_name_split  # type: ignore[attr-defined]


def format_text(cap: Any, text: str, args: Any, kwargs: dict[str, Any], numbers: Any = None) -> str:
    """`text.format(*args, **kwargs)`."""
    numbers = itertools.count() if numbers is None else numbers
    out = []
    for literal, field, spec, conversion in string.Formatter().parse(text):
        out.append(literal)
        if field is None:
            continue
        value = cap.convert_value(_field(cap, field, args, kwargs, numbers), _CONVERSIONS[conversion])
        out.append(cap.format(value, format_text(cap, spec, args, kwargs, numbers) if spec else ""))
    return joined(out)


def _field(cap: Any, name: str, args: Any, kwargs: dict[str, Any], numbers: Any) -> Any:
    from .opcodes.operators import subscript

    first, rest = _split(name)
    if first == "":
        first = next(numbers)
    if isinstance(first, int) and first >= len(args):
        raise Observed(IndexError(f"Replacement index {first} out of range for positional args tuple"))
    value = args[first] if isinstance(first, int) else kwargs[first]
    for is_attribute, key in rest:
        value = load_attr(cap, value, key) if is_attribute else subscript(cap, value, key)
    return value


# ---- open texts ------------------------------------------------------------------------------------------------------------
class Piece(NamedTuple):
    """`function(*args)`, one of `format`, `str`, `repr`, `operator.mod`: a part of a text."""

    function: Any
    args: tuple[Any, ...]


@stands_for(str)
class OpenText:
    """A text with parts that only the run knows."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts

    def _refuse(self, *args: Any) -> NoReturn:
        unsupported("tensor-text", "a text of a tensor's value that decides something, or is changed")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __len__ = __bool__ = __str__ = __repr__ = __iter__ = __contains__ = __getitem__ = __mul__ = __rmul__ = __mod__ = __index__ = _refuse  # type: ignore[assignment]

    def __add__(self, other: Any) -> Any:
        return joined((self, other)) if isinstance(other, (str, OpenText)) else NotImplemented

    def __format__(self, spec: str) -> Any:
        self._refuse()

    def __getattr__(self, name: str) -> Any:
        self._refuse()


def joined(parts: Any, between: str = "") -> Any:
    """`between.join(parts)`."""
    parts = list(parts)
    if not any(type(p) is OpenText for p in parts):
        return between.join(parts)
    out: list[Any] = []
    for i, p in enumerate(parts):
        out += [between] * bool(i and between)
        out += p.parts if type(p) is OpenText else [p]
    return OpenText(tuple(out))


def is_open(cap: Any, v: Any, depth: int = 0) -> bool:
    """Whether only the run knows the text of a value: a tensor, a number that changes, a text or a plain container of such."""
    if isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return not v.node.has_hint() or _changes(cap, v)
    if type(v) in (list, tuple, dict, torch.Size) and depth < MAX_NESTING:
        return any(is_open(cap, x, depth + 1) for x in (v.values() if type(v) is dict else v))
    return isinstance(v, (torch.Tensor, OpenText))


def _changes(cap: Any, v: Any) -> bool:
    """Whether a number is another one at other calls, and its text need not be known now. Where a text turns out to decide something, the frame is captured again."""
    if cap.texts_decide or not getattr(v.node.expr, "free_symbols", ()):
        return False
    cap.shows_numbers = True
    return True


def shown(cap: Any, v: Any, function: Any, *args: Any) -> OpenText:
    """`function(v, *args)` of what is open."""
    if type(v) is OpenText and function is not repr and not any(args):
        return v
    if isinstance(v, torch.Tensor):
        _refuse_unlike(cap, v, function is format and v.dim() == 0)
    if type(v) in (list, tuple, dict, torch.Size):
        if any(args):
            unsupported("tensor-text", "a container formatted by a specification")
        return _container(cap, v)
    return OpenText((Piece(function, (v, *args)),))


def _container(cap: Any, v: Any, depth: int = 0) -> Any:
    def repr_of(x: Any) -> Any:
        return cap.call(repr, (x,)) if not is_open(cap, x) else _container(cap, x, depth + 1) if type(x) in (list, tuple, dict, torch.Size) else shown(cap, x, repr)

    if depth > MAX_NESTING:
        unsupported("tensor-text", "a container of tensors that contains itself")
    if type(v) is dict:
        return joined(["{", joined([joined((repr_of(k), ": ", repr_of(x))) for k, x in v.items()], ", "), "}"])
    items = joined([repr_of(x) for x in v], ", ")
    if type(v) is not tuple:
        return joined(["[", items, "]"] if type(v) is list else ["torch.Size([", items, "])"])
    return joined(["(", items, ",)" if len(v) == 1 else ")"])


def _refuse_unlike(cap: Any, t: Any, as_number: bool) -> None:
    """The tensor that the run has must look as eager's does, and its memory must still be what it is now when the text is made."""
    if cap.recorder.scope is not None or cap.recorder.modes or id(t) in cap.class_of or id(t) in cap.wrappers or cap.settings or t.is_meta:
        unsupported("tensor-text", "the text of a tensor's value where it is not eager's", saw=cap.describe(t))
    if t.requires_grad and not as_number and (id(t) not in cap.inputs or id(t) in cap.frozen):
        unsupported("tensor-text", "the text of a tensor that says what it was computed by", saw=cap.describe(t), hint="print tensor.detach() or tensor.item()")
    if id(t) in cap.assigned:
        unsupported("tensor-text", "the text of a tensor whose data was assigned", saw=cap.describe(t))
    cap.shown.setdefault(t.storage_key, cap.step)


def refuse_write(cap: Any, key: int) -> None:
    """Memory is written that a text shows as it was before."""
    why = refusal("tensor-text", "the text of a tensor whose memory is written afterwards", hint="print tensor.clone()")
    why.where = cap.where()
    raise CannotRebuild(cap.shown[key], why)


def percent(cap: Any, text: str, args: Any) -> OpenText:
    """`text % args`, of which some are open."""
    for a in args if type(args) is tuple else args.values() if type(args) is dict else (args,):
        if isinstance(a, torch.Tensor):
            _refuse_unlike(cap, a, False)
        elif not is_open(cap, a) and type(a) not in (int, float, str, bool, type(None)) or type(a) in (list, dict, tuple, torch.Size):
            unsupported("tensor-text", "the text of a tensor's value beside that of an object", saw=type(a).__qualname__)
    return OpenText((Piece(operator.mod, (text, args)),))


def text_expression(cg: Any, text: OpenText) -> str:
    """The text as an expression of the replacement code."""
    made = [cg.value(p) if type(p) is str else f"{cg.constant(p.function)}({', '.join([cg.value(a) for a in p.args])})" for p in text.parts]
    return f"''.join([{', '.join(made)}])"
