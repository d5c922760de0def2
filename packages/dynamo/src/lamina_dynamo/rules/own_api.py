"""Rules for our own public functions, as a captured program calls them."""

from __future__ import annotations

from typing import Any

import torch

from .. import api
from ..calls import rule
from ..control import unsupported

__all__ = ["record_whole"]


@rule(api.graph_break)
def _graph_break(cap: Any, args: Any, kwargs: Any) -> Any:
    unsupported("graph-break", "the program asked for a graph break", hint="remove the call of graph_break()")


@rule(api.is_compiling)
def _is_compiling(cap: Any, args: Any, kwargs: Any) -> bool:
    return cap.asked_compiling()


def record_whole(fn: Any) -> None:
    """Make calls of `fn` one node of the graph (`allow_in_graph`): it runs on fakes without being looked into."""

    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        if cap.has_outside_tensor(args) or (kwargs and cap.has_outside_tensor(tuple(kwargs.values()))):
            args, kwargs = cap.lift_arguments(args, kwargs)
        with torch._C.DisableTorchFunction():
            out = fn(*args, **kwargs)
        return cap.recorder.note(fn, args, kwargs, out, allowed=True)  # the dialect has public functions only, and those that the user vouches for

    rule(fn)(run)
