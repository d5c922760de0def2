"""Writes the C++ of a graph: kernels, and `lm_entry`, which allocates, calls kernels and libraries in order, and returns handles.

Between: scheduled units -> one source text (or two) and the tables that the runtime needs to load it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.boolean import SIGNS, TRUE, And, BoolExpr, Or, Relation
from lamina_dynshape.expr import Expr, Symbol
from lamina_dynshape.float_expr import FloatExpr, FloatRelation
from lamina_dynshape.support.counters import counters

from ..ir.buffers import Buffer, StridedView
from ..ir.extern import ExternKernel
from ..ir.nodes import LoopGraph
from ..schedule.fuse import Unit
from ..schedule.memory import plan_memory
from ..config import config
from .profile import profile_text
from .ctext import STORAGE, ExprText, constant, prelude
from .kernel import Kernel, write_kernel
from .special import functions_of

__all__ = ["GraphSource", "write_graph"]

_DTYPE_CODE = {  # c10::ScalarType
    torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5, torch.float32: 6, torch.float64: 7,
    torch.complex64: 9, torch.complex128: 10, torch.bool: 11, torch.bfloat16: 15, torch.uint16: 27, torch.uint32: 28, torch.uint64: 29,
    torch.complex32: 8, torch.float8_e5m2: 23, torch.float8_e4m3fn: 24, torch.float8_e5m2fnuz: 25, torch.float8_e4m3fnuz: 26,
}

_LARGE_BYTES = 64 << 10  # from this size on results are the pool's (runtime/pool.h), and intermediates have blocks of their own

_HEAD = """
typedef void* H;
struct Ctx { int (*callback)(Ctx*, int, int, H*, i64*, int, H*); void* (*acquire)(Ctx*, i64); void (*release)(Ctx*, void*); const char* message; void* self;
  int (*output)(Ctx*, i64, const i64*, const i64*, int, i64, H*); i64 owned; };
