"""Feature programs: captured code against eager, in results and effects, called with two kinds of input; `BREAKS` says how many graph breaks the short ones have.

The programs are in `dynamo_fuzz/features`; they are written as users write them.
"""

import sys

import pytest
from dynamo_fuzz.features import features
from dynamo_fuzz.observe import observe
from lamina_dynamo.convert import Converted, listening
from lamina_dynamo.runtime import Options, compile_callable

FEATURES = {f.name: f for f in features()}


def breaks_of(events):
    return [e.break_reason.code if isinstance(e, Converted) else e.code for e in events if not isinstance(e, Converted) or e.break_reason is not None]


BREAKS = {
    "f1": 1,  # disabled
    "f2": 1,  # data-dependent-branch
    "f3": 7,  # disabled, foreign-iterator
    "f4": 2,  # disabled
    "f5": 4,  # disabled
    "f6": 2,  # disabled
    "f7": 1,  # disabled
    "f8": 1,  # disabled
    "f9": 6,  # disabled, foreign-iterator
    "f10": 2,  # disabled, foreign-iterator
    "f11": 6,  # rebuild, foreign-iterator, io
    "f12": 4,  # disabled, foreign-iterator, each with and without the value of the turn before
    "f13": 1,  # disabled
    "f14": 2,  # disabled
    "f15": 2,  # data-dependent-branch
    "f16": 3,  # disabled
    "f18": 1,  # tensor-text
    "a1": 1,  # graph-break
    "a2": 1,  # graph-break
    "a3": 3,  # graph-break, foreign-iterator
    "a6": 1,  # graph-break
    "a24": 1,  # graph-break
    "a27": 4,  # graph-break, foreign-iterator
    "a31": 1,  # graph-break
    "a33": 2,  # graph-break
}


def calls(feature, fn):
    feature.restore()
    return [observe(fn, feature.arguments(which), vars(feature.module), feature.watched) for which in (0, 1, 0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FEATURES)
def test_program_follows_eager(name):
    feature = FEATURES[name]
    want = calls(feature, feature.fn)
    got = calls(feature, compile_callable(feature.fn, Options(lambda gm, example_inputs: gm.forward)))
    for w, g in zip(want, got):
        assert g == w, w.difference(g)


@pytest.mark.parametrize("name", [n for n in FEATURES if n.startswith("basics.")])
def test_breaks_are_counted(name):
    feature = FEATURES[name]
    compiled = compile_callable(feature.fn, Options(lambda gm, example_inputs: gm.forward))
    events = []
    feature.restore()
    with listening(events.append):
        observe(compiled, feature.arguments())
    short = name.partition(".")[2]
    if sys.version_info[:2] == (3, 11):  # 3.12 compiles comprehensions and loops differently
        assert len(breaks_of(events)) == BREAKS.get(short, 0), breaks_of(events)
    assert bool(breaks_of(events)) == (short in BREAKS)
