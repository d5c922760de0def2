"""The backend `aot_eager` as an implementation for the zoo's harness: what aotgrad alone makes of a model, operator by operator.

    python ../shared/zoo/bench.py --what train --impl eager,integration.zoo_aot_eager --dtype amp --sample 24 --threads 1
"""

import functools

import lamina
from lamina import explain, reset  # noqa: F401 (the harness calls them)

compile = functools.partial(lamina.compile, backend="aot_eager")
