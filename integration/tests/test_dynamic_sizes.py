"""Sizes that change: symbolic at the second compile, not compiled again after that."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lamina


class Counting:
    """A backend that counts its calls."""

    def __init__(self, name):
        self.calls = 0
        self.inner = lamina.lookup_backend(name)

    def __call__(self, gm, example_inputs):
        self.calls += 1
        return self.inner(gm, example_inputs)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_changing_batch_compiles_twice(backend):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting)
    with torch.no_grad():
        for batch in (4, 7, 5, 12, 33):
            x = torch.randn(batch, 8)
            close(compiled(x), model(x))
    assert counting.calls == 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_dynamic_true_compiles_once(backend):
    def f(x, y):
        return (x @ y).softmax(-1).sum(0) * x.shape[0]

    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, dynamic=True)
    for n in (4, 7, 19):
        x, y = torch.randn(n, 6), torch.randn(6, 5)
        close(compiled(x, y), f(x, y))
    assert counting.calls == 1


def test_buffers_are_symbolic_once_they_have_changed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.randn(5))

        def forward(self, x):
            return x * self.scale.sum() + self.scale.shape[0]

    model, counting = Model(), Counting("eager")
    compiled = lamina.compile(model, backend=counting, dynamic=True)
    for n, calls in ((5, 1), (7, 2), (9, 2)):
        model.scale = torch.randn(n)
        for batch in (3, 4):
            x = torch.randn(batch)
            close(compiled(x), model(x))
        assert counting.calls == calls
    assert str(lamina.explain(model, dynamic=True)(torch.randn(3))).count(" now, range ") == 1  # the symbol of `x`


def test_dynamic_false_compiles_each_size():
    counting = Counting("eager")
    compiled = lamina.compile(lambda x: x * 2, backend=counting, dynamic=False)
    for n in (4, 7, 19):
        compiled(torch.randn(n))
    assert counting.calls == 3


def test_mark_dynamic():
    counting = Counting("eager")
    compiled = lamina.compile(lambda x: x * 2, backend=counting)
    for n in (4, 7):
        x = torch.randn(n, 3)
        lamina.mark_dynamic(x, 0)
        assert compiled(x).shape == (n, 3)
    assert counting.calls == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_training_at_changing_batch(backend):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting)
    for batch in (4, 7, 5):
        x = torch.randn(batch, 8)
        grads = []
        for call in (model, compiled):
            model.zero_grad()
            call(x).pow(2).sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        close(grads[1], grads[0])
    assert counting.calls == 2


def test_sequence_lengths_in_attention():
    def f(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    counting = Counting("aot_eager")
    compiled = lamina.compile(f, backend=counting)
    for s in (5, 9, 13):
        q, k, v = (torch.randn(2, 4, s, 8) for _ in range(3))
        close(compiled(q, k, v), f(q, k, v))
    assert counting.calls == 2


def test_the_limit_of_recompiles_leads_to_eager_with_one_warning():
    compiled = lamina.compile(lambda x, k: x * len(k), backend="eager")
    with pytest.warns(RuntimeWarning) as caught:
        for k in range(20):
            x = torch.ones(2)
            assert torch.equal(compiled(x, "a" * k), x * k)
    assert len(caught) == 1 and "8" in str(caught[0].message)


INTERPOLATIONS = {
    "nearest to a size": lambda x: nn.functional.interpolate(x, size=(x.shape[2] * 2, x.shape[3] + 1)),
    "nearest by a factor": lambda x: nn.functional.interpolate(x, scale_factor=2),
    "bilinear to a size": lambda x: nn.functional.interpolate(x[..., :2, :2], size=x.shape[-2:], mode="bilinear"),
    "bilinear, aligned": lambda x: nn.functional.interpolate(x, scale_factor=(2.0, 1.5), mode="bilinear", align_corners=True),
    "bilinear down, recomputed": lambda x: nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", recompute_scale_factor=True),
    "bicubic": lambda x: nn.functional.interpolate(x, size=[x.shape[2] // 2, 7], mode="bicubic"),
    "antialiased": lambda x: nn.functional.interpolate(x, size=(x.shape[2] // 2, 7), mode="bilinear", antialias=True),
    "area": lambda x: nn.functional.interpolate(x, size=(x.shape[2] // 2, 3), mode="area"),
    "linear": lambda x: nn.functional.interpolate(x.flatten(2), scale_factor=3, mode="linear"),
    "nearest-exact": lambda x: nn.functional.interpolate(x, scale_factor=1.25, mode="nearest-exact"),
}


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_interpolation(name, backend):
    f = INTERPOLATIONS[name]
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for batch, height, width in ((2, 8, 10), (3, 10, 12), (4, 14, 9), (5, 9, 11)):
        x, y = (torch.linspace(-1, 1, batch * 3 * height * width).sin().view(batch, 3, height, width).requires_grad_() for _ in range(2))
        expected, got = f(x), compiled(y)
        close(got, expected)
        expected.square().sum().backward()
        got.square().sum().backward()
        close(y.grad, x.grad)
    assert counting.calls == 2


RECURRENT = {
    "lstm": lambda: nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
    "lstm without biases": lambda: nn.LSTM(6, 5, bias=False),
    "gru": lambda: nn.GRU(6, 5, 2, batch_first=True),
    "rnn": lambda: nn.RNN(6, 5, nonlinearity="relu", bidirectional=True),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_at_changing_batch(name, training):
    model = RECURRENT[name]()
    batch_dim = 0 if getattr(model, "batch_first", False) else 1
    counting = Counting("aot_eager")
    compiled = lamina.compile(model, backend=counting, fullgraph=True)
    for batch in (3, 4, 6, 5):
        x, y = (torch.arange(batch * 42.0).sin().view(7, batch, 6).transpose(0, 1 - batch_dim).requires_grad_(training) for _ in range(2))
        with torch.set_grad_enabled(training):
            expected, got = model(x), compiled(y)
        close(got, expected)
        if training:
            gradients = []
            for out, given in ((expected, x), (got, y)):
                model.zero_grad()
                out[0].square().sum().backward()
                gradients.append([given.grad, *[p.grad.clone() for p in model.parameters()]])
            close(gradients[1], gradients[0])
    assert counting.calls == 2


def test_lstm_at_changing_length_is_one_operator_per_layer():
    model = nn.LSTM(6, 5, 2)
    counting = Counting("aot_eager")
    compiled = lamina.compile(model, backend=counting, fullgraph=True)
    with torch.no_grad():
        for length, batch in ((3, 2), (5, 3), (9, 4)):
            x = torch.randn(length, batch, 6)
            close(compiled(x), model(x))
    assert counting.calls == 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_tensors_made_of_sizes(backend):
    def f(x):
        return x * torch.tensor(x.shape[0]) + torch.tensor([x.shape[0], 3, x.shape[1] / 2]).sum() + torch.div(x.shape[0], 2, rounding_mode="trunc")

    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for shape in ((4, 3), (6, 5), (9, 7)):
        x = torch.randn(*shape)
        close(compiled(x), f(x))
    assert counting.calls == 2


def branch_on_eight(x):
    if x.shape[0] == 8:
        return x * 2
    return x + 1


def test_a_marked_size_that_is_made_constant_is_refused_with_the_line():
    x = torch.ones(8, 3)
    lamina.mark_dynamic(x, 0)
    with pytest.raises(lamina.exc.UserError, match=r"(?s)marked dynamic.*size\(\)\[0\] == 8.*test_dynamic_sizes.py:\d+ in branch_on_eight: +if x.shape\[0\] == 8"):
        lamina.compile(branch_on_eight, backend="eager")(x)


def test_a_marked_size_may_be_divisible_and_bounded():
    def f(x):
        return x.view(-1, 2) if x.shape[0] % 2 == 0 and x.shape[0] > 3 else x

    counting = Counting("eager")
    compiled = lamina.compile(f, backend=counting)
    for n in (8, 4, 12):
        x = torch.ones(n)
        lamina.mark_dynamic(x, 0, min=2, max=64)
        assert torch.equal(compiled(x), f(x))
    assert counting.calls == 1


def test_marks():
    x, y, z = torch.ones(8, 3), torch.ones(8, 3), torch.ones(8, 3)
    lamina.maybe_mark_dynamic(x, 0)
    assert torch.equal(lamina.compile(branch_on_eight, backend="eager")(x), x * 2)  # may be made constant
    lamina.mark_static(y)
    torch._dynamo.mark_static(z, 0)
    for t, symbols in ((y, 0), (z, 1)):
        (sizes,) = lamina.explain(lambda t: t * 2, dynamic=True)(t).sizes
        assert len(sizes.symbols) == symbols


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("foreign", [False, True])
def test_mark_unbacked(backend, foreign):
    """Nothing is assumed of the size, so one graph serves 0 and 1, too."""

    def f(x):
        return (x * 2 + x.shape[0]).sum(1)

    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for n in (5, 1, 0, 8):
        x = torch.randn(n, 3)
        if foreign:
            x._dynamo_unbacked_indices = {0}
        else:
            lamina.mark_unbacked(x, 0)
        close(compiled(x), f(x))
    assert counting.calls == 1


def test_a_branch_on_an_unbacked_size_is_a_break_with_the_line():
    x = torch.ones(8, 3)
    lamina.mark_unbacked(x, 0)
    with pytest.raises(lamina.exc.Unsupported, match=r"(?s)test_dynamic_sizes.py:\d+ in branch_on_eight: +if x.shape\[0\] == 8"):
        lamina.compile(branch_on_eight, backend="eager", fullgraph=True)(x)
    assert torch.equal(lamina.compile(branch_on_eight, backend="eager")(x), x * 2)


def test_explain_lists_sizes():
    def f(x, n):
        if x.shape[0] % 4 == 0:
            n = n + 1
        return x + torch.ones(x.shape[0], 3) * n

    x = torch.ones(8, 3)
    lamina.mark_dynamic(x, 0, max=64)
    lamina.maybe_mark_dynamic(x, 1)
    said = lamina.explain(f)(x, 2)
    (sizes,) = said.sizes
    assert [(s.hint, s.range, s.why) for s in sizes.symbols] == [(8, (2, 64), "marked"), (3, (3, 3), "marked")]
    assert sizes.guards[0].text == "L['x'].size()[0] % 4 == 0" and "if x.shape[0] % 4 == 0" in str(sizes.guards[0])
    assert sizes.specialised[0].text == "L['x'].size()[1] == 3" and "torch.ones" in str(sizes.specialised[0])
    assert "symbols:" in str(said) and "made constant:" in str(said)


def asserted(x):
    torch._assert(x.shape[0] > 2, f"got {x.shape} and {x.shape[1]:4d}")
    return x * 2


NUMBERS = {
    "sizes in the message of an assertion": asserted,
    "the root of a square": lambda x: x[:, :2].repeat(x.shape[0], 1).view(int(math.sqrt(x.shape[0] * x.shape[0])), -1),
    "a size over itself": lambda x: x * max(x.shape[0] / x.shape[0], 1.0),
    "tensor of a size as a bound": lambda x: x[torch.tensor(x.shape[0]) - 3 : torch.tensor(max(x.shape)) + 1],
    "tensor of a size in a test": lambda x: x * 2 if torch.tensor(x.shape[0]) > 2 else x,
    "item of a tensor of sizes": lambda x: torch.ones(torch.minimum(torch.tensor(x.shape[0]), torch.tensor(5)).item(), 3),
    "linspace": lambda x: x + torch.linspace(-1, 1, x.shape[0])[:, None],
    "index by a size": lambda x: x * x[x.shape[0] - 1] + x[..., x.shape[1] - 1 :],
    "size as a factor": lambda x: x * x.shape[0] / x.shape[1] ** 0.5,
    "graph of sizes alone": lambda x: torch.ones(x.shape[0], x.shape[1]),
    "mean over a fraction": lambda x: x[: x.shape[0] // 2].mean(0) * torch.full((), x.shape[0] * 2.0),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", NUMBERS)
def test_sizes_as_numbers(name, backend):
    f = NUMBERS[name]
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for shape in ((4, 3), (6, 5), (9, 7), (11, 6)):
        x = torch.randn(*shape)
        close(compiled(x), f(x))
    assert counting.calls == 2


IN_PLACE = {
    "hardswish": lambda x: nn.functional.hardswish(x * 2, inplace=True),
    "clamp and add": lambda x: (x * 1).clamp_(min=-0.5).add_(x.mean(0)).mul_(2),
    "gelu cell": lambda x: (x * 1).sigmoid_().masked_fill_(x > 0, 0.0).copy_(x[0]),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_at_changing_sizes(name):
    counting = Counting("aot_eager")
    compiled = lamina.compile(IN_PLACE[name], backend=counting, fullgraph=True)
    for shape in ((4, 3), (6, 5), (9, 7)):
        x = torch.randn(*shape)
        close(compiled(x), IN_PLACE[name](x))
    assert counting.calls == 2


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_recurrent_cells_at_changing_batch(cell):
    model = cell(6, 5)
    counting = Counting("aot_eager")
    compiled = lamina.compile(model, backend=counting, fullgraph=True)
    for batch in (3, 4, 6):
        x = torch.randn(batch, 6)
        close(compiled(x), model(x))
    assert counting.calls == 2


def test_what_the_compiler_of_the_backward_asks_is_guarded():
    from lamina_aotgrad import aot_function, run_graph

    parities = []

    def compiler(gm, fake_inputs, *, kind, signature):
        if kind == "backward":
            parities.append(bool(next(s for t in fake_inputs if isinstance(t, torch.Tensor) for s in t.shape if isinstance(s, torch.SymInt)) % 2 == 0))
        return run_graph(gm, fake_inputs, kind=kind, signature=signature)

    compiled = lamina.compile(lambda x: x.sin().exp(), backend=lambda gm, inputs: aot_function(gm, inputs, fw_compiler=compiler), dynamic=True)
    for n in (6, 8, 7, 4, 9):
        x = torch.randn(n, 3, requires_grad=True)
        compiled(x).sum().backward()
    assert parities == [True, False]


def test_a_tensor_that_comes_when_sizes_change_is_symbolic_at_once():
    def step(ids, cache=None):
        new = ids.unsqueeze(-1) * torch.ones(3)
        return new if cache is None else torch.cat([cache, new], 1)

    counting = Counting("aot_eager")
    compiled = lamina.compile(step, backend=counting)
    cache, want = compiled(torch.ones(1, 5)), step(torch.ones(1, 5))
    for n in range(6):
        ids = torch.full((1, 1), float(n))
        cache, want = compiled(ids, cache), step(ids, want)
        close(cache, want)
    assert counting.calls == 2


def test_the_number_of_elements_of_a_size():
    counting = Counting("aot_eager")
    f = lambda x: x.sum() / x.shape.numel() if x.shape.numel() > 0 else x
    compiled = lamina.compile(f, backend=counting, dynamic=True)
    for n in (4, 7, 5):
        x = torch.randn(n, 3)
        close(compiled(x), f(x))
    assert counting.calls == 1


def test_a_literal_expanded_to_a_symbolic_size():
    def f(x):
        return x * torch.tensor(1.5).expand(x.shape[0])[:, None]

    counting = Counting("aot_eager")
    compiled = lamina.compile(f, backend=counting, dynamic=True)
    for n in (4, 7, 5):
        x = torch.randn(n, 3)
        close(compiled(x), f(x))
    assert counting.calls == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_size_that_is_equal_by_chance_when_it_first_comes(backend):
    """A batch of 3 and three heads in a tensor that a module made at its first call."""

    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias, self.made = nn.Parameter(torch.randn(3, 1)), {}

        def forward(self, x):
            if "cpu" not in self.made:
                self.made["cpu"] = self.bias.detach() * 2
            return x + self.made["cpu"]

    model = Biased()
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting)
    for batch in (2, 3, 5, 4):
        x = torch.randn(batch, 3, 4)
        close(compiled(x), model(x))
    assert counting.calls == 2


def grow(x):
    return torch.cat([x, x[:1]]) * 2


def test_frames_that_are_first_met_when_sizes_have_changed():
    """The break comes with the second size: what stands behind it was not there to be compared."""

    def f(x):
        if x.shape[0] == 4:
            return grow(x) + 1
        lamina.graph_break()
        return grow(x) - x.shape[0]

    counting = Counting("aot_eager")
    compiled = lamina.compile(f, backend=counting)
    compiles = []
    for n in (4, 5, 7, 9):
        before = counting.calls
        x = torch.randn(n, 3)
        close(compiled(x), f(x))
        compiles.append(counting.calls > before)
    assert compiles == [True, True, False, False]


SPECTRA = {
    "centred": lambda x: torch.stft(x, 16, 4, window=torch.hann_window(16), return_complex=True),
    "plain": lambda x: torch.stft(x, 12, return_complex=True, center=False),
    "narrow window": lambda x: torch.stft(x, 16, 5, 10, window=torch.hann_window(10), normalized=True, return_complex=True),
    "two-sided": lambda x: torch.stft(x[0], 16, onesided=False, return_complex=True),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_short_time_fourier_transforms(name):
    f = SPECTRA[name]
    counting = Counting("aot_eager")
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for batch, length in ((2, 64), (3, 80), (4, 101)):
        x = torch.randn(batch, length)
        got, want = compiled(x), f(x)
        close(got, want)
        assert got.stride() == want.stride()
    assert counting.calls == 2


def test_the_fast_path_of_encoder_layers():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    counting = Counting("aot_eager")
    compiled = lamina.compile(model, backend=counting, fullgraph=True)
    with torch.no_grad():
        for batch, length in ((2, 6), (3, 8), (4, 5)):
            x = torch.randn(batch, length, 16)
            close(compiled(x), model(x))
    assert counting.calls == 2


@pytest.mark.parametrize("options", [{"need_weights": False}, {}, {"average_attn_weights": False}])
def test_the_fast_path_of_attention(options):
    model = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    counting = Counting("aot_eager")
    compiled = lamina.compile(lambda x: model(x, x, x, **options), backend=counting, fullgraph=True)
    with torch.no_grad():
        for batch, length in ((2, 6), (3, 8), (4, 5)):
            x = torch.randn(batch, length, 16)
            for got, want in zip(compiled(x), model(x, x, x, **options), strict=True):
                assert (got is None) == (want is None)
                if want is not None:
                    close(got, want)
    assert counting.calls == 2


@torch.jit.script_if_tracing
def halved(x, n: int):
    return x[: n // 2]


def test_script_if_tracing():
    counting = Counting("eager")
    f = lambda x: halved(x, x.shape[0]) * 2
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for n in (4, 7, 9, 12):
        x = torch.randn(n)
        close(compiled(x), f(x))
    assert counting.calls == 2


def test_a_tensor_that_comes_with_another_number_of_dimensions():
    class Grid(nn.Module):
        def __init__(self):
            super().__init__()
            self.grid = torch.zeros(1)

        def forward(self, x):
            if self.grid.shape[-1] != x.shape[0]:
                self.grid = torch.arange(x.shape[0]).expand(2, -1) * 1.0
            return x + self.grid.sum(0)

    model = Grid()
    counting = Counting("aot_eager")
    compiled = lamina.compile(model, backend=counting)
    for n in (4, 6, 9, 7):
        x = torch.randn(n)
        close(compiled(x), model(x))
        model.grid = model.grid.clone()
    assert counting.calls <= 3


def test_what_is_known_of_sizes_is_part_of_a_cached_graphs_key(monkeypatch, tmp_path):
    """Both ways of the branch have the same graph; on one of them a size is known to be 1."""
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))

    def f(a):
        if a.shape[0] // 2 == 1:
            return a[: a.shape[0] // 2].sum(0) * 2
        return a[: a.shape[0] // 2].sum(0) * 2

    compiled = lamina.compile(f, dynamic=True)
    for n in (3, 5, 2, 8):
        ours, theirs = torch.ones(n, 4, requires_grad=True), torch.ones(n, 4, requires_grad=True)
        compiled(ours).sum().backward()
        f(theirs).sum().backward()
        assert torch.equal(ours.grad, theirs.grad)


def test_real_numbers_of_sizes_leave_a_compiled_graph():
    def f(x):
        n = x.shape[1]
        return x * 2, n**-0.5, math.sqrt(n), abs(n / 3 - 2), min(n / 2, 3.5), max(n / 4, 1.5)

    compiled = lamina.compile(f, dynamic=True)
    for n in (5, 9, 16):
        x = torch.randn(3, n)
        got, want = compiled(x), f(x)
        close(got[0], want[0])
        assert got[1:] == want[1:]


def test_attention_trains_at_any_head_size():
    def f(q, k):
        return F.scaled_dot_product_attention(q[None], k[None], k[None])

    compiled = lamina.compile(f, dynamic=True)
    for n, e in ((5, 7), (8, 16), (4, 3)):
        torch.manual_seed(n)
        ours = [torch.randn(m, e, requires_grad=True) for m in (n, n + 2)]
        theirs = [t.detach().clone().requires_grad_() for t in ours]
        close(compiled(*ours), f(*theirs))
        compiled(*ours).sum().backward()
        f(*theirs).sum().backward()
        for a, b in zip(ours, theirs, strict=True):
            close(a.grad, b.grad)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_real_number_computed_before_a_cut(backend):
    def step(p, g, lr):
        p.mul_(1 - lr * 0.01).add_(g.sign(), alpha=-lr)
        return g.sum().item()

    compiled = lamina.compile(step, backend=backend)
    p, q = torch.ones(3), torch.ones(3)
    for lr in (0.1, 0.2, 0.3):
        g = torch.randn(3)
        assert math.isclose(compiled(p, g, lr), step(q, g, lr), rel_tol=1e-5, abs_tol=1e-6)
        close(p, q)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_backward_whose_operator_takes_no_symbolic_sizes(backend):
    def f(theta, x):
        return (torch.nn.functional.affine_grid(theta, x.size(), align_corners=False) * 2).sin()

    compiled = lamina.compile(f, backend=backend)
    for n in (4, 5, 6):
        theta, x = torch.randn(2, 2, 3, requires_grad=True), torch.zeros(2, 1, n, n + 1)
        got, = torch.autograd.grad(compiled(theta, x).sum(), theta)
        want, = torch.autograd.grad(f(theta, x).sum(), theta)
        close(got, want)


PROGRAMS = {
    "every second column": lambda a: (a * 1.5)[..., ::2],
    "transposed part": lambda a: (a * 1.5)[:, : a.shape[1] // 2 + 1].t(),
    "diagonal": lambda a: (a + 1).diagonal(),
    "expanded": lambda a: a.sum(0).expand(3, -1),
    "variance": lambda a: a.var(0, unbiased=False) + a.std(1, unbiased=False).sum(),
    "halves": lambda a: a[: a.shape[0] // 2].sum(0) - a[a.shape[0] // 2 :].sum(0),
    "unfolded": lambda a: a.unfold(1, 2, 1) * 2,
    "mean over all": lambda a: a / a.shape[0] ** 0.5 + a.mean(),
}


@pytest.mark.parametrize("name", list(PROGRAMS))
@pytest.mark.parametrize("dynamic", [None, True])
def test_gradients_that_are_expanded(name, dynamic):
    """`sum().backward()` gives a gradient of strides 0, whatever the layout that the backward was compiled for."""
    f = PROGRAMS[name]
    compiled = lamina.compile(f, dynamic=dynamic)
    for n, m in ((3, 16), (5, 4), (2, 3), (6, 7)):
        torch.manual_seed(n)
        ours = torch.randn(n, m, requires_grad=True)
        theirs = ours.detach().clone().requires_grad_()
        compiled(ours).sum().backward()
        f(theirs).sum().backward()
        close(ours.grad, theirs.grad)
