"""What programs ask of a tensor: answered as eager does, for inputs of every origin by one compiled function."""

import types

import pytest
import torch
from torch import nn

from lamina_dynamo.runtime import Options, compile_callable

SKIPPED = {"_python_dispatch", "_has_symbolic_sizes_strides", "_cdata", "grad_dtype"}  # of the implementation; grad_dtype: 2.13's error for a tensor that is no leaf
ATTRIBUTES = [n for n in dir(torch.Tensor) if type(getattr(torch.Tensor, n)) in (types.GetSetDescriptorType, property) and n not in SKIPPED]
METHODS = [
    "_is_view", "is_contiguous", "is_complex", "is_conj", "is_neg", "is_inference", "is_shared", "is_pinned", "storage_offset", "stride", "dim", "nelement", "element_size",
    "get_device", "has_names", "is_signed", "is_floating_point", "dense_dim", "__len__", "type", "dim_order", "is_coalesced",
]  # fmt: skip


def origins():
    b = torch.arange(6.0).reshape(2, 3)
    leaf = lambda: b.clone().requires_grad_()
    yield b.clone()
    yield leaf()
    yield leaf() * 1
    yield b.clone()[1:]
    yield leaf()[1:]
    yield b.clone().add_(1)
    yield nn.Parameter(b.clone())
    t = leaf()
    t.grad = b.clone()
    yield t
    t = leaf() * 1
    t.retain_grad()
    yield t
    yield torch.complex(b, b)
    yield torch.complex(b, b).conj()
    yield torch.arange(8.0)[2:].reshape(2, 3)
    yield (leaf() * 1).detach()
    yield torch.tensor(3.0)
    t = leaf()
    t.register_hook(lambda g: g)
    yield t


def shown(v):
    if isinstance(v, torch.Tensor):
        return tuple(v.shape), v.dtype, v.detach().resolve_conj().tolist(), v.requires_grad
    return v if v is None or isinstance(v, (bool, int, float, str, tuple, list, torch.dtype, torch.device, torch.layout)) else type(v).__name__


def outcome(fn, t):
    try:
        return shown(fn(t)[0])
    except Exception as e:
        return type(e).__name__


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("question", [*ATTRIBUTES, *[f"{m}()" for m in METHODS]])
def test_questions_about_inputs(question):
    scope = {}
    exec(f"def fn(t): return t.{question}, t + 1", scope)
    compiled = compile_callable(scope["fn"], Options(lambda gm, examples: gm.forward, recompile_limit=32))
    for ours, theirs in zip(origins(), origins(), strict=True):
        assert outcome(compiled, ours) == outcome(scope["fn"], theirs)


@pytest.mark.parametrize("question", ["grad_fn", "grad_fn is None", "is_leaf", "retains_grad", "_is_view()", "storage_offset()", "output_nr", "requires_grad", "_backward_hooks"])
@pytest.mark.parametrize("made", ["t * 2", "t[1:]", "t.detach()", "torch.zeros(3)", "torch.zeros(3).requires_grad_()", "t.clone().add_(1)", "t.view(2, 3).t()", "t.detach_()", "t.requires_grad_()"])
def test_questions_about_what_the_frame_makes(question, made):
    scope = {"torch": torch}
    exec(f"def fn(t):\n    y = {made}\n    return y.{question}, y", scope)
    compiled = compile_callable(scope["fn"], Options(lambda gm, examples: gm.forward))
    for make in (lambda: torch.arange(6.0), lambda: torch.arange(6.0).requires_grad_(), lambda: torch.arange(6.0).requires_grad_() * 1):
        assert outcome(compiled, make()) == outcome(scope["fn"], make())
