"""Writes that functionalization would get wrong, seen at the level of the program's own calls: refused with a reason.

Between: the program (above) and autograd while a joint graph is traced.
Keeps:   no write reaches functionalization through a view whose elements share memory (its inverse of `expand` adds what should be one
         value), nor an `out=`: that is a call and a copy, and refused where eager would resize.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lamina_dynshape.composites import symbolic_form
from lamina_dynshape.support.errors import Unsupported
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .functionalize import is_functional, storage_id, suspended, unwrap
from .strided import has_symbolic_gradient, strided
from .views import is_dense, is_row_major

__all__ = ["StridedWritten", "WriteWatch"]

aten = torch.ops.aten

_NEW_GEOMETRY = frozenset({"t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_", "unsqueeze_", "as_strided_", "resize_", "resize_as_", "set_"})
_BY_GEOMETRY = frozenset({"as_strided", "as_strided_", "resize_"})


class StridedWritten(Exception):
    """A write to memory of which a view with a gradient of `strided` was taken: trace again without these."""


class WriteWatch(TorchFunctionMode):
    """Active while the program runs on functional tensors. Remembers which of them are reached through overlapping views; calls composites by their symbolic form."""

    def __init__(self, inputs: Sequence[Any], *, own_strided: bool = True) -> None:
        super().__init__()
        self._own_strided = own_strided
        self._strided: set[int] = set()  # storages
        self._inputs = {id(t) for t in inputs}
        self._of_storage: dict[int, list[Tensor]] = {}
        for t in inputs:
            if isinstance(t, Tensor):
                self._of_storage.setdefault(storage_id(t), []).append(t)
        self._gapped = {storage_id(t) for t in inputs if isinstance(t, Tensor) and not (is_dense(t) and type(t.storage_offset()) is int and t.storage_offset() == 0)}
        self._first: dict[int, weakref.ref[Tensor]] = {}  # the first result seen of each storage
        self._shared: set[int] = set()  # storages with several
        self._overlapping = {id(t): t for t in inputs if isinstance(t, Tensor) and _overlaps(t)}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # keeps torch._dynamo unloaded: the default wraps the handler with it

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        written = list(_written(func, args, kwargs)) if func.__name__ not in _NEW_GEOMETRY else []
        if self._overlapping and any(id(t) in self._overlapping for t in written):
            raise Unsupported("write to a tensor whose elements share memory", saw=func.__name__, code="overlapping_write")
        if self._strided and any(is_functional(t) and storage_id(t) in self._strided for t in written):
            raise StridedWritten
        if func.__name__ == "as_strided":
            args, kwargs = self._of_whole(*args, **kwargs), {}
            if self._own_strided and is_functional(args[0]) and has_symbolic_gradient(*args):
                self._strided.add(storage_id(args[0]))
                func = strided
        self._refuse_geometry(func.__name__, args)
        strides = [(t, t.shape, t.stride()) for t in written if is_functional(t) and _may_change_strides(t)]
        cut_off = [t for t in written if self._is_cut_off(t)]
        func = symbolic_form(func)
        out = self._with_out(func, args, kwargs) if kwargs.get("out") is not None else func(*args, **kwargs)
        if any(t.requires_grad for t in cut_off):
            raise Unsupported("differentiable write to a detached tensor that shares an input's memory", code="detached_write")
        for t, shape, stride in strides:
            if t.shape == shape:
                _keep_strides(t, stride)
        if args and is_functional(args[0]):
            self._remember(args[0], out)
        for t in _tensors(out):
            if is_functional(t) and self._first.setdefault(storage_id(t), weakref.ref(t))() is not t:
                self._shared.add(storage_id(t))
        return out

    def _is_cut_off(self, t: Tensor) -> bool:
        """Whether a tensor shares the memory of an input that has gradients, and has none itself."""
        return is_functional(t) and not t.requires_grad and any(x.requires_grad for x in self._of_storage.get(storage_id(t), ()))

    def _of_whole(self, t: Tensor, size: Any, stride: Any, storage_offset: Any = None) -> tuple[Any, ...]:
        """Arguments of `as_strided`: of what `t` is a part of, whose value holds all the memory that may be reached. A gradient would go elsewhere."""
        offset = t.storage_offset() if storage_offset is None else storage_offset
        base = t._base
        if base is not None and not base.requires_grad and not t.requires_grad and _is_part(t):
            t = base
        return t, size, stride, offset

    def _refuse_geometry(self, name: str, args: Sequence[Any]) -> None:
        """Views by geometry that reach memory which no value of the graph holds, and new geometry that functionalization loses."""
        if name in _BY_GEOMETRY and (storage_id(args[0]) in self._gapped or not is_dense(args[0]) or _is_part(args[0])):
            raise Unsupported("as_strided of a tensor that is a part of its storage", code="as_strided_of_part")
        if name == "resize_" and not args[0].is_contiguous():
            raise Unsupported("resize_ of a tensor that is not contiguous")
        if name == "resize_" and math.prod(_flat_sizes(args[1:])) > math.prod(args[0].shape):  # `numel` is stale after `as_strided_`
            raise Unsupported("resize_ to more elements")
        if name in _NEW_GEOMETRY and args[0].requires_grad and not torch.is_grad_enabled():
            raise Unsupported("change of a tensor's shape in place outside of its history")
        if name in _NEW_GEOMETRY and id(args[0]) in self._inputs and args[0].requires_grad:
            raise Unsupported("change of an input's shape in place while it requires gradients")
        if name == "as_strided_" and args[0].requires_grad:
            raise Unsupported("as_strided_ of a tensor that requires gradients")

    def _with_out(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A call with `out=` as the call and a copy: functionalization would give the written tensor the strides of the result.

        As it is where eager raises (gradients) or where `out` decides the dtype. Eager resizes an `out` of another shape: so do we with tensors that the
        program made; raises `Unsupported` for others.
        """
        targets = list(_tensors(kwargs["out"]))
        operands = list(_tensors([*args, *[v for k, v in kwargs.items() if k != "out"]]))
        if not operands or (torch.is_grad_enabled() and any(t.requires_grad for t in (*operands, *targets))):
            return func(*args, **kwargs)
        made = func(*args, **{k: v for k, v in kwargs.items() if k != "out"})
        results = list(_tensors(made))
        for target, result in zip(targets, results, strict=True):
            if target.shape != result.shape and not (self._is_own(target) and result.is_contiguous()):
                raise Unsupported("out= with a tensor of another shape", saw=f"{tuple(target.shape)}, needs {tuple(result.shape)}", code="out_resized")
        if [r.dtype for r in results] != [t.dtype for t in targets]:
            return func(*args, **kwargs)
        for target, result in zip(targets, results, strict=True):
            if target.shape == result.shape:
                target.copy_(result)
            else:
                target.set_(result)
        return kwargs["out"] if isinstance(kwargs["out"], Tensor) else type(made)(targets)

    def _is_own(self, t: Tensor) -> bool:
        """Whether the program made a tensor, and no other one of its memory."""
        return is_functional(t) and storage_id(t) not in self._of_storage and storage_id(t) not in self._shared

    def _remember(self, base: Tensor, out: Any) -> None:
        """Views of `base` that overlap, or that `base` does."""
        inherited = id(base) in self._overlapping or _overlaps(base)  # the latter: by `set_`, which is not seen here
        for t in _tensors(out):
            if is_functional(t) and (inherited or _overlaps(t)) and storage_id(t) == storage_id(base):
                self._overlapping[id(t)] = t


