"""Compares every ATen call that a real program makes with what FakeMode says of it: shapes, dtypes, strides, aliasing.

Run it as a program for the whole of `op_db`: `python -m lamina_dynshape.compare_ops [name ...]` prints the share of calls served by rules, by
decomposition and by Meta kernels, and each difference.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lamina_dynshape import DataDependent, FakeMode, FakeTensor
from lamina_dynshape.shape_rules.registry import RULES
from lamina_dynshape.support.errors import Unsupported


class Compare(TorchDispatchMode):
    """Runs each operator for real and on fakes of its arguments; collects differences."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.by_op: dict[str, Counter[str]] = {}
        self.wrong: dict[str, list[str]] = {}
        self.label = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in _flat((args, kwargs)) if isinstance(x, torch.Tensor)]
        plain = all(t.layout is torch.strided and not t.is_quantized and not t.is_conj() and not t.is_neg() for t in tensors)
        if not plain or func.namespace != "aten":
            return func(*args, **kwargs)
        mode = FakeMode()
        fakes: dict[int, FakeTensor] = {}

        def to_fake(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                if id(x) not in fakes:
                    key = mode._storages.setdefault(x.untyped_storage()._cdata, 10**9 + len(mode._storages))
                    fakes[id(x)] = mode.make(tuple(x.shape), x.stride(), x.dtype, x.device, x.storage_offset(), key)
                return fakes[id(x)]
            if isinstance(x, (list, tuple)):
                return type(x)(map(to_fake, x))
            if isinstance(x, dict):
                return {k: to_fake(v) for k, v in x.items()}
            return x

        fake_args, fake_kwargs = to_fake(tuple(args)), to_fake(kwargs)
        expected_error = got_error = got = None
        try:
            expected = func(*args, **kwargs)
        except Exception as error:
            expected_error = error
        # Outside of all modes the fakes dispatch to their FakeMode; factories need it on.
        how = "rule" if func in RULES else "other"
        try:
            with mode:
                got = func(*fake_args, **fake_kwargs)
        except DataDependent:
            self._count(func, "data")
            if expected_error is not None:
                raise expected_error
            return expected
        except (Unsupported, Exception) as error:
            got_error = error
        if expected_error is not None:
            self._count(func, how)
            if got_error is None:
                self._count(func, "missed error")
            raise expected_error
        self._count(func, how)
        if got_error is not None:
            if isinstance(got_error, Unsupported):
                self._count(func, "unsupported")
                return expected
            self._report(func, args, f"raised {type(got_error).__name__}: {str(got_error)[:150]}")
            return expected
        inputs = list(zip(tensors, [fakes[id(t)] for t in tensors]))
        self._check(func, args, expected, got, inputs)
        return expected

    def _count(self, func: Any, how: str) -> None:
        self.served[how] += 1
        self.by_op.setdefault(str(func), Counter())[how] += 1

    def _report(self, func: Any, args: Any, what: str) -> None:
        seen = self.wrong.setdefault(str(func), [])
        shapes = [(tuple(a.shape), a.stride(), str(a.dtype)[6:]) if isinstance(a, torch.Tensor) else a for a in _flat(args)]
        text = f"{what}   args {str(shapes)[:260]}   [{self.label}]"
        if len(seen) < 3:
            seen.append(text)

    def _check(self, func: Any, args: Any, expected: Any, got: Any, inputs: Any) -> None:
        real, fake = list(_flat(expected)), list(_flat(got))
        if len(real) != len(fake):
            self._report(func, args, f"{len(real)} results, fake has {len(fake)}")
            return
        for i, (r, f) in enumerate(zip(real, fake)):
            if isinstance(r, torch.Tensor) != isinstance(f, torch.Tensor):
                if not (isinstance(f, torch.Tensor) and f.numel() == 0 and r is None):  # an undefined tensor
                    self._report(func, args, f"result {i}: {type(r)} against {type(f)}")
                continue
            if not isinstance(r, torch.Tensor) or r.layout is not torch.strided or r.is_quantized:
                continue
            saw = (tuple(f.shape), f.dtype, _significant(f), f.storage_offset() if r.numel() else 0)
            want = (tuple(r.shape), r.dtype, _significant(r), r.storage_offset() if r.numel() else 0)
            if saw != want:
                self._report(func, args, f"result {i}: real {want}, fake {saw}")
            if isinstance(f, FakeTensor) and (f.sizes, f.strides, f.offset) != (tuple(f.shape), f.stride(), f.storage_offset()):
                self._report(func, args, f"result {i}: mirror {f.sizes, f.strides, f.offset} differs from {tuple(f.shape), f.stride(), f.storage_offset()}")
            for t, g in inputs:
                if (r is t) != (f is g):
                    self._report(func, args, f"result {i}: real is input {r is t}, fake {f is g}")
                if r.numel() and (r.untyped_storage()._cdata == t.untyped_storage()._cdata) != (f.storage_key == g.storage_key):
                    self._report(func, args, f"result {i}: aliases input: real {f.storage_key != g.storage_key}")
        for t, g in inputs:
            if (tuple(t.shape), _significant(t)) != (tuple(g.shape), _significant(g)):
                self._report(func, args, f"argument after: real {tuple(t.shape), t.stride()}, fake {tuple(g.shape), g.stride()}")


def _significant(t: torch.Tensor) -> Any:
    """Strides where they matter: dimensions of size above 1 of tensors that have elements."""
    return tuple(st if s > 1 else None for s, st in zip(t.shape, t.stride())) if t.numel() else None


def _flat(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        for y in x:
            yield from _flat(y)
    elif isinstance(x, dict):
        yield from _flat(list(x.values()))
    else:
        yield x


# -- inputs in other layouts ------------------------------------------------------------------------------------------------
def _map(x: Any, f: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return f(x)
    if isinstance(x, (list, tuple)):
        return type(x)(_map(y, f) for y in x)
    if isinstance(x, dict):
        return {k: _map(v, f) for k, v in x.items()}
    return x


def reversed_layout(t: torch.Tensor) -> torch.Tensor:
    """Same values, column-major."""
    order = tuple(range(t.dim()))[::-1]
    return t.detach().permute(order).contiguous().permute(order).requires_grad_(t.requires_grad)


def channels_last(t: torch.Tensor) -> torch.Tensor:
    return t.detach().contiguous(memory_format=torch.channels_last).requires_grad_(t.requires_grad) if t.dim() == 4 else t


def gaps(t: torch.Tensor) -> torch.Tensor:
    """Same values, every second element of a larger buffer."""
    if t.dim() == 0 or t.numel() == 0:
        return t
    wide = torch.empty(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)
    wide[..., ::2] = t.detach()
    return wide[..., ::2].detach().requires_grad_(t.requires_grad)


LAYOUTS = {"dense": lambda t: t, "reversed": reversed_layout, "channels_last": channels_last, "gaps": gaps}


def run_op(compare: Compare, op: Any, samples: int = 4, layouts: Any = LAYOUTS) -> None:
    """Forward and backward of an OpInfo's float32 samples under `compare`."""
    dtype = torch.float32 if torch.float32 in op.dtypes else sorted(op.dtypes, key=str)[0]
    inputs = list(op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd and dtype is torch.float32))
    chosen = inputs[:: max(1, len(inputs) // samples)][: samples + 1]
    for sample in chosen:
        for name, layout in layouts.items():
            compare.label = f"{op.name} {op.variant_test_name} {name}"
            try:
                args = _map((sample.input, *sample.args), layout)
                kwargs = _map(sample.kwargs, layout)
            except Exception:
                continue
            try:
                with compare:
                    result = op.op(*args, **kwargs)
                    outs = [t for t in _flat(result) if isinstance(t, torch.Tensor) and t.grad_fn is not None and not t.dtype.is_complex]
                    if outs and op.supports_autograd:
                        torch.autograd.Variable._execution_engine.run_backward(
                            tuple(outs), tuple(torch.ones_like(o) for o in outs), False, False, (), True, accumulate_grad=True
                        )
            except Exception:  # eager's own error: not ours to judge
                continue


def main(names: list[str]) -> None:
    from torch.testing._internal.common_methods_invocations import op_db

    warnings.simplefilter("ignore")
    compare = Compare()
    for op in op_db:
        if names and op.name not in names:
            continue
        try:
            run_op(compare, op)
        except Exception as error:
            print("cannot sample", op.name, error)
    for name, texts in sorted(compare.wrong.items()):
        print(name)
        for text in texts:
            print("    ", text)
    total = sum(compare.served.values())
    print({how: f"{n} ({n / total:.1%})" for how, n in compare.served.most_common()}, "wrong operators:", len(compare.wrong))
    rest = {n: c for n, c in compare.by_op.items() if any(k not in ("rule",) for k in c)}
    for name, c in sorted(rest.items(), key=lambda p: -p[1].total()):
        print("   ", name, dict(c))


if __name__ == "__main__":
    main(sys.argv[1:])
