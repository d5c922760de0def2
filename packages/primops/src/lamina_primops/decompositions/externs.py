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
        "poisson", "uniform", "exponential", "cauchy", "log_normal", "geometric", "rrelu_with_noise", "_sample_dirichlet", "_standard_gamma", "_standard_gamma_grad", "_dirichlet_grad", "random", "binomial",
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
    "extern: library linear algebra",
    *_overloads(
        "cholesky", "cholesky_inverse", "cholesky_solve", "_cholesky_solve_helper", "geqrf", "ormqr", "lu_unpack", "triangular_solve", "_linalg_det", "_linalg_eigh",
        "_linalg_eigvals", "_linalg_slogdet", "_linalg_solve_ex", "_linalg_svd", "linalg_cholesky_ex", "linalg_eig", "linalg_householder_product", "linalg_inv_ex",
        "linalg_ldl_factor_ex", "linalg_ldl_solve", "linalg_lstsq", "linalg_lu", "linalg_lu_factor_ex", "linalg_lu_solve", "linalg_matrix_exp", "linalg_pinv",
        "linalg_qr", "linalg_solve_triangular", "_compute_linear_combination",
    ),
)  # fmt: skip
extern("extern: library Fourier transform, complex numbers", *_overloads("_fft_c2c", "_fft_c2r", "_fft_r2c"))
extern("extern: library recurrent layer", *_overloads("mkldnn_rnn_layer", "mkldnn_rnn_layer_backward"))
extern("extern: recursion over time", *_overloads("_ctc_loss", "_ctc_loss_backward"))
extern(
    "extern: sums over bags of rows whose lengths are data",
    *_overloads(
        "_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_backward", "_embedding_bag_dense_backward", "_embedding_bag_per_sample_weights_backward",
        "segment_reduce", "_segment_reduce_backward",
    ),
)
extern(
    "extern: matrix product of packed or narrow integers",
    *_overloads(
        "_int_mm", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu", "_convert_weight_to_int4pack_for_cpu", "_dyn_quant_matmul_4bit", "_dyn_quant_pack_4bit_weight",
        "_scaled_mm",
    ),
)  # fmt: skip
extern("extern: histogram, whose edges decide by comparison", *_overloads("histc", "histogram", "_histogramdd_bin_edges", "_histogramdd_from_bin_cts", "_histogramdd_from_bin_tensors"))
extern(
    "data dependent: size or value is known at run time",
    *_overloads("nonzero", "masked_select", "_local_scalar_dense", "unique_consecutive", "_unique2", "_unique", "unique_dim", "unique_dim_consecutive", "nonzero_static", "allclose", "bincount", "repeat_interleave.Tensor", "equal"),
)
extern("check at run time", *_overloads("_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_functional_assert_async"))