extern "C" {
int aoti_torch_delete_tensor_object(H); int aoti_torch_new_tensor_handle(H, H*); int aoti_torch_get_data_ptr(H, void**);
int aoti_torch_empty_strided(i64, const i64*, const i64*, int, int, int, H*);
int aoti_torch_create_tensor_from_blob(void*, i64, const i64*, const i64*, i64, int, int, int, H*);
int aoti_torch_get_strides(H, i64**); int aoti_torch_copy_(H, H, int);
int aoti_torch__reinterpret_tensor(H, i64, const i64*, const i64*, i64, H*);
}
"""


@dataclass
class GraphSource:
    """Text of one graph. `kernels` counts distinct and called loop kernels; `callbacks` are the attributes of fallback calls, in call order."""

    main: str
    kernels_text: str
    in_kinds: str
    out_kinds: str
    callbacks: list[dict[str, Any]]
    objects: list[Any]
    libraries: list[str]
    kernel_calls: int
    kernel_names: list[str]
    constants: list[torch.Tensor] = field(default_factory=list)


class _SharedText(ExprText):
    """Expressions over sizes: each is computed once, at the start of the entry, and has a name."""

    def __init__(self, names: dict[Any, str], ranges: dict[Any, Any], definitions: list[str]) -> None:
        super().__init__(names, ranges)
        self.definitions = definitions

    def __call__(self, e: Expr | int) -> str:
        if isinstance(e, int) or e.is_const:
            return super().__call__(e)
        found = self.names.get(e)
        if found is None:
            text = super().__call__(e)
            if isinstance(e, Symbol):
                return text
            found = self.names[e] = f"z{len(self.definitions)}"
            self.definitions.append(f"  const i64 {found} = {text};")
        return found


class _EntryWriter:
    """The `CallWriter` of extern kernels, and the writer of the entry's own statements."""

    def __init__(self, graph: LoopGraph) -> None:
        self.graph = graph
        self.lines: list[str] = []
        self.prototypes: dict[str, None] = {}
        self.definitions: dict[str, str] = {}
        self.libraries: dict[str, None] = {}
        self.callbacks: list[dict[str, Any]] = []
        self.handles: dict[Any, str] = {}
        self.owned = 0
        self.names: dict[Any, str] = {}
        self.ranges: dict[Any, Any] = dict(graph.ranges)
        self.sizes: list[str] = []  # definitions of what is computed from sizes
        self._expr = _SharedText(self.names, self.ranges, self.sizes)
        self._fresh = 0
        self.data_names: dict[Buffer, str] = {}
        self.scratch_bytes: Expr | None = None
        self._views: list[Any] = []
        self._blocks: set[Buffer] = set()

    # -- CallWriter --------------------------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def expr(self, e: Expr | int) -> str:
        return self._expr(e)

    def hint(self, e: Expr | int) -> int:
        return self.graph.evaluate(e) if isinstance(e, Expr) else e

    def fresh(self, prefix: str) -> str:
        self._fresh += 1
        return f"{prefix}_{self._fresh}"

    def check(self, call: str) -> None:
        self.line(f"if ({call}) return 1;")

    def declare(self, prototype: str) -> None:
        self.prototypes[prototype] = None

    def define(self, key: str, text: str) -> None:
        self.definitions.setdefault(key, text)

    def link(self, library: str) -> None:
        self.libraries[library] = None

    def data(self, view: StridedView) -> str:
        name = self.data_names[view.buffer]
        return name if not (view.offset.is_const and view.offset.const != 0 or not view.offset.is_const) else f"({name} + {self.expr(view.offset)})"

    def scratch(self, nbytes: Expr | int) -> str:
        name = self.fresh("scratch")
        text = self.expr(nbytes)
        self.line(f"Block {name}_b(ctx, {text}); char* {name} = (char*){name}_b.p; if (!{name}) return lm_oom(ctx);")
        return name

    def new_owned(self) -> str:
        self.owned += 1
        return f"own[{self.owned - 1}]"

    def handle(self, view: StridedView) -> str:
        key = (view.buffer, view.size, view.stride, view.offset)
        found = self.handles.get(key)
        if found is not None:
            return found
        base = self.handles.get(view.buffer)
        if base is not None and view.is_whole:
            return base
        slot = self.new_owned()
        n, sizes, strides = self._shape(view.size, view.stride)
        if base is not None:
            self.check(f"aoti_torch__reinterpret_tensor({base}, {n}, {sizes}, {strides}, {self.expr(view.offset)}, &{slot})")
        else:
            self.check(f"aoti_torch_create_tensor_from_blob({self.data_names[view.buffer]}, {n}, {sizes}, {strides}, {self.expr(view.offset)}, "
                       f"{_DTYPE_CODE[view.dtype]}, 0, 0, &{slot})")
        self.handles[key] = slot
        self._views.append((view.buffer, key, slot))
        return slot

    def _shape(self, size: Any, stride: Any) -> tuple[int, str, str]:
        def array(values: Any) -> str:
            if not values:
                return "(const i64*)0"
            text = f"{{{', '.join(self.expr(v) for v in values)}}}"
            if all(isinstance(v, int) or v.is_const for v in values):
                return f"(const i64[]){text}"
            name = self.fresh("shape")  # C++ refuses the address of a temporary array that is not constant
            self.line(f"const i64 {name}[] = {text};")
            return name
        return len(size), array(size), array(stride)

    def assign_output(self, buffer: Buffer, handle: str) -> None:
        slot = self.new_owned()
        self.line(f"{slot} = {handle};")
        n, sizes, strides = self._shape(buffer.size, buffer.stride)
        self.check(f"lm_as_promised(&{slot}, {n}, {sizes}, {strides}, {_DTYPE_CODE[buffer.dtype]})")
        self.handles[buffer] = slot
        self._declare_data(buffer, slot)

    def add_callback(self, attributes: dict[str, Any]) -> int:
        self.callbacks.append(attributes)
        return len(self.callbacks) - 1

    # -- buffers -----------------------------------------------------------------------------------------------------------------
    def _declare_data(self, buffer: Buffer, handle: str) -> None:
        c = STORAGE[buffer.dtype]
        name = f"{buffer.name}_p"
        self.line(f"void* {name}v; aoti_torch_get_data_ptr({handle}, &{name}v); {c}* {name} = ({c}*){name}v;")
        self.data_names[buffer] = name

    def allocate(self, buffer: Buffer) -> None:
        slot = self.new_owned()
        n, sizes, strides = self._shape(buffer.size, buffer.stride)
        code, nbytes = _DTYPE_CODE[buffer.dtype], buffer.extent() * buffer.itemsize
        if nbytes.is_const and nbytes.const < _LARGE_BYTES:
            self.check(f"aoti_torch_empty_strided({n}, {sizes}, {strides}, {code}, 0, 0, &{slot})")
        else:
            self.check(f"ctx->output(ctx, {n}, {sizes}, {strides}, {code}, {self.expr(nbytes)}, &{slot})")
        self.handles[buffer] = slot
        self._declare_data(buffer, slot)

    def drop_inputs(self, buffers: Iterable[Buffer]) -> None:
        """Let go of inputs that nothing reads any more, where the call owns them."""
        for buffer in buffers:
            self._drop_views(buffer)
            self.line(f"lm_drop(ctx, {self.handles.pop(buffer)});")

    def acquire(self, buffer: Buffer) -> None:
        """A block for a large intermediate, from before its first use to after its last: other buffers, saved tensors and gradients share the memory."""
        c, name = STORAGE[buffer.dtype], f"{buffer.name}_p"
        self.line(f"Block {name}b(ctx, {self.expr(buffer.extent() * buffer.itemsize)}); {c}* {name} = ({c}*){name}b.p; if (!{name}) return lm_oom(ctx);")
        self.data_names[buffer] = name
        self._blocks.add(buffer)

    def drop(self, buffer: Buffer) -> None:
        """Release the block of an intermediate, or what a library allocated, once nothing reads it any more."""
        self._drop_views(buffer)
        if buffer in self._blocks:
            self.line(f"{buffer.name}_pb.drop();")
        slot = self.handles.pop(buffer, None)
        if slot is not None:
            self.line(f"aoti_torch_delete_tensor_object({slot}); {slot} = 0;")

    def _drop_views(self, buffer: Buffer) -> None:
        for b, key, slot in [v for v in self._views if v[0] is buffer]:
            self.line(f"aoti_torch_delete_tensor_object({slot}); {slot} = 0;")
            self.handles.pop(key, None)
            self._views.remove((b, key, slot))


