"""`ExternKernel`: a node of the loop graph that is a library call (GEMM, convolution, attention, ATen) instead of loops.

Between: lowering (creates it through a rule in `lowering.registry`) -> scheduler (order, epilogues) -> `codegen.entry` (calls `emit_call`).
Keeps:   inputs are realised buffers, described by strided views; outputs are whole buffers whose strides the kernel chose.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from lamina_dynshape.expr import Expr

from .buffers import Buffer, StridedView

__all__ = ["CallWriter", "EpilogueRef", "ExternKernel"]


class CallWriter(Protocol):
    """What `emit_call` writes through. All texts are C++ inside the graph's entry function, which returns int: `return 1;` leaves with the error that was set."""

    def line(self, text: str) -> None: ...                       # one statement
    def data(self, view: StridedView) -> str: ...                # typed data pointer of the view's first element (`float*`)
    def handle(self, view: StridedView) -> str: ...              # AtenTensorHandle with exactly the view's sizes and strides
    def expr(self, e: Expr | int) -> str: ...                    # i64 expression
    def hint(self, e: Expr | int) -> int: ...                    # value of a size in the call that is being compiled
    def check(self, call: str) -> None: ...                      # call of the C shim: leaves the entry with the error when it is not 0
    def declare(self, prototype: str) -> None: ...               # file level, `extern "C"`, emitted once
    def define(self, key: str, text: str) -> None: ...           # file level definition, emitted once per key
    def link(self, library: str) -> None: ...                    # absolute path of a shared library to link
    def scratch(self, nbytes: Expr | int) -> str: ...            # char*, 64-byte aligned, valid during this call
    def fresh(self, prefix: str) -> str: ...                     # unused C++ name
    def assign_output(self, buffer: Buffer, handle: str) -> None: ...  # output that the call itself allocated (see `allocates`)


@dataclass(frozen=True)
class EpilogueRef:
    """Pointwise consumers of a 2-D result (rows x cols), compiled as `void fn(void* ctx, i64 r0, i64 r1, i64 c0, i64 c1)`.

    The kernel calls it once for each finished rectangle of its output, while that is in cache, on the thread that made it.
    `stores_result`: the result itself is still wanted in memory (it always is written there before the call; the epilogue reads it)."""

    function: str
    context: str
    stores_result: bool = True


@dataclass(eq=False)
class ExternKernel:
    """A library call. Subclass per kind; `emit_call` writes C++ statements."""

    name: str                                  # stable, such as `mm3`
    inputs: list[StridedView | None]
    outputs: list[Buffer]
    attributes: dict[str, Any] = field(default_factory=dict)
    origin: str = ""                           # the user's source line
    allocates: bool = False                    # the call returns new tensors: outputs get no storage before it
    mutates: tuple[int, ...] = ()              # inputs that it writes (workspaces of ours only)

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        raise NotImplementedError

    def epilogue_shape(self) -> tuple[Expr, Expr] | None:
        """(rows, cols) of the row-major result to which pointwise consumers may be attached; None refuses all."""
        return None

    def accepts_epilogue(self, nodes: list[Any]) -> bool:
        """Is it profitable to run these pointwise loop nodes (each over rows x cols) in the kernel's epilogue? Legality is the scheduler's."""
        return self.epilogue_shape() is not None

    def reads(self) -> list[Buffer]:
        return [v.buffer for v in self.inputs if v is not None]

    def writes(self) -> list[Buffer]:
        return self.outputs
