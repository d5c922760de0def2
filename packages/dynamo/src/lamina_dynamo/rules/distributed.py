"""Rules for torch.distributed: what talks to other processes is called by the program itself, between two graphs."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..calls import rule
from ..control import unsupported


@rule(nn.parallel.DistributedDataParallel.forward)
def ddp_forward(cap: Any, args: Any, kwargs: Any) -> Any:
    """It prepares a reducer in C++ for the backward, at each call; the module inside is captured when it is called."""
    unsupported("distributed", "the forward of DistributedDataParallel, which prepares the exchange of gradients")