def write_graph(graph: LoopGraph, units: list[Unit], *, drops_inputs: bool = False) -> GraphSource:
    """C++ of the graph with its units in order. `drops_inputs`: a call that owns its inputs lets go of each after its last use."""
    w = _EntryWriter(graph)
    outputs = {v.buffer for v in graph.outputs if isinstance(v, StridedView)}
    readers: dict[Buffer, set[int]] = {}
    for k, u in enumerate(units):
        for b in u.reads:
            readers.setdefault(b, set()).add(k)
    kernels: dict[str, str] = {}
    calls: list[Kernel | ExternKernel] = []
    for k, u in enumerate(units):
        if isinstance(u.content, ExternKernel):
            calls.append(u.content)
            continue
        outside = {b for b in u.writes if b in outputs or b.kind == "input" or readers.get(b, set()) - {k}}
        calls.append(write_kernel(graph, u.content, outside))
    for b in outputs:
        if b.kind == "intermediate":
            b.kind = "output"
    in_kinds = _inputs(w, graph)
    for k, (e, bits) in enumerate(graph.computed.items()):
        text = _real_text(w, e)  # first: it may define sizes
        w.sizes.append(f"  const i64 real{k} = lm_bits<i64>((double)({text}));")
        w.names[bits] = f"real{k}"
    inputs = [x for x in graph.inputs if isinstance(x, Buffer) and x not in outputs] if drops_inputs else []
    _plan(w, graph, calls, outputs)
    n_calls = 0
    last_use = _last_uses(calls)
    w.drop_inputs(x for x in inputs if not any(x in found for found in last_use.values()))
    labels: list[str] = []
    if config.profile:
        w.line("lm_tick(-1);")
    for k, call in enumerate(calls):
        _allocate_before(w, call)
        if isinstance(call, ExternKernel):
            _extern(w, call)
        else:
            n_calls += 1
            _call_kernel(w, call, kernels)
        if config.profile:
            w.line(f"lm_tick({k});")
            labels.append(_label(call, kernels))
        for b in sorted(last_use.get(k, ()), key=lambda x: x.name):
            if b.kind == "intermediate":
                w.drop(b)
        w.drop_inputs(x for x in inputs if x in last_use.get(k, ()))
    out_kinds, objects = _outputs(w, graph)
    counters["kernels"]["calls"] += n_calls
    counters["kernels"]["distinct"] += len(kernels)
    text = _kernels_text(kernels, linkage="static ")
    main = _assemble(w)
    if config.profile:
        main = profile_text(labels) + main
    return GraphSource(main, text, in_kinds, out_kinds, w.callbacks, objects, list(w.libraries), n_calls, list(kernels.values()),
                       [t for _, t in graph.constants])


