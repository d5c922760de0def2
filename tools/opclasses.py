"""What becomes of each ATen overload: its class, its fate and the rule that says so. Used by `opsets.py` for docs/opsets.md.

Everything is derived: from the schema (out=, in-place, lists), the dispatcher's tables (composite ops), PyTorch's tags, our registries, and, where
none of these speaks, the name of a family that is not for the CPU or not for dense tensors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

__all__ = ["DECOMPOSED", "FALLS_BACK", "FATES", "KEPT", "PARTS", "Entry", "classify_all"]

PARTS, DECOMPOSED, KEPT, FALLS_BACK = "taken apart before the tracer", "prims", "ATen by decision", "falls back"
FATES = (PARTS, DECOMPOSED, KEPT, FALLS_BACK)


class Entry(NamedTuple):
    """One overload. `kind` is its class; `rule` why `fate` is its fate."""

    overload: torch._ops.OpOverload
    kind: str
    fate: str
    rule: str


# Families known by name: (pattern, class, why there is no decomposition).
_FAMILIES = [
    (r"_?(sparse|to_sparse|coalesce|spdiags|spsolve|hspmm|sspaddmm|copy_sparse|cslt)|.*(sparse|_csr|_coo|crow_|ccol_|col_indices|row_indices|dense_dim|_nnz|_dim[IV])"
     r"|_?(indices|values)(_copy)?$|_?coalesced|is_coalesced|_to_dense|resize_as_sparse", "sparse", "sparse layouts run eagerly"),
    (r"_?nested|_?jagged|.*jagged|.*_nested|.*padded_tensor|_nested.*", "nested", "nested layouts run eagerly"),
    (r".*(quantize|quantized|q_scale|q_zero|q_per_channel|qscheme|int_repr|fq_helper|fake_quant|int4pack|fbgemm|_choose_qparams)", "quantized",
     "quantized dtypes run eagerly"),
    (r"_?(cudnn|miopen|mps|xpu|triton)|.*(cudnn|miopen|_mps|mps_|triton|cutlass|thnn_fused|semi_structured|_efficient_attention|_flash_attention|grouped_mm|_philox|_scaled_dot_product)"
     r"|_amp_|batch_norm_(elemt|stats|gather|backward_|update_stats)|.*_depthwise|_fused_dropout|_mixed_dtypes|_scaled_mm_v2|_fused_sdp_choice|_use_|(add|badd|b)?(b?mm)$", "other device",
     "no kernel for the CPU, or a choice of library"),
    (r".*(mkldnn|nnpack|slow_conv|conv_tbc|_overrideable|_copy_from|_native_multi_head|_transformer_encoder|_transform_bias|convolution|_cpu_fallback|linear_backward|matmul_backward|max_pool2d_backward)", "library",
     "a library's own op; PyTorch's composites do not reach it in a trace"),
    (r"_?(fft|view_as_complex|view_as_real|complex|polar|_conj|_neg_view|conj)", "complex", "complex dtypes are not in the dialect"),
    (r"_fused_(adam|sgd|adagrad)", "optimizer", "programs write; the functional form is not made"),
    (r".*(_jvp|_make_dual|_fw_primal)", "forward mode", "forward-mode derivatives are not captured"),
    (r"_test_|_foobar|_print|_make_dep_token|hash_tensor|_functional_(assert|sym)|sym_constrain|_?pin_memory|is_pinned|from_file|_lazy_clone|_efficientzero|lift_fresh"
     r"|_linalg_check|is_same_size|is_set_to|_has_same_storage|_new_zeros_with|_resize_output|resize|set$|slice_inverse|_pack_padded|record_stream|set_data|retain_grad"
     r"|_version|_backward$|is_leaf|requires_grad|_cummax_helper|_cummin_helper|output_nr|data$", "bookkeeping",
     "about tensors' memory or PyTorch's own tests, not their values"),
]  # fmt: skip
# Classes by the reason that an op stays.
_REASONS = {
    "extern: library linear algebra": "linear algebra", "extern: sort": "sort", "check at run time": "bookkeeping", "extern: library recurrent layer": "library",
    "data dependent: size or value is known at run time": "data dependent", "extern: recursion over time": "loss", "extern: recurrence of a length that is data": "pointwise", "extern: fused attention": "contraction",
    "extern: matrix product of packed or narrow integers": "quantized", "extern: sums over bags of rows whose lengths are data": "indexing",
    "extern: largest elements with their positions, a kernel of its own": "window", "extern: histogram, whose edges decide by comparison": "reduction",
}  # fmt: skip
# Classes by the file of the decomposition.
_FILES = {
    "activations": "pointwise", "contractions": "contraction", "distances": "reduction", "factories": "factory", "foreach": "foreach", "indexing": "indexing",
    "losses": "loss", "norms": "normalisation", "pads": "view", "pooling": "window", "quantization": "quantized", "reductions": "reduction",
    "resampling": "window", "special": "pointwise", "views": "view",
}  # fmt: skip


def _all_overloads() -> list:
    found = []
    for name in sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")):
        base, _, form = name.removeprefix("aten::").partition(".")
        found.append(getattr(getattr(torch.ops.aten, base), form or "default"))
    return found


def _has(overload: torch._ops.OpOverload, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(overload.name(), key)


def _is_composite(overload: torch._ops.OpOverload) -> bool:
    return _has(overload, "CompositeImplicitAutograd")


def _name(overload: torch._ops.OpOverload) -> str:
    return overload._schema.name.removeprefix("aten::")


def _family(overload: torch._ops.OpOverload) -> tuple[str, str] | None:
    for pattern, kind, why in _FAMILIES:
        if re.match(pattern, _name(overload)):
            return kind, why
    return None


def _writes(overload: torch._ops.OpOverload) -> str | None:
    if any(a.is_out for a in overload._schema.arguments):
        return "out="
    return "in-place" if overload._schema.is_mutable else None


def _kind(overload: torch._ops.OpOverload, files: dict, extern: dict) -> str:
    """Class of an overload that does not write."""
    name, tags = _name(overload), overload.tags
    if name.startswith("_foreach_"):
        return "foreach"
    if name.startswith("_fused_") and "_adam" in name or "_sgd" in name or "_adagrad" in name:
        return "optimizer"
    if torch.Tag.nondeterministic_seeded in tags:
        return "random"
    if "backward" in name:
        return "backward"
    if torch.Tag.pointwise in tags:
        return "pointwise"
    if torch.Tag.reduction in tags:
        return "reduction"
    if any(r.alias_info is not None for r in overload._schema.returns) or torch.Tag.view_copy in tags:
        return "view"
    if overload in files:
        return _FILES.get(files[overload], "pointwise")
    if overload in extern:
        return _REASONS.get(extern[overload], "window" if "resampling" in extern[overload] else "random" if "random" in extern[overload] else "complex")
    family = _family(overload)
    return family[0] if family else "other"


def _fate(overload: torch._ops.OpOverload, decompositions: dict, extern: dict) -> tuple[str, str]:
    """(fate, rule) of an overload that does not write."""
    if overload in decompositions:
        return DECOMPOSED, f"decomposition, {decompositions[overload].module.rpartition('.')[2]}.py"
    if overload in extern:
        return KEPT, extern[overload]
    if _is_composite(overload):
        return PARTS, "PyTorch's composite kernel"
    family = _family(overload)
    if family is not None:
        return FALLS_BACK, family[1]
    return FALLS_BACK, "no decomposition"


# What a call that makes a tensor has and its out= form has not.
_OPTIONS = ("dtype", "layout", "device", "pin_memory", "memory_format")


def _twin(overload: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The functional overload that functionalization puts in the place of one that writes."""
    arguments = [(a.name, str(a.type)) for a in overload._schema.arguments if not a.is_out]
    name = _name(overload)
    for base in (name, name.removesuffix("_"), name + "_functional"):
        packet = getattr(torch.ops.aten, base, None)
        for form in packet.overloads() if packet is not None else ():
            candidate = getattr(packet, form)
            if candidate._schema.is_mutable:
                continue
            have = [(a.name, str(a.type)) for a in candidate._schema.arguments]
            if have == arguments or [a for a in have if a[0] not in _OPTIONS] == [a for a in arguments if a[0] not in _OPTIONS]:
                return candidate
    return None


