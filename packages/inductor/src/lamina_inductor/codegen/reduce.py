"""Accumulators: how each reduction kind starts, steps inside a vectorised run, folds runs together, and ends.

Accuracy: floats accumulate a run of at most `RUN` elements in their own type (one accumulator per lane), runs are folded in double. Sums are thus
at least as accurate as eager's cascade; `welford` keeps each run and goes over it twice (`lm_moments` of the prelude).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .ctext import COMPUTE, constant

__all__ = ["RUN", "WELFORD_RUN", "Accumulator", "identity", "make_accumulator", "scan_text"]

RUN = 4096           # elements per run of a sum
WELFORD_RUN = 1024   # elements of a run that is kept on the stack


def identity(kind: str, dtype: torch.dtype) -> str:
    """Start value of a reduction, as a literal of the compute type."""
    if kind in ("amax", "amin", "argmax", "argmin"):
        low = kind.endswith("max")
        if dtype.is_floating_point:
            return constant(float("-inf") if low else float("inf"), dtype)
        if dtype == torch.bool:
            return "false" if low else "true"
        info = torch.iinfo(dtype)
        return constant(info.min if low else info.max, dtype)
    return {"sum": f"({COMPUTE[dtype]})0", "prod": f"({COMPUTE[dtype]})1", "any": "false", "all": "true"}[kind]


@dataclass
class Accumulator:
    """Texts of one reduction. `total` are declarations before all loops, `run` before a vectorised run, `clause` of its pragma, `step(value)` inside it,
    `fold` after the run, `results` the expressions of the outcome (compute type of the output)."""

    total: list[str]
    run: list[str]
    clause: str
    step: str            # with {v}
    fold: list[str]
    results: list[str]
    parts: list[tuple[str, str]]          # (C type, name) that hold the state between runs
    merge: list[str]                      # folds state `{p}name` of another block into this one


def _wide(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "double"
    return "bool" if dtype == torch.bool else "i64" if dtype != torch.uint64 else "u64"


def combine(kind: str, a: str, b: str, c: str) -> str:
    return {"sum": f"{a} + {b}", "prod": f"{a} * {b}", "amax": f"lm_max<{c}>({a}, {b})", "amin": f"lm_min<{c}>({a}, {b})",
            "any": f"{a} | {b}", "all": f"{a} & {b}"}[kind]


def make_accumulator(kind: str, dtype: torch.dtype, name: str) -> Accumulator:
    c = COMPUTE[dtype]
    if kind == "welford":
        n, mean, m2 = f"cnt_{name}", f"mean_{name}", f"m2_{name}"
        merge = (f"if ({{p}}{n} > 0) {{{{ double d_ = {{p}}{mean} - {mean}, n_ = {n} + {{p}}{n}; {mean} += d_ * {{p}}{n} / n_; "
                 f"{m2} += {{p}}{m2} + d_ * d_ * {n} * {{p}}{n} / n_; {n} = n_; }}}}")
        return Accumulator(
            [f"double {n} = 0, {mean} = 0, {m2} = 0;"], [], "", f"w_{name}[{{i}}] = {{v}};", [f"lm_moments(w_{name}, {{len}}, {n}, {mean}, {m2});"],
            [f"({c}){m2}", f"({c}){mean}"], [("double", n), ("double", mean), ("double", m2)], [merge])
    start = identity(kind, dtype)
    if kind in ("sum", "prod"):
        wide = _wide(dtype)
        op = "+" if kind == "sum" else "*"
        return Accumulator([f"{wide} A_{name} = {0 if kind == 'sum' else 1};"], [f"{c} a_{name} = {start};"], f"reduction({op}:a_{name})",
                           f"a_{name} {op}= {{v}};", [f"A_{name} {op}= a_{name};"], [f"({c})A_{name}"], [(wide, f"A_{name}")],
                           [f"A_{name} {op}= {{p}}A_{name};"])
    if kind in ("any", "all"):
        op = "|" if kind == "any" else "&"
        return Accumulator([f"int A_{name} = {int(kind == 'all')};"], [f"int a_{name} = {int(kind == 'all')};"], f"reduction({op}:a_{name})",
                           f"a_{name} {op}= {{v}} ? 1 : 0;", [f"A_{name} {op}= a_{name};"], [f"(A_{name} != 0)"], [("int", f"A_{name}")],
                           [f"A_{name} {op}= {{p}}A_{name};"])
    fn = "lm_max" if kind == "amax" else "lm_min"
    if dtype.is_floating_point:
        clause = f"reduction({'lmax' if kind == 'amax' else 'lmin'}:a_{name})"
    elif dtype == torch.bool:
        clause = f"reduction({'|' if kind == 'amax' else '&'}:a_{name})"
    else:
        clause = f"reduction({'max' if kind == 'amax' else 'min'}:a_{name})"
    step = f"a_{name} = {fn}<{c}>(a_{name}, {{v}});"
    return Accumulator([f"{c} A_{name} = {start};"], [f"{c} a_{name} = {start};"], clause, step, [f"A_{name} = {fn}<{c}>(A_{name}, a_{name});"],
                       [f"A_{name}"], [(c, f"A_{name}")], [f"A_{name} = {fn}<{c}>(A_{name}, {{p}}A_{name});"])


def scan_text(kind: str, value: str, dtype: torch.dtype, position: str) -> tuple[str, str, str]:
    """(declaration before the loop, statement inside it, result after it) of a scan over values of `dtype`."""
    c = COMPUTE[dtype]
    wide = "double" if dtype.is_floating_point else c
    if kind in ("sum", "prod"):
        return f"{wide} acc_ = {0 if kind == 'sum' else 1};", f"acc_ {'+' if kind == 'sum' else '*'}= {value};", f"({c})acc_"
    if kind == "logsumexp":
        return "double acc_ = -__builtin_inf();", f"acc_ = lm_logaddexp(acc_, {value});", f"({c})acc_"
    wins = ">=" if kind.endswith("max") else "<="
    begin = f"{c} acc_ = {identity(kind.removeprefix('arg').replace('m', 'am', 1), dtype)}; i64 at_ = 0; (void)at_;"
    return begin, f"if ({value} != {value} || (acc_ == acc_ && {value} {wins} acc_)) {{ acc_ = {value}; at_ = {position}; }}", "at_" if kind.startswith("arg") else "acc_"
