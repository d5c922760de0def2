"""Random programs of views, writes and returns over inputs that may share memory: equal to eager, or refused with a reason.

The long run (20,000 programs) is `nox -s fuzz_aliases`, or `python alias_programs.py`.
"""

from __future__ import annotations

import collections
import warnings

import pytest
from alias_programs import compare, generate
from lamina_aotgrad import default, min_cut

COUNT = 200


@pytest.mark.parametrize(("first", "partition"), [(0, min_cut), (100_000, default)])
def test_like_eager_or_refused(first, partition):
    results: collections.Counter[str] = collections.Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # out= of another shape
        for seed in range(first, first + COUNT):
            program = generate(seed)
            try:
                results[compare(program, partition=partition)] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error}\n{program.text}") from error
    assert results["same"] >= 0.7 * COUNT, results


def test_a_program_is_made_from_its_seed():
    assert generate(3) == generate(3) != generate(4)