def _label(call: Any, kernels: dict[str, str]) -> str:
    if isinstance(call, ExternKernel):
        shapes = " ".join("x".join(map(str, v.size)) for v in call.inputs if v is not None)
        return f"{type(call).__name__} {call.name} [{shapes}] {call.origin}"
    return f"loops {kernels[call.text]} {call.origin}"


def _inputs(w: _EntryWriter, graph: LoopGraph) -> str:
    kinds, t, k = "", 0, 0
    for x in graph.inputs:
        if isinstance(x, Buffer):
            kinds += "t"
            w.handles[x] = f"in[{t}]"
            t += 1
            w._declare_data(x, w.handles[x])
        elif isinstance(x, Expr):
            kinds += "f" if x in graph.reals else "i"
            if not x.is_const:
                name = f"size{k}"
                w.sizes.append(f"  const i64 {name} = ints[{k}];")
                w.names[x] = name
            k += 1
        else:
            kinds += "-"
    for b, _ in graph.constants:
        w.handles[b] = f"in[{t}]"
        t += 1
        w._declare_data(b, w.handles[b])
    return kinds


def _touched(call: Kernel | ExternKernel) -> tuple[set[Buffer], set[Buffer]]:
    """(read or written, written)"""
    if isinstance(call, ExternKernel):
        written = set(call.outputs)
        return set(call.reads()) | written, written
    return set(call.buffers), set(call.written)


def _last_uses(calls: list[Any]) -> dict[int, list[Buffer]]:
    last: dict[Buffer, int] = {}
    for k, call in enumerate(calls):
        for b in _touched(call)[0]:
            last[b] = k
    out: dict[int, list[Buffer]] = {}
    for b, k in last.items():
        out.setdefault(k, []).append(b)
    return out


