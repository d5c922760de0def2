"""PyTorch's composite functions whose C++ wants plain numbers or branches on values, written out for fake tensors.

Between: a function of a torch graph -> `symbolic_form`, which whoever runs the graph on fakes calls instead.
Keeps:   the same operators as the C++ composite runs, in its order; what neither is symbolic nor asks for values runs the original.
Source:  ATen/native/UpSample*.cpp, ATen/native/AffineGridGenerator.cpp, ATen/native/PackedSequence.cpp, ATen/native/RNN.cpp, ATen/native/Correlation.cpp, ATen/native/SpectralOps.cpp, ATen/native/LinearAlgebra.cpp (matmul, up to torch
         2.11), ATen/native/Linear.cpp, torch/nn/functional.py (which arguments mean what).
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["is_symbolic_refusal", "symbolic_form"]

aten = torch.ops.aten
_REFUSALS = ("with symbolic sizes/strides", "SymIntArrayRef expected to contain only concrete integers", "SymInt to be concrete")
_FORMS: dict[Any, Callable[..., Any]] = {}


def symbolic_form(function: Any) -> Any:
    """What to call in place of a torch function when sizes may be symbolic: itself, unless its C++ refuses them."""
    try:
        return _FORMS.get(function, function)
    except TypeError:  # not hashable
        return function


def is_symbolic_refusal(error: RuntimeError) -> bool:
    """Whether PyTorch's C++ raised because it met a symbolic size where it takes a plain one."""
    text = str(error).partition("\n")[0]
    return any(phrase in text for phrase in _REFUSALS)


def _form(original: Any, *, of_any_size: bool = False) -> Callable[[Any], Any]:
    """Register the form of a function; it returns NotImplemented for what the original should say or do. `of_any_size`: it serves plain sizes, too."""

    def register(form: Any) -> Any:
        @functools.wraps(form)
        def run(*args: Any, **kwargs: Any) -> Any:
            result = form(*args, **kwargs) if of_any_size or _symbolic([*args, *kwargs.values()]) else NotImplemented
            return original(*args, **kwargs) if result is NotImplemented else result

        _FORMS[original] = run
        return form

    return register


def _symbolic(value: Any) -> bool:
    if isinstance(value, Tensor):
        return any(type(s) is not int for s in value.shape)
    if isinstance(value, (list, tuple)):
        return any(map(_symbolic, value))
    return isinstance(value, (torch.SymInt, torch.SymFloat))


# ---- interpolation -------------------------------------------------------------------------------------------------------
_UPSAMPLE = {
    ("nearest", 1): aten.upsample_nearest1d.default, ("nearest", 2): aten.upsample_nearest2d.default,
    ("nearest", 3): aten.upsample_nearest3d.default, ("nearest-exact", 1): aten._upsample_nearest_exact1d.default,
    ("nearest-exact", 2): aten._upsample_nearest_exact2d.default, ("nearest-exact", 3): aten._upsample_nearest_exact3d.default,
    ("linear", 1): aten.upsample_linear1d.default, ("bilinear", 2): aten.upsample_bilinear2d.default,
    ("bicubic", 2): aten.upsample_bicubic2d.default, ("trilinear", 3): aten.upsample_trilinear3d.default,
}  # fmt: skip
_ANTIALIASED = {"bilinear": aten._upsample_bilinear2d_aa.default, "bicubic": aten._upsample_bicubic2d_aa.default}


