"""Our extern kernels against eager: ratios of processor time on one thread. Run: python packages/inductor/benchmarks/extern_kernels.py [filter]"""

from __future__ import annotations

import sys
import time

import torch
from lamina_dynshape import FakeMode
from lamina_inductor.compile import compile_graph
from lamina_primops import trace

aten = torch.ops.aten


def seconds(fn, rounds=7):
    fn()
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        fn()
        best = min(best, time.thread_time() - start)
    return best


def cases():
    for m, k, n in [(1, 768, 768), (16, 768, 768), (256, 768, 768), (256, 768, 3072), (256, 3072, 768), (788, 192, 768), (256, 512, 1376)]:
        x, w, dy = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
        yield f"mm {m}x{k}x{n} forward", lambda x, w: (x @ w.t(),), (x, w)
        yield f"mm {m}x{k}x{n} input gradient", lambda dy, w: (dy @ w,), (dy, w)
        yield f"mm {m}x{k}x{n} weight gradient", lambda dy, x: (dy.t() @ x,), (dy, x)
    yield "bmm 24x128x64x128", lambda a, b: (a @ b.transpose(1, 2),), (torch.randn(24, 128, 64), torch.randn(24, 128, 64))
    for shape, causal in [((4, 3, 197, 64), False), ((2, 12, 128, 64), True), ((1, 8, 1024, 64), True)]:
        q = torch.randn(shape)
        o, s = aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.0, causal)
        yield f"attention {shape} forward", lambda q, c=causal: aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.0, c), (q,)
        yield f"attention {shape} backward", lambda q, o, s, c=causal: aten._scaled_dot_product_flash_attention_for_cpu_backward(o, q, q, q, o, s, 0.0, c), (q, o, s)
    for n, c, h, o, k, s, g in [(4, 40, 56, 160, 1, 1, 1), (4, 960, 7, 160, 1, 1, 1), (4, 72, 56, 72, 5, 2, 72), (4, 40, 56, 40, 7, 1, 40), (4, 64, 56, 64, 3, 1, 1)]:
        x, w = torch.randn(n, c, h, h), torch.randn(o, c // g, k, k)
        numbers = ([s, s], [k // 2, k // 2], [1, 1], False, [0, 0], g)
        dy = torch.randn_like(aten.convolution(x, w, None, *numbers))
        yield f"convolution {n}x{c}x{h}x{h} to {o}, {k}x{k}/{s} groups {g} forward", lambda x, w, a=numbers: ((aten.convolution(x, w, None, *a) + 0).relu(),), (x, w)
        yield (f"convolution {n}x{c}x{h}x{h} to {o}, {k}x{k}/{s} groups {g} backward",
               lambda dy, x, w, a=numbers: aten.convolution_backward(dy, x, w, None, *a, [True, True, False])[:2], (dy, x, w))
    yield "max_pool 4x64x112x112", lambda x: (torch.nn.functional.max_pool2d(x, 3, 2, 1),), (torch.randn(4, 64, 112, 112),)


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{'kernel':68} {'eager us':>9} {'lamina us':>9} ratio")
    for name, fn, args in cases():
        if wanted not in name:
            continue
        mode = FakeMode()
        fakes = [mode.from_real(a) for a in args]
        graph = compile_graph(trace(fn, fakes), fakes)
        eager, ours = seconds(lambda: fn(*args)), seconds(lambda: graph(*args))
        print(f"{name:68} {eager * 1e6:9.0f} {ours * 1e6:9.0f} {eager / ours:5.2f}", flush=True)


if __name__ == "__main__":
    main()
