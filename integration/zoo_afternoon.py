"""The NumPy backend of `afternoon_backend.py` as an implementation for the zoo's harness.

    python ../shared/zoo/bench.py --what infer --impl eager,integration.zoo_afternoon --threads 1 --budget 0.05
"""

import functools

import lamina
from integration.afternoon_backend import afternoon
from lamina import explain, reset  # noqa: F401 (the harness calls them)

compile = functools.partial(lamina.compile, backend=afternoon)