@_form(torch.nn.functional.interpolate)
def _interpolate(
    input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Any:
    spatial = input.dim() - 2
    operator = _ANTIALIASED.get(mode) if antialias else _UPSAMPLE.get((mode, spatial))
    if operator is None or (size is None) == (scale_factor is None):
        return NotImplemented
    given = list(size if size is not None else scale_factor) if isinstance(size or scale_factor, Sequence) else [size or scale_factor] * spatial
    if len(given) != spatial or (antialias and spatial != 2) or (align_corners is not None and "nearest" in mode):
        return NotImplemented
    if size is not None:
        output, scales = given, [None] * spatial
    else:
        output = [math.floor(n * float(f)) for n, f in zip(input.shape[2:], given, strict=True)]
        scales = [None] * spatial if recompute_scale_factor else [float(f) for f in given]
    corners = () if "nearest" in mode else (bool(align_corners),)
    return operator(input, output, *corners, *scales)


# ---- matrix products -----------------------------------------------------------------------------------------------------
@_form(operator.matmul)
@_form(torch.Tensor.__matmul__)
@_form(torch.Tensor.matmul)
@_form(torch.matmul)
def _matmul(input: Tensor, other: Tensor, *, out: Tensor | None = None) -> Any:
    if not isinstance(input, Tensor) or not isinstance(other, Tensor) or out is not None or max(input.dim(), other.dim()) < 3 or min(input.dim(), other.dim()) < 1:
        return NotImplemented
    swapped = other.dim() > input.dim()
    batch, single = (other.mT, input) if swapped else (input, other)
    return _folded_product(batch, single, swapped) if _folds(batch, single, swapped) else _batched_product(input, other)


def _folds(batch: Tensor, single: Tensor, swapped: bool) -> bool:
    """Whether C++ views the batch as one matrix: always for the sake of a gradient, else where that takes no copy."""
    if single.dim() > 2:
        return False
    if single.requires_grad:
        return True
    if swapped and single.dim() == 2:
        return False
    if batch.numel() == 0:
        return True
    size, stride = batch.shape, batch.stride()
    return all(size[i] == 1 or stride[i] == stride[i + 1] * size[i + 1] for i in range(batch.dim() - 2))


def _folded_product(batch: Tensor, single: Tensor, swapped: bool) -> Tensor:
    """The batch as one matrix times a matrix or vector."""
    matrix = single.t() if swapped and single.dim() == 2 else single
    folded = batch.reshape(math.prod(batch.shape[:-1]), batch.shape[-1])
    product = torch.mm(folded, matrix) if matrix.dim() == 2 else torch.mv(folded, matrix)
    result = aten._unsafe_view.default(product, [*batch.shape[:-1], *matrix.shape[1:]])
    return result.mT.contiguous() if swapped and matrix.dim() == 2 else result


def _batched_product(input: Tensor, other: Tensor) -> Tensor:
    """Matrices of both, broadcast against each other."""
    if input.dim() == other.dim() == 3:  # C++ does so where a gradient is wanted, and under a mode always
        if other.shape[0] == 1 != input.shape[0]:
            return _matmul(input, other.squeeze(0))
        if input.shape[0] == 1 != other.shape[0]:
            return _matmul(input.squeeze(0), other)
    sizes = torch.broadcast_shapes(input.shape[:-2], other.shape[:-2])
    left = input if input.dim() > 1 else input.unsqueeze(0)
    right = other if other.dim() > 1 else other.unsqueeze(-1)
    product = torch.bmm(*[m.expand(*sizes, *m.shape[-2:]).reshape(math.prod(sizes), *m.shape[-2:]) for m in (left, right)])
    columns = other.shape[-1:] if other.dim() > 1 else ()
    return aten._unsafe_view.default(product if columns else product.squeeze(-1), [*sizes, *input.shape[-2:-1], *columns])


@_form(torch.nn.functional.linear)
def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Where C++ takes the product and then adds the bias."""
    if input.dim() < 3 or weight.dim() != 2 or (bias is not None and input.dim() == 3 and input.is_contiguous()):
        return NotImplemented
    result = symbolic_form(torch.matmul)(input, weight.t())
    return result if bias is None else torch.add(result, bias)


_apply_linear = symbolic_form(torch.nn.functional.linear)


# ---- factories -----------------------------------------------------------------------------------------------------------
@_form(torch.linspace)
def _linspace(start: Any, end: Any, steps: Any, **options: Any) -> Any:
    """From both ends towards the middle, as the kernel of ATen/native/cpu/RangeFactoriesKernel.cpp counts."""
    dtype = options.pop("dtype", None) or torch.get_default_dtype()
    if isinstance(start, Tensor) or isinstance(end, Tensor) or not dtype.is_floating_point or options.pop("out", None) is not None:
        return NotImplemented
    at = torch.arange(steps, dtype=dtype, **options)
    if steps == 1:
        return at + start
    step = (end - start) / (steps - 1)
    return torch.where(at < steps // 2, start + step * at, end - step * (steps - 1 - at))


@_form(torch.nn.functional.affine_grid)
@_form(torch.affine_grid_generator)
def _affine_grid(theta: Tensor, size: Sequence[Any], align_corners: bool | None = None) -> Any:
    """Products with the coordinates (x, y, (z,) 1) of every result element."""
    batch, inner = size[0], list(size[2:])
    if len(inner) not in (2, 3) or theta.shape != (batch, len(inner), len(inner) + 1) or not theta.is_floating_point():
        return NotImplemented
    if align_corners is None or any(n <= 0 or (align_corners and n == 1) for n in size):  # eager warns or raises
        return NotImplemented
    axes = [_from_minus_one(theta, n, align_corners).view(n, *[1] * (len(inner) - 1 - d)).expand(inner) for d, n in enumerate(inner)]
    base = torch.stack([*axes[::-1], torch.ones_like(axes[0])], -1).view(1, -1, len(inner) + 1).expand(batch, -1, -1)
    return base.bmm(theta.transpose(1, 2)).view(batch, *inner, len(inner))


def _from_minus_one(like: Tensor, steps: Any, align_corners: bool) -> Tensor:
    """Places from -1 to 1: of the corners, or of the middles of the elements."""
    if steps == 1:
        return like.new_zeros(1)
    places = symbolic_form(torch.linspace)(-1, 1, steps, dtype=like.dtype, device=like.device)
    return places if align_corners else places * (steps - 1) / steps


# ---- sequences -----------------------------------------------------------------------------------------------------------
@_form(torch._C._nn.pad_sequence)
def _pad_sequence(sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right") -> Any:
    """(length, ...) each, filled up to the longest."""
    first = sequences[0]
    if padding_side not in ("left", "right") or any(s.shape[1:] != first.shape[1:] or s.dtype is not first.dtype for s in sequences):
        return NotImplemented
    longest = functools.reduce(torch.sym_max, [s.shape[0] for s in sequences])
    inner = [0, 0] * (first.dim() - 1)
    missing = [longest - s.shape[0] for s in sequences]
    padded = [torch.nn.functional.pad(s, [*inner, *((n, 0) if padding_side == "left" else (0, n))], value=padding_value) for s, n in zip(sequences, missing, strict=True)]
    return torch.stack(padded, 0 if batch_first else 1)


# ---- spectra -------------------------------------------------------------------------------------------------------------
@_form(torch.stft)
def _stft(
    input: Tensor, n_fft: int, hop_length: Any = None, win_length: Any = None, window: Tensor | None = None, center: bool = True, pad_mode: str = "reflect",
    normalized: bool = False, onesided: bool | None = None, return_complex: bool | None = None, align_to_window: bool | None = None,
) -> Any:
    """Frames that overlap, each times the window, and their transforms."""
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    ordinary = return_complex and align_to_window is None and input.dim() in (1, 2) and input.is_floating_point() and 0 < width <= n_fft and hop > 0
    if not ordinary or (window is None and width != n_fft) or (window is not None and (window.is_complex() or window.dim() != 1 or window.shape[0] != width)):
        return NotImplemented
    x = input if input.dim() == 2 else input.unsqueeze(0)
    if center:
        x = torch.nn.functional.pad(x.unsqueeze(0), [n_fft // 2, n_fft // 2], pad_mode).squeeze(0)
    if x.shape[1] < n_fft:
        return NotImplemented
    frames = x.unfold(1, n_fft, hop)
    if window is not None:
        left = (n_fft - width) // 2
        frames = frames * torch.nn.functional.pad(window, [left, n_fft - width - left])
    transform = torch.fft.fft if onesided is False else torch.fft.rfft
    out = transform(frames, norm="ortho" if normalized else None).transpose(1, 2)
    return out if input.dim() == 2 else out.squeeze(0)


@_form(torch.istft, of_any_size=True)
@_form(torch.Tensor.istft, of_any_size=True)
def _istft(
    input: Tensor, n_fft: int, hop_length: Any = None, win_length: Any = None, window: Tensor | None = None, center: bool = True, normalized: bool = False,
    onesided: bool | None = None, length: Any = None, return_complex: bool = False,
) -> Any:
    """Inverse transforms, windowed, added where they overlap, over the overlapping squares of the window; those are checked when the graph runs."""
    hop, width = hop_length or n_fft // 4, win_length or n_fft
    one_sided = not return_complex and 2 * (input.shape[-2] - 1) == n_fft if onesided is None else onesided
    ordinary = input.is_complex() and input.dim() in (2, 3) and 0 < hop <= width <= n_fft and not (one_sided and return_complex)
    wrong = input.numel() == 0 or input.shape[-2] != (n_fft // 2 + 1 if one_sided else n_fft)
    if not ordinary or wrong or (window is not None and (window.is_complex() and not return_complex or window.shape != (width,))):
        return NotImplemented
    x = (input if input.dim() == 3 else input.unsqueeze(0)).transpose(1, 2)
    norm = "ortho" if normalized else None
    if return_complex:
        parts = torch.fft.ifft(x, norm=norm)
    else:
        parts = torch.fft.irfft(x if one_sided else x[..., : n_fft // 2 + 1], n_fft, norm=norm)
    given = torch.ones(width, dtype=input.dtype.to_real(), device=input.device) if window is None else window
    left = (n_fft - width) // 2
    padded = torch.nn.functional.pad(given, [left, n_fft - width - left]) if width != n_fft else given
    return _overlapped(parts * padded.view(1, 1, n_fft), padded, hop, center, length, input.dim() == 2)


def _overlapped(parts: Tensor, window: Tensor, hop: Any, center: bool, length: Any, single: bool) -> Any:
    """(batch, frame, sample) added up, over the window's weights there."""
    frames, n_fft = parts.shape[1:]
    whole = n_fft + hop * (frames - 1)
    start = n_fft // 2 if center else 0
    end = whole - n_fft // 2 if length is None and center else whole if length is None else start + length
    if end > whole:
        return NotImplemented  # eager fills up with zeros, and warns
    squares = window.pow(2).expand(1, frames, n_fft)
    sums, weights = (aten.unfold_backward.default(t, [t.shape[0], whole], 1, n_fft, hop)[:, start:end] for t in (parts, squares))
    torch._assert_async(weights.abs().min().ge(1e-11), "window overlap add min: 1")
    result = sums / weights
    return result.squeeze(0) if single else result


# ---- statistics ----------------------------------------------------------------------------------------------------------
@_form(torch.Tensor.cov, of_any_size=True)
@_form(torch.cov, of_any_size=True)
def _cov(input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None) -> Any:
    """Weights are checked when the graph runs; eager's warning that no degrees of freedom are left is not given there."""
    if input.dim() > 2 or input.dtype is torch.bool:
        return NotImplemented
    x = input.view(1, -1) if input.dim() < 2 else input
    count = x.shape[1]
    if any(w is not None and (w.dim() > 1 or w.numel() != count) for w in (fweights, aweights)) or count == 0:
        return NotImplemented
    if fweights is None and aweights is None:
        if count <= correction:
            return NotImplemented  # eager warns
        x = x - (x.sum(1) / count).unsqueeze(1)
        return torch.true_divide(_outer(x, x), count - correction).squeeze()
    w, total = _observation_weights(fweights, aweights)
    mean = (x * w).sum(1) / total
    norm = total - (correction * (w * aweights).sum() / total if aweights is not None and correction != 0 else correction)
    x = x - mean.unsqueeze(1)
    return torch.true_divide(_outer(x, x * w), torch.where(norm <= 0, torch.zeros_like(norm), norm)).squeeze()


def _outer(x: Tensor, weighted: Tensor) -> Tensor:
    """Sums of products over the observations; of a single complex variable they are real, and what rounding leaves else is dropped, as in C++."""
    product = torch.mm(x, weighted.t().conj())
    if x.shape[0] != 1 or not x.is_complex():
        return product
    real = torch.view_as_real(product).select(-1, 0)
    return torch.complex(real, torch.zeros_like(real))


def _observation_weights(fweights: Tensor | None, aweights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight of each observation, and their sum."""
    given = [(name, w) for name, w in (("fweights", fweights), ("aweights", aweights)) if w is not None]
    for name, w in given:
        torch._assert_async(w.min().ge(0), f"cov(): {name} cannot be negative")
    weight = functools.reduce(torch.mul, [w for _, w in given])
    total = weight.sum()
    torch._assert_async(total.ne(0), "cov(): weights sum to zero, can't be normalized")
    return weight, total


@_form(torch.Tensor.corrcoef, of_any_size=True)
@_form(torch.corrcoef, of_any_size=True)
def _corrcoef(input: Tensor) -> Any:
    c = _cov(input)
    if c is NotImplemented:
        return NotImplemented
    if c.dim() == 0:
        return c / c
    d = c.diagonal()
    deviation = (d.real if d.is_complex() else d).sqrt()
    c = c / deviation.view(-1, 1) / deviation.view(1, -1)
    return torch.complex(c.real.clip(-1, 1), c.imag.clip(-1, 1)) if c.is_complex() else c.clip(-1, 1)


# ---- normalisation -------------------------------------------------------------------------------------------------------
@_form(torch.nn.functional.batch_norm)
def _batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None,
    training: bool = False, momentum: Any = 0.1, eps: float = 1e-5,
) -> Any:
    """A momentum that depends on data (a cumulative average): the statistics of this batch, and then the averages."""
    if not isinstance(momentum, torch.SymFloat) or not training or running_mean is None or running_var is None:
        return NotImplemented
    averages = [(running, torch.zeros_like(running)) for running in (running_mean, running_var)]
    out = torch.nn.functional.batch_norm(input, *[batch for _, batch in averages], weight, bias, True, 1.0, eps)
    for running, batch in averages:
        running.copy_(batch * momentum + running * (1.0 - momentum))
    return out


# ---- losses --------------------------------------------------------------------------------------------------------------
@_form(torch.nn.functional.ctc_loss, of_any_size=True)
def _ctc_loss(
    log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False,
) -> Any:
    """The mean over targets whose lengths are numbers: C++ writes them to memory that fakes lack."""
    if isinstance(target_lengths, Tensor) or reduction != "mean":
        return NotImplemented
    losses = torch.nn.functional.ctc_loss(log_probs, targets, input_lengths, target_lengths, blank, "none", zero_infinity)
    return (losses / torch.tensor(target_lengths, dtype=losses.dtype, device=losses.device).clamp_min(1)).mean()


# ---- selections whose size follows from the operand's ---------------------------------------------------------------------
@_form(torch.combinations, of_any_size=True)
def _combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Any:
    """Positions in order, as the mask of C++ selects them; how many there are follows from the size."""
    if input.dim() != 1 or r < 2:
        return NotImplemented
    n = input.shape[0]
    count = math.prod(n + k if with_replacement else n - k for k in range(r)) // math.factorial(r)
    grids = torch.meshgrid(*[torch.arange(n, device=input.device)] * r, indexing="ij")
    ordered = [torch.le(a, b) if with_replacement else torch.lt(a, b) for a, b in itertools.pairwise(grids)]
    places = torch.nonzero_static(functools.reduce(torch.logical_and, ordered), size=count)
    return torch.stack([input.index_select(0, column) for column in places.unbind(1)], 1)


# ---- comparisons that end in a truth -------------------------------------------------------------------------------------
@_form(torch.Tensor.equal, of_any_size=True)
@_form(torch.equal, of_any_size=True)
def _equal(input: Tensor, other: Tensor) -> Any:
    if _are_known(input, other) or not _comparable(input, other):
        return NotImplemented
    return input.shape == other.shape and torch.eq(input, other).all().item()


@_form(torch.Tensor.allclose, of_any_size=True)
@_form(torch.allclose, of_any_size=True)
def _allclose(input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Any:
    return NotImplemented if _are_known(input, other) else torch.isclose(input, other, rtol, atol, equal_nan).all().item()


def _are_known(*tensors: Tensor) -> bool:
    return all(getattr(t, "constant", None) is not None for t in tensors)


def _comparable(input: Tensor, other: Tensor) -> bool:
    """Whether `equal` takes these, which promotes nothing."""
    return isinstance(other, Tensor) and input.dtype is other.dtype and input.device == other.device


# ---- recurrent layers ----------------------------------------------------------------------------------------------------
_LSTM_MODE = 2  # of mkldnn_rnn_layer
_PAIR = tuple[Tensor, Tensor]


def _weights(params: Sequence[Tensor], has_biases: bool) -> list[list[Tensor]]:
    """Parameters per layer and direction: input and hidden weights, then their biases."""
    each = 4 if has_biases else 2
    return [list(params[i : i + each]) for i in range(0, len(params), each)]


def _layers(
    x: Tensor, params: Sequence[Tensor], has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool, one: Callable[[Tensor, list[Tensor], int, bool], tuple[Tensor, Any]],
) -> tuple[Tensor, list[Any]]:
    """Stacked layers of one or two directions; `one(input, weights, index, reverse)` runs one of them over (time, batch, features)."""
    directions = 2 if bidirectional else 1
    weights, last = _weights(params, has_biases), []
    x = x.transpose(0, 1) if batch_first else x
    for layer in range(num_layers):
        outputs = []
        for d in range(directions):
            at = layer * directions + d
            y, state = one(x, weights[at], at, d == 1)
            outputs.append(y)
            last.append(state)
        x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        if dropout and train and layer < num_layers - 1:
            x = torch.dropout(x, dropout, train)
    return (x.transpose(0, 1) if batch_first else x), last


def _over_time(x: Tensor, weights: list[Tensor], state: Any, reverse: bool, step: Callable[..., Any]) -> tuple[Tensor, Any]:
    """One direction, unrolled: the length becomes a constant. `step(input part, hidden weights and bias, state) -> (output, state)`."""
    bias = weights[2] if len(weights) > 2 else None
    parts = _apply_linear(x, weights[0], bias).unbind(0)
    outputs = []
    for part in reversed(parts) if reverse else parts:
        output, state = step(part, weights[1], weights[3] if len(weights) > 3 else None, state)
        outputs.append(output)
    return torch.stack(outputs[::-1] if reverse else outputs), state


def _lstm_step(part: Tensor, hidden: Tensor, bias: Tensor | None, state: _PAIR) -> tuple[Tensor, _PAIR]:
    h, c = state
    i, f, g, o = (part + _apply_linear(h, hidden, bias)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, (h, c)


def _gru_step(part: Tensor, hidden: Tensor, bias: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
    a, b = part.chunk(3, 1), _apply_linear(h, hidden, bias).chunk(3, 1)
    reset, update = (a[0] + b[0]).sigmoid(), (a[1] + b[1]).sigmoid()
    new = (a[2] + b[2] * reset).tanh()
    h = (h - new) * update + new
    return h, h


def _rnn_step(activation: Any, part: Tensor, hidden: Tensor, bias: Tensor | None, h: Tensor) -> tuple[Tensor, Tensor]:
    h = activation(part + _apply_linear(h, hidden, bias))
    return h, h


def _cell(step: Callable[..., Any]) -> Callable[..., Any]:
    def form(x: Tensor, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Any:
        return step(_apply_linear(x, w_ih, b_ih), w_hh, b_hh, state)[0]

    return form


_form(torch.gru_cell)(_cell(_gru_step))
_form(torch.rnn_tanh_cell)(_cell(functools.partial(_rnn_step, torch.tanh)))
_form(torch.rnn_relu_cell)(_cell(functools.partial(_rnn_step, torch.relu)))


@_form(torch.lstm_cell)
def _lstm_cell(x: Tensor, state: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None) -> Any:
    return _lstm_step(_apply_linear(x, w_ih, b_ih), w_hh, b_hh, tuple(state))[1]


@_form(torch.lstm)
def _lstm(x: Tensor, hx: Any, *rest: Any) -> Any:
    if isinstance(hx, Tensor) or not isinstance(x, Tensor):
        return NotImplemented  # packed: (data, batch_sizes, ...)
    params, has_biases, num_layers, dropout, train, bidirectional, batch_first = rest
    h0, c0 = hx
    if len(params) != num_layers * (2 if bidirectional else 1) * (4 if has_biases else 2) or x.dim() != 3:
        return NotImplemented  # projections, or wrong
    library = torch._C._get_mkldnn_enabled() and x.dtype is torch.float32 and x.device.type == "cpu"

    def one(x: Tensor, w: list[Tensor], at: int, reverse: bool) -> tuple[Tensor, _PAIR]:
        if not library:
            return _over_time(x, w, (h0[at], c0[at]), reverse, _lstm_step)
        biases = w[2:] if has_biases else [torch.zeros_like(w[0]), torch.zeros_like(w[1])]  # as the C++ composite passes them
        flags = (reverse, [], _LSTM_MODE, h0.shape[2], num_layers, has_biases, bidirectional, batch_first, train)
        y, h, c, _ = aten.mkldnn_rnn_layer.default(x.contiguous(), w[0], w[1], *biases, h0[at], c0[at], *flags)
        return y, (h, c)

    y, last = _layers(x, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, one)
    return y, torch.stack([h for h, _ in last]), torch.stack([c for _, c in last])


def _recurrent(step: Callable[..., Any]) -> Callable[..., Any]:
    def form(x: Any, h0: Any, *rest: Any) -> Any:
        if isinstance(rest[0], Tensor) or not isinstance(h0, Tensor) or x.dim() != 3:
            return NotImplemented  # packed
        params, has_biases, num_layers, dropout, train, bidirectional, batch_first = rest

        def one(x: Tensor, w: list[Tensor], at: int, reverse: bool) -> tuple[Tensor, Tensor]:
            return _over_time(x, w, h0[at], reverse, step)

        y, last = _layers(x, params, has_biases, num_layers, dropout, train, bidirectional, batch_first, one)
        return y, torch.stack(last)

    return form


_form(torch.gru)(_recurrent(_gru_step))
_form(torch.rnn_tanh)(_recurrent(functools.partial(_rnn_step, torch.tanh)))
_form(torch.rnn_relu)(_recurrent(functools.partial(_rnn_step, torch.relu)))
