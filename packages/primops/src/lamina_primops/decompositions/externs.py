"""ATen calls that stay in prims graphs by decision. Everything else without a decomposition stays too, as `no decomposition`."""

from __future__ import annotations

from typing import Any

from .common import aten
from .registry import extern


def _overloads(*names: str) -> list[Any]:
    """Functional overloads of packets, or the one named `packet.overload`."""
    found = []
    for name in names:
        base, _, only = name.partition(".")
        packet = getattr(aten, base, None)
        if packet is None:  # another release of PyTorch
            continue
        for overload in packet.overloads():
            op = getattr(packet, overload, None) if "hacked" not in overload else None
            if op is not None and not op._schema.is_mutable and (not only or overload == only):
                found.append(op)
    return found


extern(
    "extern: fused attention",
    *_overloads("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
)
extern(
    "random: the stream is eager's",
    *_overloads(
        "bernoulli", "rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "normal", "normal_functional", "multinomial", "native_dropout",
        "poisson", "uniform", "exponential", "cauchy", "log_normal", "geometric", "rrelu_with_noise", "_sample_dirichlet", "_standard_gamma", "binomial",
    ),
)  # fmt: skip
extern("extern: sort", *_overloads("sort", "topk", "kthvalue", "median", "nanmedian", "mode"))
extern("extern: largest elements with their positions, a kernel of its own", *_overloads("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
       "adaptive_max_pool3d", "fractional_max_pool2d", "fractional_max_pool2d_backward", "fractional_max_pool3d", "fractional_max_pool3d_backward"))  # fmt: skip
extern(
    "extern: library resampling (many weights per element, or gradients added at places that depend on data)",
    *_overloads(
        "upsample_bicubic2d_backward", "_upsample_bilinear2d_aa", "_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa", "_upsample_bicubic2d_aa_backward",
        "_upsample_lanczos2d_aa", "_upsample_lanczos2d_aa_backward", "grid_sampler_2d_backward", "grid_sampler_3d_backward",
    ),
)  # fmt: skip
extern(
    "data dependent: size or value is known at run time",
    *_overloads("nonzero", "masked_select", "_local_scalar_dense", "unique_consecutive", "_unique2", "unique_dim", "bincount", "repeat_interleave.Tensor", "equal"),
)
extern("check at run time", *_overloads("_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_functional_assert_async"))
