"""Threads that call and compile at once, calls inside calls, generators and coroutines, worker processes."""

import asyncio
import gc
import multiprocessing
import pickle
import sys
import threading

import pytest
import torch

import lamina_dynamo
from lamina_dynamo import optimize


def graph_itself(gm, example_inputs):
    return gm.forward


def in_threads(*works):
    """Run them at once; the first error of any is raised here."""
    errors, start = [], threading.Barrier(len(works))

    def guarded(work):
        try:
            start.wait()
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(w,)) for w in works]
    [t.start() for t in threads]
    [t.join(120) for t in threads]
    assert not any(t.is_alive() for t in threads), "threads wait for each other"
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def switch_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def broken(x, k):
    y = x * k
    lamina_dynamo.graph_break()
    return y + k


# ---- threads -----------------------------------------------------------------------------------------------------------
def test_threads_compile_different_variants_of_one_function():
    fast = optimize(broken, graph_itself, recompile_limit=20)
    dtypes = (torch.float32, torch.float64, torch.int64, torch.bfloat16)

    def work(dtype, k):
        def run():
            for n in (2, 3, 4) * 5:
                x = torch.ones(n, dtype=dtype)
                assert torch.equal(fast(x, k), broken(x, k))

        return run

    in_threads(*[work(d, 2) for d in dtypes], work(torch.float32, 3))


def test_threads_change_a_module_that_others_call():
    net = torch.nn.Linear(3, 3)
    fast = optimize(net, graph_itself)
    x, stop = torch.ones(2, 3), threading.Event()
    weights = [torch.nn.Parameter(torch.full((3, 3), float(i))) for i in range(4)]
    with torch.no_grad():
        net.bias.zero_()

    def change():
        try:
            for i in range(600):
                net.weight = weights[i % 4]
                if i % 50 == 0:
                    gc.collect()
        finally:
            stop.set()

    def call():
        with torch.no_grad():
            while not stop.is_set():
                out = fast(x)
                assert (out == out[0, 0]).all() and out[0, 0] in (0, 3, 6, 9) or torch.allclose(out, net(x), atol=1)  # one weight, whole

    net.weight = weights[0]
    in_threads(change, call, call)
    assert torch.equal(fast(x), net(x))


def test_reset_while_others_call():
    fast = optimize(broken, graph_itself)
    x, stop = torch.ones(4), threading.Event()

    def call():
        while not stop.is_set():
            assert torch.equal(fast(x, 2), broken(x, 2))

    def forget():
        try:
            for _ in range(15):
                lamina_dynamo.reset()
        finally:
            stop.set()

    in_threads(forget, call, call)


def test_a_compilation_that_waits_for_another_thread_that_calls():
    """A backend that needs the result of a thread which itself calls what is compiled already."""
    ready = optimize(lambda x: x - 1, graph_itself)
    x = torch.ones(2)
    ready(x)

    def backend(gm, example_inputs):
        results = []
        thread = threading.Thread(target=lambda: results.append(ready(x)))
        thread.start()
        thread.join(60)
        assert results and torch.equal(results[0], x - 1)
        return gm.forward

    assert torch.equal(optimize(lambda x: x * 5, backend)(x), x * 5)


# ---- calls inside calls ------------------------------------------------------------------------------------------------
def test_a_backend_that_calls_compiled_functions():
    other = optimize(lambda x: x + 10, graph_itself)
    depth = [0]

    def backend(gm, example_inputs):
        depth[0] += 1
        assert torch.equal(other(torch.zeros(2)), torch.full((2,), 10.0))
        if depth[0] < 3:
            assert torch.equal(fast(torch.zeros(2)), torch.ones(2))  # itself, while it is being compiled
        return gm.forward

    fast = optimize(lambda x: x + 1, backend)
    assert torch.equal(fast(torch.zeros(2)), torch.ones(2)) and depth[0] == 1
    assert torch.equal(other(torch.zeros(2)), torch.full((2,), 10.0))


def test_a_hook_that_calls_the_compiled_module():
    net = torch.nn.Linear(2, 2)
    fast = optimize(net, graph_itself)
    seen = []

    def hook(module, args, out):
        if args[0].shape[0] > 1:
            seen.append(args[0].shape[0])
            return out + fast(args[0][1:]).sum()
        return None

    net.register_forward_hook(hook)
    for n in (3, 3, 1, 2):
        x = torch.randn(n, 2)
        got, mine = fast(x), len(seen)
        want = net(x)
        assert torch.allclose(got, want)
        assert len(seen) == mine + n - 1 if n > 1 else len(seen) == mine


def test_recursion_of_a_compiled_function():
    def power(x, n):
        return x if n == 0 else fast(x, n - 1) * x

    fast = optimize(power, graph_itself, recompile_limit=12)
    x = torch.full((2,), 2.0)
    assert torch.equal(fast(x, 5), x**6) and torch.equal(fast(x, 3), x**4) and torch.equal(fast(x, 5), x**6)


# ---- generators and coroutines -------------------------------------------------------------------------------------------
def test_generators():
    def halves(x, n):
        for _ in range(n):
            got = yield x
            x = x / 2 if got is None else got
        return x

    fast = optimize(halves, graph_itself)

    def trace(make):
        g, out = make(torch.full((2,), 8.0), 3), []
        try:
            out += [next(g), next(g), g.send(torch.ones(2)), next(g)]
        except StopIteration as stop:
            out.append(stop.value)
        return out

    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(trace(fast), trace(halves), strict=True))

    def total(x):
        return sum(fast(x, 3))

    assert torch.equal(optimize(total, graph_itself)(torch.ones(2)), torch.full((2,), 1.75))


def test_coroutines_and_tasks():
    step = optimize(broken, graph_itself)

    async def worker(x, n):
        for i in range(n):
            x = step(x, 2)
            await asyncio.sleep(0)
        return x

    async def numbers(x):
        for i in range(3):
            yield x + i

    async def main(run, count):
        sums = [t async for t in count(torch.ones(2))]
        return await asyncio.gather(*[run(torch.full((2,), float(k)), 3) for k in range(4)]), sums

    for _ in range(2):
        got, got_sums = asyncio.run(main(optimize(worker, graph_itself), optimize(numbers, graph_itself)))
        assert [g[0].item() for g in got] == [((k * 2 + 2) * 2 + 2) * 2 + 2 for k in range(4)]
        assert [s[0].item() for s in got_sums] == [1, 2, 3]


# ---- processes -----------------------------------------------------------------------------------------------------------
def module_level(x):
    return x * 2 + 1


decorated_name = module_level
module_level = optimize(module_level, graph_itself)


def test_a_decorated_function_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    with pytest.raises(TypeError, match="cannot pickle .* pickle the original"):
        pickle.dumps(optimize(decorated_name, graph_itself))
    with pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(optimize(lambda x: x, graph_itself))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_processes(method, tmp_path, monkeypatch):
    (tmp_path / "lamina_test_worker.py").write_text(
        "import torch\nfrom lamina_dynamo import graph_break, optimize\n\n"
        "@lambda f: optimize(f, lambda gm, ex: gm.forward)\ndef work(n):\n    x = torch.full((2,), float(n))\n    graph_break()\n    return (x * 3 + n).tolist()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import lamina_test_worker

    lamina_test_worker.work(1)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map_async(lamina_test_worker.work, [1, 2, 3]).get(240) == [[4.0, 4.0], [8.0, 8.0], [12.0, 12.0]]
    sys.modules.pop("lamina_test_worker")