def _flat_sizes(args: Sequence[Any]) -> list[Any]:
    return list(args[0]) if args and isinstance(args[0], (tuple, list)) else list(args)


def _is_part(t: Tensor) -> bool:
    """Whether a view leaves out elements of what it is a view of."""
    return t._base is not None and t._base.numel() != t.numel()


def _may_change_strides(t: Tensor) -> bool:
    """Whether an operator's functional form may give other strides than `t` has: also those of dimensions of one element, which tell nothing apart."""
    return not is_row_major(t.shape, t.stride()) or any(type(n) is int and n == 1 for n in t.shape)


def _keep_strides(t: Tensor, stride: Sequence[Any]) -> None:
    """Give the value of a written tensor the strides it had: some operators make others in their functional form."""
    with torch.no_grad():
        value = unwrap(t)
        if all(a == b for a, b in zip(stride, value.stride(), strict=True)):
            return
        with suspended():
            fixed = _with_strides(value, stride)
        torch._functionalize_replace(t, fixed)
        torch._functionalize_commit_update(t)
        torch._sync(t)


def _with_strides(value: Tensor, stride: Sequence[Any]) -> Tensor:
    """A copy of `value` in memory of its own with these strides; one with gaps is a view of what it is written into."""
    memory = aten.empty_strided.default(value.shape, stride, dtype=value.dtype, device=value.device)
    if is_dense(memory) or not all(type(n) is int for n in (*value.shape, *stride)):
        return aten.copy.default(memory, value)
    span = 1 + sum((size - 1) * step for size, step in zip(value.shape, stride, strict=True))
    whole = aten.empty_strided.default([span], [1], dtype=value.dtype, device=value.device)
    return aten.as_strided.default(aten.as_strided_scatter.default(whole, value, value.shape, stride, 0), value.shape, stride, 0)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from _tensors(v)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Tensors that a call writes, by PyTorch's naming: methods that end in one underscore, augmented operators, item assignment, `out=`."""
    name = getattr(func, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    if (in_place or name == "__setitem__" or (name.startswith("__i") and name.endswith("__"))) and args:
        yield from _tensors(args[0])
    if kwargs.get("out") is not None:
        yield from _tensors(kwargs["out"])


def _overlaps(t: Tensor) -> bool:
    """Whether two elements may share memory: sorted by stride, a dimension steps by less than what lies below it spans."""
    if all(type(n) is int for n in (*t.shape, *t.stride())) and t.numel() > 1:
        span = 1
        for stride, size in sorted((stride, size) for size, stride in zip(t.shape, t.stride(), strict=True) if size != 1):
            if stride < span:
                return True
            span += (size - 1) * stride
        return False
    return any(type(stride) is int and stride == 0 and not (type(size) is int and size <= 1) for size, stride in zip(t.shape, t.stride(), strict=True))