def _plan(w: _EntryWriter, graph: LoopGraph, calls: list[Any], outputs: set[Buffer]) -> None:
    """Give every small intermediate that a kernel touches a place in one block."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for k, call in enumerate(calls):
        if isinstance(call, ExternKernel) and call.allocates:
            for b in call.outputs:
                b.meta["allocated"] = True
        for b in _touched(call)[0]:
            if b.kind == "intermediate" and not b.meta.get("allocated") and not _is_large(w, b):
                lives[b] = (lives[b][0], k) if b in lives else (k, k)
    plan = plan_memory(lives)
    if not lives:
        return
    w.line(f"Block arena_b(ctx, {w.expr(plan.total)}); char* arena = (char*)arena_b.p; if (!arena) return lm_oom(ctx);")
    place = f"arena + {plan.fixed}"
    for k, n in enumerate(plan.slots):
        w.line(f"char* slot{k} = {place};")
        place = f"slot{k} + {w.expr(n)}"
    places = {b: f"(arena + {n})" for b, n in plan.offsets.items()} | {b: f"slot{k}" for b, k in plan.slot_of.items()}
    for b, place in places.items():
        c = STORAGE[b.dtype]
        w.line(f"{c}* {b.name}_p = ({c}*){place};")
        w.data_names[b] = f"{b.name}_p"


def _is_large(w: _EntryWriter, buffer: Buffer) -> bool:
    return w.hint(buffer.extent() * buffer.itemsize) >= _LARGE_BYTES


def _allocate_before(w: _EntryWriter, call: Any) -> None:
    if isinstance(call, ExternKernel) and call.allocates:
        return
    for b in sorted(_touched(call)[1], key=lambda x: x.name):
        if b.kind == "output" and b not in w.handles:
            w.allocate(b)
        elif b.kind == "intermediate" and b not in w.data_names:
            w.acquire(b)


def _extern(w: _EntryWriter, call: ExternKernel) -> None:
    w.line(f"// {call.name} {call.origin}")
    if call.allocates:
        call.emit_call(w)
        return
    w.line("{")
    call.emit_call(w)
    w.line("}")


def _call_kernel(w: _EntryWriter, kernel: Kernel, kernels: dict[str, str]) -> None:
    name = kernels.setdefault(kernel.text, f"k{len(kernels)}")
    args = [w.data_names[b] for b in kernel.buffers] + [w.expr(s) for s in kernel.sizes]
    if kernel.text.split("{", 1)[0].rstrip().endswith("int* err)"):
        args.append("&err")
        w.line(f"{name}({', '.join(args)}); if (err) return lm_bad(ctx, err);  // {kernel.origin}")
    else:
        w.line(f"{name}({', '.join(args)});  // {kernel.origin}")


def _outputs(w: _EntryWriter, graph: LoopGraph) -> tuple[str, list[Any]]:
    kinds, objects = "", []
    given: dict[str, None] = {}
    n_int = h = 0
    for v in graph.outputs:
        if isinstance(v, StridedView):
            kinds += "t"
            handle = w.handle(v)
            if handle.startswith("own[") and handle not in given and v.is_whole:
                w.line(f"out[{h}] = {handle};")
                given[handle] = None
            else:
                w.check(f"aoti_torch_new_tensor_handle({handle}, &out[{h}])")
            h += 1
        elif isinstance(v, Expr):
            kinds += "i"
            w.line(f"int_out[{n_int}] = {w.expr(v)};")
            n_int += 1
        elif isinstance(v, FloatExpr):
            kinds += "f"
            w.line(f"int_out[{n_int}] = lm_bits<i64>((double)({_real_text(w, v)}));")
            n_int += 1
        elif isinstance(v, BoolExpr):
            kinds += "b"
            w.line(f"int_out[{n_int}] = {_truth_text(w, v)};")
            n_int += 1
        else:
            kinds += "o"
            objects.append(v)
    for handle in given:
        w.line(f"{handle} = 0;")
    return kinds, objects


_REAL = {"add": "({} + {})", "sub": "({} - {})", "mul": "({} * {})", "truediv": "({} / {})", "neg": "(-{})", "mod": "lm_remainder({}, {})", "floordiv": "lm_floordiv({}, {})"} | {
    name: f"__builtin_{c}({', '.join(['{}'] * n)})" for name, c, n in (("abs", "fabs", 1), ("min", "fmin", 2), ("max", "fmax", 2), *[(f, f, 2) for f in ("atan2", "copysign", "fmod", "pow")])
}  # fmt: skip


def _truth_text(w: _EntryWriter, e: BoolExpr) -> str:
    """A condition, in C++."""
    if isinstance(e, Relation):
        return f"({w.expr(e.e)} {SIGNS[e.kind]} 0)"
    if isinstance(e, FloatRelation):
        return f"({_real_text(w, e.a)} {SIGNS[e.op]} {_real_text(w, e.b)})"
    if isinstance(e, (And, Or)):
        return f"({(' && ' if isinstance(e, And) else ' || ').join(_truth_text(w, o) for o in e.operands)})"
    return str(int(e is TRUE))


def _real_text(w: _EntryWriter, e: FloatExpr) -> str:
    """A real number, in C++: the functions of the C library have Python's names."""
    if e.op == "const":
        return constant(e.args[0], torch.float64)
    if e.op == "int":
        return f"(double){w.expr(e.args[0])}"
    if e.op == "real":
        return f"lm_bits<double>({w.expr(e.args[0])})"
    args = [_real_text(w, a) for a in e.args]
    return _REAL[e.op].format(*args) if e.op in _REAL else f"__builtin_{e.op}({args[0]})"


