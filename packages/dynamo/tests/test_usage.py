"""PyTorch as people use it: small programs against eager, results and effects and gradients, and the graph breaks that they cost."""

import collections.abc
import functools
import logging

import lamina_dynamo
import numpy as np
import pytest
import torch
from lamina_dynshape.support.counters import counters


def compile_counting(program, **options):
    counters.clear()
    return lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, **options)


def breaks():
    return dict(counters["graph_breaks"])


# ---- what model libraries do on the way ----------------------------------------------------------------------------------
SEEN: list[str] = []


class _Keeps(logging.Handler):
    def emit(self, record):
        SEEN.append(record.getMessage())


LOGGER, OTHER = logging.getLogger("lamina.test.usage"), logging.getLogger("lamina.test.usage.other")
LOGGER.addHandler(_Keeps())
LOGGER.propagate = False


@functools.lru_cache(None)
def warn_once(logger, text):
    logger.warning(text)


def test_a_cached_warning_is_shown_once():
    def program(x, logger):
        warn_once(logger, "take care")
        return x + 1

    SEEN.clear()
    fast = compile_counting(program)
    for logger, shown in ((LOGGER, 1), (LOGGER, 1), (OTHER, 2)):
        assert torch.equal(fast(torch.ones(2), logger), torch.full((2,), 2.0))
        assert len(SEEN) == shown
    assert breaks() == {}


def test_numpy_functions_on_constants_of_the_frame():
    def program(x):
        table = np.stack([np.zeros(2, dtype=np.int64), np.arange(2)], axis=0)
        return x + torch.tensor(table)

    fast = compile_counting(program)
    assert torch.equal(fast(torch.ones(2)), program(torch.ones(2))) and breaks() == {}


class Layers(collections.abc.Sequence):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        if i >= 4:
            raise IndexError
        return i


def _closes_quietly(log):
    try:
        for i in range(5):
            yield i
    except (ValueError, KeyError):
        log.append("no")


def _closes_loudly(log):
    try:
        for i in range(5):
            yield i
    except BaseException:
        log.append("closed")
        raise


@pytest.mark.parametrize("iterable, whole", [(lambda log: Layers(), True), (_closes_quietly, True), (_closes_loudly, False)])
def test_iterators_left_behind(iterable, whole):
    def program(x):
        log = []
        for a, b in zip([1, 2], iterable(log)):
            x = x + a * b
        return x, log

    fast = compile_counting(program)
    got, expected = fast(torch.ones(2)), program(torch.ones(2))
    assert torch.equal(got[0], expected[0]) and got[1] == expected[1]
    assert (breaks() == {}) == whole
