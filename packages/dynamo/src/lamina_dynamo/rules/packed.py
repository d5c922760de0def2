"""Packed sequences whose lengths the capture knows: padding and recurrent layers become operators of the graph (`lamina_dynshape.packed`).

Lengths are known where they are Python numbers, which are guarded, or tensors computed from such; others are a graph break.
"""

from __future__ import annotations

from typing import Any

import torch
from lamina_dynshape import FakeTensor, packed

from ..control import unsupported
from ..loops import refuse_steps
from ..recorder import Recorder, function_rule

_PACK, _PAD = torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence


def _lengths(rec: Recorder, t: Any) -> list[int]:
    known = t.constant if isinstance(t, FakeTensor) and t.storage_key not in rec.mutated and rec.scope is None else None
    if known is None:
        unsupported("packed-sequence", "a packed sequence of unknown lengths", saw=rec.cap.describe(t))
    return known.tolist()


def _written_out(rec: Recorder, form: Any, *args: Any, **kwargs: Any) -> Any:
    """The form's own torch calls are recorded."""
    with rec:
        out = form(*args, **kwargs)
    if out is None:
        unsupported("packed-sequence", "a packed sequence, or layers over one, in a form that is not modelled")
    return out


@function_rule(_PACK)
def pack(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, lengths, batch_first = args
    return _written_out(rec, packed.pack, x, _lengths(rec, lengths), batch_first)


@function_rule(_PAD)
def pad(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    data, sizes, *rest = args
    return _written_out(rec, packed.pad, data, _lengths(rec, sizes), *rest)


@function_rule(*packed.LAYERS)
def layers(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Over padded tensors they are one call: (input, state, parameters, ...); packed, the second argument is the sizes."""
    if isinstance(args[3], bool):  # the third is the parameters then
        x = args[0]
        refuse_steps(rec.cap, x.shape[1 if args[-1] and x.dim() == 3 else 0], func.__name__)
        return rec.run(func, args, kwargs)
    data, sizes, *rest = args
    return _written_out(rec, packed.LAYERS[func], data, _lengths(rec, sizes), *rest)