def _kernels_text(kernels: dict[str, str], linkage: str) -> str:
    return "\n".join(f"{linkage}void {name}{text}" for text, name in kernels.items())


def _assemble(w: _EntryWriter) -> str:
    prototypes = "\n".join(w.prototypes)
    definitions = "\n".join(w.definitions.values())
    body = "\n".join(w.sizes + w.lines)
    return f"""extern "C" {{
{prototypes}
}}
{definitions}
@KERNELS@
// A library's result with other strides than the graph promises is copied.
static int lm_as_promised(H* h, int n, const i64* sizes, const i64* strides, int dtype) {{
  i64* have; if (aoti_torch_get_strides(*h, &have)) return 1;
  bool same = true;
  for (int d = 0; d < n; d++) {{ if (sizes[d] == 0) return 0; same &= sizes[d] == 1 || have[d] == strides[d]; }}
  if (same) return 0;
  H copy = 0;
  if (aoti_torch_empty_strided(n, sizes, strides, dtype, 0, 0, &copy)) return 1;
  int failed = aoti_torch_copy_(copy, *h, 0);
  aoti_torch_delete_tensor_object(*h);
  *h = copy;
  return failed;
}}
struct Block {{ Ctx* c; void* p; Block(Ctx* ctx, i64 bytes) : c(ctx), p(ctx->acquire(ctx, bytes)) {{}} void drop() {{ if (p) c->release(c, p); p = 0; }} ~Block() {{ drop(); }} }};
static inline void lm_drop(Ctx* ctx, H& h) {{ if (ctx->owned) {{ aoti_torch_delete_tensor_object(h); h = 0; }} }}
static int lm_oom(Ctx* ctx) {{ ctx->message = "MemoryError: not enough memory for the intermediates of a compiled graph"; return 1; }}
static int lm_bad(Ctx* ctx, int err) {{ ctx->message = err & 1 ? "IndexError: index out of range in self" : "RuntimeError: ZeroDivisionError"; return 1; }}
static int lm_run(Ctx* ctx, H* in, i64* ints, H* out, i64* int_out, H* own) {{
  int err = 0; (void)err;
{body}
  return 0;
}}
extern "C" int lm_entry(Ctx* ctx, H* in, i64* ints, H* out, i64* int_out) {{
  H own[{max(w.owned, 1)}] = {{0}};
  int status = lm_run(ctx, in, ints, out, int_out, own);
  for (H h : own) if (h) aoti_torch_delete_tensor_object(h);
  return status;
}}
"""


def full_source(source: GraphSource) -> str:
    """The translation unit."""
    return prelude() + functions_of(source.kernels_text) + _HEAD + source.main.replace("@KERNELS@", source.kernels_text)