def classify_all() -> list[Entry]:
    """Every ATen overload that the dispatcher knows."""
    from lamina_primops.decompositions import DECOMPOSITIONS, EXTERN
    from lamina_primops.optimizers import FUSED_STEPS

    files = {o: d.module.rpartition(".")[2] for o, d in DECOMPOSITIONS.items()}
    entries = []
    for overload in _all_overloads():
        writes = _writes(overload)
        if writes is None:
            composite = _is_composite(overload) and overload not in DECOMPOSITIONS
            entries.append(Entry(overload, "composite" if composite else _kind(overload, files, EXTERN), *_fate(overload, DECOMPOSITIONS, EXTERN)))
        elif overload in FUSED_STEPS:
            entries.append(Entry(overload, writes, DECOMPOSED, "program of plain ops, optimizers.py"))
        elif _is_composite(overload):
            entries.append(Entry(overload, writes, PARTS, "PyTorch's composite kernel"))
        else:
            entries.append(_written(overload, writes, DECOMPOSITIONS, EXTERN))
    return entries


def _written(overload: torch._ops.OpOverload, writes: str, decompositions: dict, extern: dict) -> Entry:
    twin = _twin(overload)
    if twin is None:
        family = _family(overload)
        return Entry(overload, writes, FALLS_BACK, family[1] if family else "no functional twin")
    fate, rule = _fate(twin, decompositions, extern)
    return Entry(overload, writes, fate, "as its functional twin" if fate != FALLS_BACK else rule)
