"""PyTorch's state set and read by compiled programs: results, what is left set, guards, and how many graphs and breaks it takes."""

import contextlib

import lamina_dynamo
import pytest
import torch
from lamina_dynamo.api import graph_break
from backends import BACKENDS
from lamina_dynshape.support.counters import counters
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._device import set_device


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    return BACKENDS[request.param]


def state():
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.get_default_dtype(), torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
        torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.mha.get_fastpath_enabled(), torch._C._len_torch_function_stack(), torch.is_autocast_cache_enabled(), torch.backends.opt_einsum.enabled,
    )  # fmt: skip


@contextlib.contextmanager
def restored():
    """Settings that programs leave set are put back."""
    threads, precision, device = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch._GLOBAL_DEVICE_CONTEXT
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
        torch._C._set_deterministic_algorithms(False, warn_only=False)
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_grad_enabled(True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = False
        torch.backends.mha.set_fastpath_enabled(True)
    assert device is torch._GLOBAL_DEVICE_CONTEXT


def describe(v):
    if isinstance(v, torch.Tensor):
        return [v.detach().clone(), v.dtype, v.device, v.requires_grad, v.is_inference(), v.stride()]
    if isinstance(v, (tuple, list)):
        return [describe(x) for x in v]
    return v


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a.nan_to_num(9), b.nan_to_num(9))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def check(program, *args, backend, breaks=0, graphs=None):
    """Two calls of the compiled program do what two calls of the program do."""
    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for _ in range(2):
        seen = []
        for f in (program, fast):
            torch.manual_seed(7)
            with restored():
                try:
                    got = describe(f(*args))
                except Exception as e:  # noqa: BLE001
                    got = [repr(e)]
                seen.append([got, state(), torch.get_rng_state()])
        assert same(*seen), (seen[0][:2], seen[1][:2])
    assert sum(counters["graph_breaks"].values()) == breaks, counters["graph_breaks"]
    if graphs is not None:
        assert counters["graphs"]["captured"] == graphs
    return fast


X = torch.linspace(-1, 1, 12).reshape(3, 4)
W = torch.linspace(-1, 1, 8).reshape(4, 2).requires_grad_()


# ---- inference mode ------------------------------------------------------------------------------------------------------
def inference_whole(x):
    with torch.inference_mode():
        y = x @ W
        return y.relu(), y, torch.is_inference_mode_enabled()


def inference_then_more(x):
    z = x @ W
    with torch.inference_mode():
        y = x.exp()
        v = y.view(-1)
        w = x.view(-1)
    return z, y, v, w, x + 1


def inference_off(x):
    with torch.inference_mode(mode=False):
        return x @ W, torch.is_grad_enabled()


def inference_nested(x):
    with torch.inference_mode():
        a = x + 1
        with torch.inference_mode(False):
            b = x @ W
        c = x + 2
    return a, b, c, torch.is_inference_mode_enabled()


@torch.inference_mode()
def inference_decorated(x):
    return x @ W


@torch.inference_mode(False)
def inference_decorated_off(x):
    return x @ W


def calls_decorated(x):
    return inference_decorated(x), x @ W


def asks_inference(x):
    with torch.inference_mode():
        y = x + 1
    return y.is_inference(), x.is_inference(), y + 1


def saves_inference_tensor(x):
    with torch.inference_mode():
        y = x.exp()
    return y * W.sum()


def inference_alias(x):
    with torch.inference_mode():
        y = x.exp()
        v = y[1:]
        v.add_(1)
    return y, v


@pytest.mark.parametrize("program", [inference_whole, inference_then_more, inference_off, inference_nested, inference_decorated, inference_decorated_off, calls_decorated, asks_inference, inference_alias])
def test_inference_mode(program, backend):
    check(program, X, backend=backend, graphs=1)


def test_an_inference_tensor_saved_for_backward_raises(backend):
    counters.clear()
    fast = lamina_dynamo.optimize(saves_inference_tensor, backend)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        fast(X)


def test_outputs_of_inference_mode_share_memory(backend):
    fast = lamina_dynamo.optimize(inference_alias, backend)
    for _ in range(2):
        y, v = fast(X)
        with torch.inference_mode():
            v.zero_()
        assert y[1:].abs().sum() == 0 and y.is_inference() and v.is_inference()


