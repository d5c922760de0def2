"""`str.format`: fields are resolved by the program's own attribute and item lookups, and formatted by its own methods.

Source:  CPython Objects/stringlib/unicode_format.h.
"""

from __future__ import annotations

import itertools
import string
from typing import Any

from .attributes import load_attr
from .control import Observed

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
    return "".join(out)


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
