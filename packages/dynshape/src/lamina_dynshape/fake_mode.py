"""FakeMode: runs ATen operators on fake tensors by shape rules.

Between: code that runs on fake tensors (capture, tracing) -> metadata of its results.
An operator is answered, in this order, by our rule for its overload (`shape_rules`), by its own decomposition when it is
composite, by PyTorch's Meta kernel on concrete sizes. `counters["fake"]` counts the last two by operator.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lamina_dynshape import meta_fallback
from lamina_dynshape.boolean import le
from lamina_dynshape.constants import Constants
from lamina_dynshape.dims import active
from lamina_dynshape.fake_tensor import DataDependent, FakeTensor, _storage_keys, is_wrapper_class, new_storage_key
from lamina_dynshape.shape_rules.derived import derive
from lamina_dynshape.shape_rules.registry import RULES
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import InternalError, Unsupported

__all__ = ["FakeMode"]

_make_wrapper = torch.Tensor._make_wrapper_subclass
_STRIDED = torch.strided
_STORAGE_BYTES = 1 << 40


class FakeMode(TorchDispatchMode):
    """Owner of fake tensors and, when sizes may be symbolic, of their `shape_env`.

    allow_real: a real tensor that meets fakes is lifted as a constant (kept in `constants`), else refused.
    allow_unbacked: data-dependent sizes and values become unbacked symbols (the environment is made with the first, if there is none),
        else `DataDependent` is raised.
    """

    def __init__(self, shape_env: Any = None, *, allow_real: bool = True, allow_unbacked: bool = False) -> None:
        super().__init__()
        self.shape_env = shape_env
        self.allow_real = allow_real
        self.allow_unbacked = allow_unbacked
        self._memo: dict[int, tuple[weakref.ref, FakeTensor]] = {}
        self._storages: dict[int, int] = {}
        self._inference_memory: set[int] = set()  # storage keys of inference tensors
        self.constants: list[tuple[torch.Tensor, FakeTensor]] = []
        self.known: Constants | None = None  # made with the first literal tensor
        self.number_of: Callable[[FakeTensor], Any] | None = None  # what a recorder knows of a fake of one element: a number, or None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import torch._dynamo at the first dispatch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in types:
            if t is not FakeTensor and is_wrapper_class(t):
                return NotImplemented  # its own `__torch_dispatch__` calls on the fakes inside
        rule = RULES.get(func)
        if rule is None or self.known is not None or self.shape_env is not active.env:
            return self.dispatch(func, args, kwargs or {})
        try:
            result = rule(self, *args, **kwargs) if kwargs else rule(self, *args)
        except AttributeError:
            return self.dispatch(func, args, kwargs or {})
        return result if result is not NotImplemented else self._without_rule(func, args, kwargs or {})

    # -- operators ----------------------------------------------------------------------------------------------------
    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Result of one operator on fakes."""
        result = self._run(func, args, kwargs)
        if self.known is not None and isinstance(func, torch._ops.OpOverload):
            self.known.propagate(func, args, kwargs, result)
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(func)
        if self.shape_env is not active.env:
            active.env = self.shape_env
        if rule is not None:
            try:
                result = rule(self, *args, **kwargs)
            except AttributeError:
                # Only fakes have `sizes`: the cheap way to notice a real tensor is to trip over it.
                lifted = self._lift_reals(args, kwargs)
                if lifted is None:
                    raise
                result = rule(self, *lifted[0], **lifted[1])
            if result is not NotImplemented:
                return result
        return self._without_rule(func, args, kwargs)

    def _without_rule(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lifted = self._lift_reals(args, kwargs)
        if lifted is not None:
            args, kwargs = lifted
        if func not in RULES and (rule := derive(func)) is not None and (result := rule(self, *args, **dict(kwargs))) is not NotImplemented:
            return result
        if isinstance(func, torch._ops.OpOverloadPacket):
            func = func.default
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                counters["fake"][f"composite {func.name()}"] += 1
                return result
        fake_impl = _registered_fake(func)
        if fake_impl is not None:
            counters["fake"][f"registered {func.name()}"] += 1
            with self:
                return fake_impl(*args, **kwargs)
        counters["fake"][f"meta {func.name()}"] += 1
        return meta_fallback.run(self, func, args, kwargs)

    def _lift_reals(self, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """The arguments with real tensors lifted; None when there are none."""
        found = False

        def lift(x: Any) -> Any:
            nonlocal found
            if isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor):
                found = True
                return self.lift(x)
            if isinstance(x, FakeTensor) and x.fake_mode is not self:
                raise InternalError(f"{x} belongs to another FakeMode")
            if type(x) in (list, tuple):
                return type(x)(map(lift, x))
            return x

        new_args, new_kwargs = lift(tuple(args)), {k: lift(v) for k, v in kwargs.items()}
        return (new_args, new_kwargs) if found else None

    def lift(self, t: torch.Tensor) -> FakeTensor:
        """Fake of a real tensor that the program uses as a constant."""
        if not self.allow_real:
            raise Unsupported("a real tensor meets fake tensors", saw=f"{t.dtype} tensor of shape {tuple(t.shape)}", hint="pass it as an input")
        known = id(t) in self._memo
        fake = self.from_real(t)
        if not known:
            self.constants.append((t, fake))
        return fake

    def literal(self, value: torch.Tensor) -> FakeTensor:
        """A fresh fake of a tensor that the program wrote out, with its value."""
        fake = self.make(tuple(value.shape), value.stride(), value.dtype, value.device, value.storage_offset())
        if self.known is None:
            self.known = Constants()
        with torch._C.DisableTorchFunction(), torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
            self.known.set(fake, value.clone())
        return fake

    # -- making fakes -------------------------------------------------------------------------------------------------
    def make(
        self, sizes: tuple[Any, ...], strides: tuple[Any, ...], dtype: torch.dtype, device: torch.device, offset: Any = 0,
        storage_key: int | None = None,
    ) -> FakeTensor:
        """A fake with exactly this layout (elements); sizes, strides and offset are int or Expr. New memory unless `storage_key`."""
        inference = torch.is_inference_mode_enabled()
        if storage_key is None:
            storage_key = next(_storage_keys)
            if inference:
                self._inference_memory.add(storage_key)
        elif inference is not (storage_key in self._inference_memory):  # a view is what its memory is, wherever it is taken
            with torch.inference_mode(not inference):
                return self._make(sizes, strides, dtype, device, offset, storage_key)
        return self._make(sizes, strides, dtype, device, offset, storage_key)

    def _make(self, sizes: tuple[Any, ...], strides: tuple[Any, ...], dtype: torch.dtype, device: torch.device, offset: Any, storage_key: int) -> FakeTensor:
        if self.shape_env is None:
            fake = _make_wrapper(FakeTensor, sizes, strides, offset, None, dtype, _STRIDED, device)
        else:
            to_int = self.to_int
            # Without a storage size C++ would compute it symbolically: three times the cost of the rest.
            fake = _make_wrapper(
                FakeTensor, [to_int(s) for s in sizes], [to_int(s) for s in strides], to_int(offset), None, dtype, _STRIDED, device,
                storage_size=_STORAGE_BYTES,
            )
        fake.fake_mode = self
        fake.sizes = sizes
        fake.strides = strides
        fake.offset = offset
        fake.scalar_type = dtype
        fake.dev = device
        fake.constant = None
        fake.storage_key = storage_key
        return fake

    def to_int(self, x: Any) -> Any:
        """int or SymInt of a dimension."""
        return x if type(x) is int else self.shape_env.sym_int(x)

    def dim(self, x: Any) -> Any:
        """Dimension (int or Expr) of an int or SymInt."""
        if type(x) is int:
            return x
        if isinstance(x, torch.SymInt):
            return self.shape_env.dim(x)
        return int(x)

    def has_unbacked(self) -> bool:
        """Whether what depends on data may become a symbol; there is an environment then."""
        if self.allow_unbacked and self.shape_env is None:
            from lamina_dynshape.shape_env import ShapeEnv

            self.shape_env = active.env = ShapeEnv()
        return self.allow_unbacked

    def data_size(self, what: str, x: FakeTensor, hint: str = "") -> Any:
        """A dimension that depends on data, between 0 and the number of elements of x."""
        if not self.has_unbacked():
            raise DataDependent(f"data-dependent size of {what}", saw=repr(x), hint=hint)
        return self.unbacked_size(x.sizes)

    def unbacked_size(self, sizes: Any) -> Any:
        """A fresh dimension that only the running program knows, at most the number of elements of `sizes` (None: any)."""
        from lamina_dynshape.dims import numel

        limit = numel(sizes) if sizes is not None else None
        e = self.dim(self.shape_env.create_unbacked(0, limit if type(limit) is int else None))
        if limit is not None and type(limit) is not int:
            self.shape_env.facts.learn(le(e, limit))
        return e

    def unbacked_value(self, dtype: torch.dtype) -> Any:
        """A fresh symbolic number for `item()` of a tensor of that dtype."""
        if dtype.is_floating_point:
            return self.shape_env.create_unbacked_float()
        if dtype is torch.bool:
            return self.shape_env.create_unbacked(0, 1) == 1
        if dtype.is_complex:
            raise DataDependent("data-dependent complex number")
        return self.shape_env.create_unbacked()

    def empty_strided(
        self, sizes: Any, strides: Any, *, dtype: torch.dtype | None = None, device: Any = "cpu", requires_grad: bool = False
    ) -> FakeTensor:
        """A fresh fake of this layout; sizes and strides are ints or SymInts."""
        fake = self.make(
            tuple(map(self.dim, sizes)), tuple(map(self.dim, strides)), dtype or torch.get_default_dtype(), torch.device(device)
        )
        return fake.requires_grad_() if requires_grad else fake

    def copy_of(self, fake: FakeTensor) -> FakeTensor:
        """A fake of the same metadata and new memory; a leaf (what deepcopy gives)."""
        if not fake.is_leaf:
            raise RuntimeError("Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the moment.")
        result = self.make(fake.sizes, fake.strides, fake.scalar_type, fake.dev, fake.offset)
        result.requires_grad_(fake.requires_grad)
        _copy_python_attributes(fake, result)
        return result

    # -- from real tensors --------------------------------------------------------------------------------------------
    def from_real(self, t: torch.Tensor, *, source: str | None = None, dynamic_dims: Any = None, dynamic_strides: Any = ()) -> FakeTensor:
        """Fake of `t`, the same one each time: metadata, requires_grad, leafness, Parameter-ness, memory shared with other fakes.

        dynamic_dims: dimensions to make symbolic (container of ints, or dict dim -> DimPolicy); needs a shape_env.
        dynamic_strides: dimensions whose stride is symbolic where it does not follow from the sizes.
        """
        if isinstance(t, FakeTensor):
            if t.fake_mode is not self:
                raise InternalError(f"{t} belongs to another FakeMode")
            return t
        found = self._memo.get(id(t))
        if found is not None and found[0]() is t:
            return found[1]
        _check_supported(t)
        fake = self._convert(t, source, dynamic_dims, dynamic_strides)
        key = id(t)
        self._memo[key] = (weakref.ref(t, lambda _, memo=self._memo: memo.pop(key, None)), fake)
        if t.is_leaf and t.grad is not None:
            fake.grad = self.from_real(t.grad, source=f"{source}.grad" if source else None, dynamic_dims=dynamic_dims)
        return fake

    def real_of(self, fake: FakeTensor) -> torch.Tensor | None:
        """The living real tensor that `from_real` made `fake` from, if any."""
        for ref, known in self._memo.values():
            if known is fake:
                return ref()
        return None

    def _convert(self, t: torch.Tensor, source: str | None, dynamic_dims: Any, dynamic_strides: Any) -> FakeTensor:
        sizes, strides, offset = tuple(t.shape), t.stride(), t.storage_offset()
        if dynamic_dims or dynamic_strides or (self.shape_env is not None and source is not None and dynamic_dims is None):
            sizes, strides, offset = self.shape_env.symbolic_layout(t, source, dynamic_dims, dynamic_strides)
        storage = t.untyped_storage()
        storage_key = self._storages.get(storage._cdata)
        if storage_key is None:
            storage_key = self._storages[storage._cdata] = new_storage_key()
        if t.is_inference():
            self._inference_memory.add(storage_key)
        with torch.inference_mode(t.is_inference()):
            base = t._base if t._is_view() else None
            if base is not None and t.requires_grad and not base.requires_grad:
                base = None  # a view that a custom autograd function gave: its history is its own
            if base is not None and not (t.is_leaf and t.requires_grad) and self._static(sizes, strides, offset):
                fake = self._view_of_base(t, self.from_real(base, dynamic_dims=()))
            else:
                fake = self.make(sizes, strides, t.dtype, t.device, offset, storage_key)
                if t.requires_grad:
                    fake = fake.requires_grad_() if t.is_leaf else self.with_history(lambda: fake)
        _copy_python_attributes(t, fake)
        return fake

    def with_history(self, make: Callable[[], torch.Tensor]) -> Any:
        """The tensor that `make` gives, around fakes or a fake itself, as a result of earlier differentiable operations."""
        with torch.enable_grad():
            return _NonLeaf.apply(_seed(self), make)

    @staticmethod
    def _static(*layout: Any) -> bool:
        return all(type(x) is int for part in layout for x in (part if isinstance(part, tuple) else (part,)))

    def _view_of_base(self, t: torch.Tensor, base: FakeTensor) -> FakeTensor:
        """Rebuild a view as autograd knows it, so that `_base`, in-place and version counters act as they do for `t`."""
        with self, torch.set_grad_enabled(t.requires_grad):
            if base.dtype != t.dtype:
                base = base.view(t.dtype) if base.dtype.itemsize == t.dtype.itemsize else base.detach().view(t.dtype)
            if base.requires_grad and base.is_leaf and t.requires_grad:
                return base.as_strided(t.shape, t.stride(), t.storage_offset())
            return base.as_strided(t.shape, t.stride(), t.storage_offset())


def _registered_fake(func: Any) -> Any:
    """The shape function that an operator library gave with `torch.library.register_fake`; it takes symbolic sizes."""
    if func.namespace == "aten":
        return None
    entry = torch._library.simple_registry.singleton.find(func.name())
    kernel = entry.fake_impl.kernel if entry is not None else None
    return kernel.func if kernel is not None else None


class _NonLeaf(torch.autograd.Function):
    """Gives a fake a grad_fn, for inputs that are results of earlier differentiable operations."""

    @staticmethod
    def forward(ctx: Any, seed: torch.Tensor, make: Any) -> torch.Tensor:
        return make()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return None, None


def _seed(mode: FakeMode) -> torch.Tensor:
    return mode.make((), (), torch.float32, torch.device("cpu")).requires_grad_()


def _check_supported(t: torch.Tensor) -> None:
    if t.layout is not torch.strided or t.is_quantized or t.is_nested:
        raise Unsupported("tensor layout", saw=f"{t.layout} {t.dtype}", code="tensor_layout")
    if t.is_conj() or t.is_neg():
        raise Unsupported("input with a lazy conjugate or negative bit", saw=f"{t.dtype} {tuple(t.shape)}", code="lazy_conj_input")


def _copy_python_attributes(source: torch.Tensor, target: FakeTensor) -> None:
    if getattr(source, "_is_param", False) or isinstance(source, torch.nn.Parameter):
        target._is_param = True
    if isinstance(source, torch.nn.Buffer):
        target._is_buffer = True
        target.persistent = source.persistent