def test_the_mode_at_the_call_is_guarded(backend):
    fast = check(inference_off, X, backend=backend)
    with torch.inference_mode():
        assert fast(X)[0].is_inference() == inference_off(X)[0].is_inference() is False
    assert not fast(X)[0].is_inference()


def breaks_in_inference_mode(x):
    with torch.inference_mode():
        y = x + 1
        graph_break()
        z = y * W.sum()
    return y, z, torch.is_inference_mode_enabled(), torch.is_grad_enabled(), x @ W


def breaks_in_nested_modes(x):
    with torch.no_grad(), torch.inference_mode():
        y = x + 1
        with torch.inference_mode(False):
            graph_break()
            z = y.clone() @ W
    return y, z, torch.is_inference_mode_enabled(), torch.is_grad_enabled(), x @ W


@pytest.mark.parametrize("program, breaks", [(breaks_in_inference_mode, 2), (breaks_in_nested_modes, 3)])
def test_breaks_inside(program, breaks, backend):
    check(program, X, backend=backend, breaks=breaks)


# ---- devices -------------------------------------------------------------------------------------------------------------
def device_context(x):
    with torch.device("cpu"):
        a = torch.ones(4)
        b = torch.tensor([1.0, 2.0])
    return x + a, b, torch.zeros(2)


def meta_context(x):
    with torch.device("meta"):
        a = torch.ones(4)
        with torch.device("cpu"):
            b = torch.ones(4)
    return a.shape, a.device, x + b, torch.zeros(2)


@set_device("cpu")
def device_decorated(x):
    return x + torch.arange(4)


def default_device_set(x):
    torch.set_default_device("cpu")
    return x + torch.ones(4), torch.get_default_device()


def default_device_set_and_reset(x):
    torch.set_default_device("meta")
    a = torch.ones(2).device
    torch.set_default_device(None)
    return x + torch.ones(4), a


def device_break(x):
    with torch.device("cpu"):
        a = torch.ones(4)
        graph_break()
        b = torch.zeros(4)
    return x + a, b, torch.ones(1)


@pytest.mark.parametrize("program, breaks", [(device_context, 0), (meta_context, 0), (device_decorated, 0), (default_device_set, 0), (default_device_set_and_reset, 0), (device_break, 1)])
def test_devices(program, breaks, backend):
    check(program, X, backend=backend, breaks=breaks)


def test_the_default_device_at_the_call_is_guarded(backend):
    def program(x):
        return torch.ones(x.shape[0]), torch.get_default_device()

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for device in (None, "cpu", "meta", "cpu", None):
        with restored():
            torch.set_default_device(device)
            assert same(describe(fast(X))[1:], describe(program(X))[1:]) and fast(X)[0].device == program(X)[0].device
    assert counters["graphs"]["captured"] == 2  # on "meta" it runs eagerly
    with torch.device("cpu"):
        assert fast(X)[1] == torch.device("cpu")


# ---- other settings ------------------------------------------------------------------------------------------------------
def dtype_set_back(x):
    torch.set_default_dtype(torch.float64)
    a, b, c = torch.ones(4), torch.arange(4) / 2, torch.tensor([1.5])
    d = torch.arange(4).sin()
    e = torch.rand(3)
    torch.set_default_dtype(torch.float32)
    return x + a, b, c, d, e, torch.ones(2)


def dtype_left_set(x):
    torch.set_default_dtype(torch.float64)
    return x + torch.ones(4), torch.get_default_dtype()


def grad_call(x):
    torch.set_grad_enabled(False)
    y = x @ W
    torch.set_grad_enabled(True)
    return y, x @ W


def grad_left_off(x):
    torch.set_grad_enabled(False)
    return x @ W


def grad_enabled_inside(x):
    with torch.no_grad():
        y = x @ W
        with torch.enable_grad():
            z = x @ W
    return y, z


def deterministic(x):
    torch.use_deterministic_algorithms(True, warn_only=True)
    y = x.cumsum(0)
    return y, torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def threads(x):
    n = torch.get_num_threads()
    torch.set_num_threads(2)
    m = torch.get_num_threads()
    return x * n + m


