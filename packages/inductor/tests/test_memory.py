"""The memory pool of compiled graphs: its allocator against a model, and what graphs take from it."""

import ctypes
import random
from pathlib import Path

import lamina_inductor.runtime.load as load
import pytest
import torch
from lamina_dynshape.support.toolchain import compile_shared
from lamina_inductor.compile import compile_prims
from loops_support import assert_same, prims_of

EXPORTS = """
extern "C" {
void* pool_take(i64 bytes) { return take(bytes); }
void pool_give(void* p) { give(p); }
void pool_trim() { lock(); trim(); unlock(); }
i64 pool_state(int k) { return k == 0 ? pool_mapped : k == 1 ? pool_used : pool_resident; }
i64 pool_free_chunks() { i64 n = 0; for (Chunk* head : bins) for (Chunk* c = head; c; c = c->next) n++; return n; }
}
"""
LARGE = 1 << 20


@pytest.fixture(scope="module")
def pool():
    source = (Path(load.__file__).parent / "pool.h").read_text() + EXPORTS
    assert "1L << 45" in source
    source = source.replace("1L << 45", "1L << 44")  # away from the pool of this process's graphs
    lib = ctypes.CDLL(str(compile_shared(source, name="pool", flags=("-O2", "-std=c++17", "-fno-exceptions", "-fno-rtti"))))
    lib.pool_take.restype, lib.pool_take.argtypes = ctypes.c_void_p, [ctypes.c_long]
    lib.pool_give.argtypes = [ctypes.c_void_p]
    lib.pool_state.restype = lib.pool_free_chunks.restype = ctypes.c_long
    return lib


@pytest.mark.parametrize("seed", range(3))
def test_blocks_do_not_overlap_and_freed_neighbours_merge(pool, seed):
    rng = random.Random(seed)
    blocks: dict[int, tuple[int, int]] = {}  # start -> (bytes, mark)
    for step in range(2000):
        if blocks and rng.random() < 0.5:
            start = rng.choice(list(blocks))
            size, mark = blocks.pop(start)
            assert ctypes.string_at(start, 1)[0] == ctypes.string_at(start + size - 1, 1)[0] == mark
            pool.pool_give(start)
        else:
            size = int(2 ** rng.uniform(0, 22))
            start = pool.pool_take(size)
            assert start % 64 == 0
            ctypes.memset(start, step % 251, 1)
            ctypes.memset(start + size - 1, step % 251, 1)
            blocks[start] = size, step % 251
        if step == 1000:
            pool.pool_trim()
            assert pool.pool_state(2) == 0
    ends = sorted((s, s + n) for s, (n, _) in blocks.items())
    assert all(end <= start for (_, end), (start, _) in zip(ends, ends[1:], strict=False))
    for start in blocks:
        pool.pool_give(start)
    assert pool.pool_state(1) == 0 and pool.pool_free_chunks() == 1


def test_a_region_grows_where_it_ends(pool):
    before = pool.pool_state(0)
    first = pool.pool_take(before + LARGE)
    assert pool.pool_state(0) < before + 5 * LARGE  # the free end of the region counts
    pool.pool_give(first)
    assert pool.pool_free_chunks() == 1


def test_what_cannot_be_had_is_null(pool):
    assert pool.pool_take(1 << 60) is None


def _touched(call, *args):
    """Bytes in use, and free ones that the call has touched, after it; and its result."""
    module = load.entry_module()
    module.trim_memory()
    out = call(*args)
    _, used, kept = module.memory()
    return used, kept, out


def test_large_intermediates_share_memory():
    x, w = torch.randn(512, 512), torch.randn(512, 512) / 20

    def program(x, w):
        for _ in range(10):
            x = torch.tanh(x @ w)
        return x.sum()

    used, kept, out = _touched(compile_prims(prims_of(program, x, w)), x, w)
    assert_same(out, program(x, w))
    assert used == 0 and LARGE < kept < 4 * LARGE  # two of ten products, what the product's kernel packs


def test_a_backward_writes_gradients_where_saved_tensors_were():
    """Each saved tensor dies after its last use, and the gradient made next takes its place."""
    saved = [torch.randn(512, 512) for _ in range(8)]

    def backward(*saved):
        return tuple(s @ s for s in saved)

    forward = compile_prims(prims_of(lambda *s: tuple(t * 1.5 for t in s), *saved))
    compiled = compile_prims(prims_of(backward, *saved), name="graph_backward")
    want = backward(*forward(*saved))
    used, kept, out = _touched(lambda: compiled.boxed(list(forward(*saved))))
    assert_same(out, want, tol=1e-3)
    assert used + kept < (8 + 2) * (LARGE + 4096)
