"""Operators on the state of PyTorch's random generator, for graphs: in order with the random operators, and kept though nothing uses their result.

Between: `torch.manual_seed`, `torch.get_rng_state` and `torch.set_rng_state` of a captured program -> calls that every dialect keeps as they are.
"""

from __future__ import annotations

import torch

__all__ = ["get_state", "manual_seed", "set_state"]

_LIBRARY = torch.library.Library("lamina_rng", "DEF")
_STATE_BYTES = torch.get_rng_state().numel()


def _define(schema: str, kernel: object, fake: object) -> torch._ops.OpOverload:
    name = _LIBRARY.define(schema, tags=(torch.Tag.nondeterministic_seeded,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lamina_rng::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.lamina_rng, name).default


def _manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


manual_seed = _define("manual_seed(SymInt seed) -> ()", _manual_seed, lambda seed: None)
get_state = _define("get_state() -> Tensor", torch.get_rng_state, lambda: torch.empty(_STATE_BYTES, dtype=torch.uint8, device="cpu"))
set_state = _define("set_state(Tensor state) -> ()", torch.set_rng_state, lambda state: None)
