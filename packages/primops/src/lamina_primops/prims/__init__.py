"""The closed set of prims, `torch.ops.lamina.*`, split by kind.

`PRIMS` maps a name to its `Prim` (schema, kind, meta rule, reference, doc). Importing this package registers all of them (about 15 ms).
"""

from __future__ import annotations

from . import contraction, convert, factory, indexing, pointwise, reduction, scan, special, view  # isort: skip
from . import fake_rules  # isort: skip  (after the prims)
from .registry import KINDS, NAMESPACE, PRIMS, Prim, prim_of, register
from .spec import Spec

__all__ = ["KINDS", "NAMESPACE", "PRIMS", "Prim", "Spec", "prim_of", "register"]

_ = (contraction, convert, factory, fake_rules, indexing, pointwise, reduction, scan, special, view)  # imported for their registrations
