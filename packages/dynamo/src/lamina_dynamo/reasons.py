"""Why a frame breaks: one stable code for each kind of reason, with what to do about it.

Used by `control.unsupported`, which takes the remedy from here where the raise has no better one; `docs/graph_breaks.md` is written from this table
(`python tools/graph_breaks.py`), and a test holds it against every raise in the package. A code is counted in `counters["graph_breaks"]`: it never changes
its meaning, and a new kind of reason gets a new one.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["REASONS", "Reason"]


class Reason(NamedTuple):
    """meets: what the program does; remedy: the short hint of the message; example: the usual rewrite, as code before -> after, or empty."""

    meets: str
    remedy: str
    example: str = ""


_OUTSIDE = "do it outside of the compiled function"

REASONS: dict[str, Reason] = {
    # -- values and sizes that only the run knows
    "data-dependent-branch": Reason(
        "a branch on the value of a tensor", "torch.where, or move the branch outside of the compiled function",
        "if x.sum() > 0: y = x * 2\nelse: y = x - 1\n->\ny = torch.where(x.sum() > 0, x * 2, x - 1)",
    ),
    "data-dependent-size": Reason("a size that depends on data, relied upon after memory was written", "torch._check(a == b) says what holds"),
    "data-dependent-value": Reason(
        "the value of a tensor is wanted as a Python number", "keep the computation in tensors", "scale = float(x.max()); y = x / scale\n->\ny = x / x.max()"
    ),
    "packed-sequence": Reason("a packed sequence whose lengths only the run knows", "give the lengths as a list of numbers, or compile the parts around the recurrent layer"),
    "symbolic-operator": Reason("an operator of PyTorch whose C++ takes no symbolic sizes, at sizes that change", "mark_static the sizes, or compile with dynamic=False"),
    "operator-error": Reason("an exception of a torch operator that the program handles, with a text that only the run knows", "ask for sizes and dtypes before the call", "try: y = x @ w\nexcept RuntimeError: y = x\n->\ny = x @ w if x.shape[-1] == w.shape[0] else x"),
    "tensor-text": Reason("the text of a tensor's value that decides something, or would not look as in eager", "format outside of the compiled function"),
    "tensor-memory": Reason("reading a tensor's memory (data_ptr(), storage, numpy() of what is no plain memory)", _OUTSIDE),
    # -- calls that may not run while capturing
    "c-call": Reason(
        "a call of a function, method or object that is implemented in C and not known to be free of effects",
        "call it outside of the compiled function, or mark a function around it with lamina.allow_in_graph if it computes on tensors",
    ),
    "callback": Reason("C code that calls a function of the program (`math.floor` of an object with `__floor__`, a comparison of lists that hold objects with `__eq__`)", "call the method itself, or do it outside of the compiled function", "n = math.floor(obj)\n->\nn = obj.__floor__()"),
    "io": Reason("input, files, sockets, output in a form that is not modelled", "move it out of the compiled function, or accept the graph break"),
    "logging": Reason("a log record that is emitted, of other things than texts, numbers and tensors", "log texts, numbers and tensors, or lower the log level"),
    "time": Reason("reading the clock", "read it outside of the compiled function"),
    "threads": Reason("threads, locks, processes", _OUTSIDE),
    "distributed": Reason("talking to other processes, and DistributedDataParallel, whose inner module is captured", "none is needed; or compile the module and wrap it afterwards"),
    "debugger": Reason("the debugger", "remove the breakpoint"),
    "random": Reason("a random number of Python or NumPy that decides what runs, or is drawn in a form that is not modelled", "torch.where on the number, or draw outside of the compiled function and pass it in"),
    "generator": Reason("a torch.Generator of another device than the CPU, or used in a form that is not modelled", "pass random tensors in"),
    "numpy": Reason("a NumPy function that has no entry in the table of those that run as torch, on values of the compiled function", "use the torch function of the same name"),
    "torchscript": Reason("a call of a TorchScript function", "compile the Python function instead"),
    "disabled": Reason("a call of a function marked by lamina.disable", "remove the mark, or accept the graph break"),
    "graph-break": Reason("the program asked for a graph break", "remove the call of graph_break()"),
    "peer": Reason("a function of the reference compiler", "use lamina's function of that name"),
    "async": Reason("an async function or generator", "compile the functions that it awaits"),
    "generator-root": Reason("a generator or async function is what was compiled", "compile the functions that it calls"),
    # -- gradients and transforms
    "tensor-hook": Reason("a hook with effects on a value from which the compiled function computes more, one that autograd would run on another state than the capture saw, a backward hook of a module in training, hooks on saved tensors", "put the hook on what the compiled function takes or returns"),
    "autograd": Reason("taking gradients inside the compiled function in a form that is not modelled", "compile the forward function, and take gradients outside"),
    "autograd-function": Reason("a custom autograd function called in a form that is not modelled", "call apply with positional arguments"),
    "checkpoint": Reason("torch.utils.checkpoint in a form that is not modelled", "pass use_reentrant=False, and no context managers of one's own"),
    "functorch": Reason("a functorch transform", "call it outside of the compiled function"),
    "control-flow": Reason("torch.cond or torch.while_loop in a form that is not modelled", "let both functions give new tensors of one shape, and change nothing else"),
    "inference-mode": Reason("leaving an inference mode that was entered before the compiled part", "enter and leave it in the same function"),
    "global-state": Reason("changing PyTorch's state in a way that is not modelled (the seed of the moment, a device context left that was not entered)", _OUTSIDE),
    "dispatch-state": Reason("switching PyTorch's dispatcher, or a graph break inside of a torch function mode", _OUTSIDE),
    # -- tensors of another kind
    "tensor-subclass": Reason("a tensor subclass with __torch_dispatch__ that cannot be taken apart or is one of PyTorch's own (DTensor); writes to memory that it shares with plain tensors where gradients are taken; changes to what autograd keeps with it", "pass plain tensors and wrap them outside"),
    "tensor-layout": Reason("a tensor that is not strided (sparse, nested, mkldnn)", "convert it with to_dense() outside of the compiled function"),
    "tensor-kind": Reason("a tensor without ordinary storage", "pass ordinary tensors"),
    "tensor-class": Reason("making a tensor through a class", "use torch.tensor or a factory function"),
    "tensor-storage": Reason("changing a tensor's storage", _OUTSIDE),
    "tensor-attribute": Reason("an attribute of a tensor whose value only the run knows", _OUTSIDE),
    "tensor-attribute-write": Reason("assigning an attribute of a tensor", "use in-place methods such as copy_"),
    "tensor-dict": Reason("the __dict__ of a tensor", "read the attribute itself"),
    "unrecorded-tensor": Reason("a tensor made by a call that was not recorded", "make it with a torch function, or outside of the compiled function"),
    "graph-argument": Reason("a value that no graph node can take as an argument", "pass numbers, strings and tensors to torch functions"),
    # -- objects of the program
    "class-attribute-write": Reason("assigning an attribute of a class", "assign an attribute of the object, or do it outside of the compiled function"),
    "attribute-write": Reason("assigning a special attribute (__class__, __dict__) of an object from outside", _OUTSIDE),
    "symbolic-loop": Reason("a loop over a length that changes: Python runs it, its body is a graph", "none is needed; a loop over a length that mark_static keeps is unrolled"),
    "growing-list": Reason("a list that a loop of changing length fills, used otherwise than by append", "none is needed: Python does it between two graphs"),
    "foreign-iterator": Reason("advancing an iterator that was made outside", "pass the list, or make the iterator inside of the compiled function"),
    "foreign-mutation": Reason("changing an object from outside of a kind that is not modelled", "change it outside of the compiled function"),
    "opaque": Reason("an operation on an object from outside whose state is in C (a NumPy array, a bytearray, a C iterator)", "pass tensors, numbers or Python objects"),
    "instance-dict": Reason("the dictionary of an object from outside used next to its attributes", "use getattr and setattr"),
    "user-hash": Reason("a container that hashes or compares by methods of the program", "use keys of built-in types, or frozen dataclasses"),
    "cached-function": Reason("a function under functools.lru_cache that has effects, or whose arguments or result are no constants", "call it outside of the compiled function"),
    "class-hook": Reason("making a class whose making runs the program's code (a metaclass, __init_subclass__, __set_name__)", "define the class outside of the compiled function"),
    "object-text": Reason("the text of an object that says where it is in memory", "give the class a __repr__"),
    "warning": Reason("a warning under filters that show or raise each one", "warn outside of the compiled function"),
    "large-dict": Reason("a whole pass over, or a change of, a very large dictionary from outside", "look up what is needed before the call"),
    "lock": Reason("a lock that another thread holds, or that is held where the frame breaks or ends", "take it outside of the compiled function"),
    "lazy-module": Reason("the first call of a lazy module, which makes its parameters", "none is needed: the next call is captured"),
    "frame-locals": Reason("globals(), locals(), vars() or dir() of the frame", "name the variables"),
    "copy": Reason("copying an object of a kind that is not modelled", "copy it outside of the compiled function"),
    "weak-reference": Reason("a weak reference to a tensor, or to an object that the frame made: when it dies is up to the run", "make it outside of the compiled function"),
    "rebuild": Reason("an object that is live at a break cannot be made again by code", "keep such objects inside of the captured region"),
    # -- limits of the capture itself
    "opcode": Reason("an instruction that is not modelled", "rewrite the statement, or report it"),
    "recursion": Reason("calls nested too deeply to be inlined", "raise no recursion inside of a compiled function, or disable it"),
    "break-at-start": Reason("a break before the first statement of a function", "move what breaks into a function of its own"),
    "capture-raised": Reason("an exception that the capture meets and the program does not", "report it, with the function"),
    "restarts": Reason("a frame that had to be captured again too often", "report it, with the function"),
}  # fmt: skip
