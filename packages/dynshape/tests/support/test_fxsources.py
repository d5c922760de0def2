"""The text of generated code: dropped after a compilation, or with the graph that was to keep it."""

import gc
import linecache

import torch
from torch import fx

from lamina_dynshape.support.fxsources import discarding_sources, keep_source


def graph():
    def plus_one(x):
        return x + 1

    return fx.symbolic_trace(plus_one)


def text_of(gm):
    return linecache.getlines(gm.forward.__code__.co_filename)


def test_text_is_dropped_at_the_end_and_with_its_graph():
    outside = graph()
    with discarding_sources():
        dropped, kept = graph(), graph()
        keep_source(kept)
        assert text_of(dropped) and text_of(kept)
    assert not text_of(dropped) and text_of(kept) and text_of(outside)
    assert torch.equal(dropped(torch.ones(2)), torch.full((2,), 2.0))  # it still runs
    name = kept.forward.__code__.co_filename
    del kept
    gc.collect()
    assert name not in linecache.cache