def precision(x):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    return x @ W, before, torch.get_float32_matmul_precision()


def backend_flags(x):
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=False):
        y = x @ W
        flags = torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    return y, flags, torch.backends.cudnn.benchmark


def backend_attributes(x):
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.deterministic = not torch.backends.cudnn.deterministic
    return x + 1, torch.backends.cudnn.benchmark


def attention(x):
    q = x.reshape(1, 1, 3, 4)
    with sdpa_kernel(SDPBackend.MATH):
        inside = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
        y = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    return y, inside, torch.backends.cuda.flash_sdp_enabled()


def anomaly(x):
    with torch.autograd.set_detect_anomaly(True):
        inside = torch.is_anomaly_enabled()
        y = x @ W
    return y, inside, torch.is_anomaly_enabled()


def fastpath(x):
    torch.backends.mha.set_fastpath_enabled(False)
    return x + 1, torch.backends.mha.get_fastpath_enabled()


def nested_autocast(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = x @ W
        with torch.autocast("cpu", enabled=False):
            b = x @ W
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
            c = x @ W
    return a, b, c, x @ W


def autocast_break(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a = x @ W
        graph_break()
        b = x @ W
    return a, b, x @ W, torch.is_autocast_enabled("cpu")


def raises_inside(x):
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("cpu"):
        raise ValueError("no")


WHOLE = [
    grad_enabled_inside, dtype_set_back, dtype_left_set, grad_call, grad_left_off, deterministic, threads, precision, backend_flags, backend_attributes, attention, anomaly, fastpath, nested_autocast, raises_inside,
]  # fmt: skip


@pytest.mark.parametrize("program", WHOLE)
def test_settings(program, backend):
    check(program, X, backend=backend)


def test_gradients_turned_on_under_no_grad(backend):
    def program(x):
        with torch.enable_grad():
            z = x @ W
        return z, x @ W

    with torch.no_grad():
        fast = lamina_dynamo.optimize(program, backend)
        for _ in range(2):
            assert same(describe(fast(X)), describe(program(X)))
    z = fast(X)[0]
    assert torch.equal(*[torch.autograd.grad(y.sum(), W)[0] for y in (z, X @ W)])


def test_a_setter_that_is_not_modelled_is_a_break(backend):
    def program(x):
        torch.set_flush_denormal(False)
        return x + 1

    check(program, X, backend=backend, breaks=1)


def test_a_break_inside_autocast(backend):
    check(autocast_break, X, backend=backend, breaks=1)


READS = [
    (torch.get_num_threads, torch.set_num_threads, (1, 2)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest", "high")),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp, (False, True)),
    (lambda: torch.backends.cudnn.benchmark, lambda v: setattr(torch.backends.cudnn, "benchmark", v), (True, False)),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, (False, True)),
]


@pytest.mark.parametrize("read, write, values", READS)
def test_what_is_read_is_guarded(read, write, values):
    def program(x):
        return x + 1, read()

    fast = lamina_dynamo.optimize(program, BACKENDS["eager"])
    before = read()
    try:
        for value in (*values, *values):
            write(value)
            assert fast(X)[1] == value
    finally:
        write(before)


# ---- the random generator ------------------------------------------------------------------------------------------------
def seeds(x):
    a = torch.rand(3)
    g = torch.manual_seed(3)
    b = torch.rand(3)
    torch.manual_seed(2**64 - 1)
    return a, b, torch.randn(2), g is torch.default_generator


def forks(x):
    a = torch.rand(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        b = torch.rand(2)
    return a, b, torch.rand(2), torch.nn.functional.dropout(x)


def keeps_state(x):
    state = torch.get_rng_state()
    a = torch.rand(2)
    torch.set_rng_state(state)
    return a, torch.rand(2), state


@pytest.mark.parametrize("program", [seeds, forks, keeps_state])
def test_the_random_generator(program, backend):
    check(program, X, backend=backend, graphs=1)


def test_seeds_that_change_are_symbolic(backend):
    def program(seed):
        torch.manual_seed(seed)
        return torch.rand(3)

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for seed in (1, 2, 3, 4, 5):
        assert torch.equal(fast(seed), program(seed))
    assert counters["graphs"]["captured"] == 2
