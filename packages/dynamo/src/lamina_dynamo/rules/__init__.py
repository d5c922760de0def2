"""Rules: callables whose call during capture is not simply "interpret" or "call natively". One file per library.

Loading this package fills `calls.RULES` and `recorder.FUNCTION_RULES`.
"""

from . import amp, backward, builtins, contexts, control_flow, distributed, foreach, functorch, hooks, leaves, legacy, libraries, metadata, modules, numpy_api, overrides, own_api, packed, random_numbers, settings, torch_api, torch_generators  # noqa: F401
