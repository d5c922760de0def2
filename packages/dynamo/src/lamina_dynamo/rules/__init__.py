"""Rules: callables whose call during capture is not simply "interpret" or "call natively". One file per library.

Loading this package fills `calls.RULES` and `recorder.FUNCTION_RULES`.
"""

from . import backward, builtins, control_flow, foreach, functorch, libraries, modules, numpy_api, overrides, own_api, packed, torch_api  # noqa: F401
