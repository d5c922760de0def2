"""Texts of values that only the run knows, print and logging: as in eager, in eager's order, in one graph; where a text decides something, a break."""

import functools
import logging
import sys
import warnings

import lamina_dynamo
import pytest
import torch
from lamina_dynshape.support.counters import counters

from backends import BACKENDS

log = logging.getLogger("lamina test of texts")


class Shown:
    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return f"Shown({self.x.sum():.2f})"


def f_strings(x, i):
    y = x * 2
    n = i.sum().item()
    return y, f"{y.sum():.3f} {y} {n} {n!r:>4} {x!r}", f"{y.sum()}" + " and " + str(n) + f"{n:03d}"


def other_forms(x, i):
    n = i.sum().item()
    return "%d of %s, %.2f" % (n, i, x.sum()), "{} {:.3f}".format(i, x.sum()), ", ".join([str(t) for t in i]), format(x.mean(), ".1e")


def containers(x, i):
    return str([x.sum(), 1, "a"]), f"{(i.sum().item(),)}", repr({"k": i, 2: [None, x.mean().item()]}), str(Shown(x))


def printed(x, i):
    print("start", x.shape)
    y = x + 1
    print("y", y, y.sum().item(), sep="|")
    for t in i:
        print(t.item(), end=" ")
    print()
    print(f"{y.mean():.4f}", file=sys.stdout, flush=True)
    return y * 2


def printed_list(x, i):
    seen = [1]
    print(seen, {"a": seen})
    seen.append(x.shape[0])
    print(seen)
    return x * 2


def logged(x, i):
    log.info("sum %s of %d", x.sum(), i.sum().item())
    log.debug("not shown %s", x)
    log.warning(f"mean {x.mean():.3f}")
    logging.getLogger("lamina test of texts").log(logging.ERROR, "bad")
    return x * 2


def unused(x, i):
    message = f"bad {x} of {i.sum().item()}"
    assert x.dim() == 2, message
    if x.shape[1] != 6:
        raise ValueError(message)
    return x * 2


def in_a_raise(x, i):
    n = (i > 1).sum()
    if n > 100:
        raise ValueError(f"tokens {n}, features {x.shape[0]}: {x.sum().item():.2f}")
    return x * n


def kept(x, i):
    kept.text = f"sum {x.sum():.2f}"
    kept.lines = [f"{i}"]
    return x * 2


def numbers(x, i):
    text = ""
    for t in i:
        text += f"{t.item()},"
    return text, f"{i.sum().item() + 1} {x.sum().item() * 2:.3f} {i.sum().item() > 3}"


def written_before(x, i):
    y = x.clone()
    y.mul_(2)
    print(y)
    return y


WHOLE = [f_strings, other_forms, containers, printed, printed_list, logged, unused, in_a_raise, kept, numbers, written_before]


def compared(x, i):
    return x * 2 if f"{i.sum()}" == "6" else x


def as_key(x, i):
    return x * {f"{i.sum()}": 3}.get(f"{i.sum()}", 2)


def measured(x, i):
    return x * len(f"{i.sum()}"), f"{i.sum().item():d}".upper(), " ".join([f"{i}"]).split()


def written_after(x, i):
    y = x * 2
    print(y)
    y.mul_(3)
    text = f"{i}"
    i.add_(1)
    return y, text


def in_c(x, i):
    return x * int(f"{i.sum()}"), sorted([f"{i.sum()}", "3"])


def caught(x, i):
    try:
        raise ValueError(f"n {i.sum().item()}")
    except ValueError as e:
        return x * len(str(e))


def options(x, i):
    torch.set_printoptions(precision=2)
    text = str(x)
    torch.set_printoptions(profile="default")
    return text


BROKEN = [compared, as_key, measured, written_after, in_c, caught, options]


def _run(f, capsys, caplog):
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=log.name):
        outs = [f(torch.arange(12.0).view(2, 6) * n, torch.tensor([1, 2, 3]) * n) for n in range(1, 4)]
    records = [(r.getMessage(), r.levelname, r.lineno, r.filename, r.funcName) for r in caplog.records]
    return outs, capsys.readouterr().out, records, dict(kept.__dict__)


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and (all(map(_equal, a, b)) and len(a) == len(b) if isinstance(a, (tuple, list)) else a == b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("program", [*WHOLE, *BROKEN], ids=lambda p: p.__name__)
def test_texts(program, backend, capsys, caplog):
    fast = lamina_dynamo.optimize(program, BACKENDS[backend])
    expected = _run(program, capsys, caplog)
    counters.clear()
    assert _equal(_run(fast, capsys, caplog), expected)
    assert bool(sum(counters["graph_breaks"].values())) == (program in BROKEN), counters["graph_breaks"]
    if program in WHOLE:
        assert counters["frames"]["captured"] == 1 and counters["graphs"]["captured"] == 1


def test_what_a_failed_check_prints(capsys):
    def program(x):
        print("before", x.sum())
        if x.sum() > 10:
            raise ValueError(f"too large: {x.sum()}")
        print("after")
        return x * 2

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    outs = []
    for f in (program, fast):
        f(torch.ones(2))
        with pytest.raises(ValueError) as e:
            f(torch.full((2,), 10.0))
        outs.append((capsys.readouterr().out, str(e.value)))
    assert outs[0] == outs[1]


def test_a_program_that_raises_with_a_text_of_a_tensor():
    def program(x):
        raise KeyError(f"sum {x.sum()}")

    for fullgraph in (False, True):
        with pytest.raises(KeyError, match="sum 3.0"):
            lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=fullgraph)(torch.ones(3))


def test_prints_around_a_break(capsys):
    def program(x):
        print("one", x.sum())
        lamina_dynamo.graph_break()
        print("two", x.mean())
        return x * 2

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    program(torch.ones(2))
    expected = capsys.readouterr().out
    for _ in range(2):
        fast(torch.ones(2))
        assert capsys.readouterr().out == expected


def test_parameters_and_gradients(capsys):
    """What an input says of its history is the program's own; a scalar is shown as a number."""
    layer = torch.nn.Linear(2, 2)

    def program(x):
        loss = layer(x).sum()
        print(layer.bias, f"{loss:.3f} {loss}", x)
        return loss

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    x = (torch.ones(3, 2, requires_grad=True) * 2)
    outs = []
    for f in (program, fast):
        layer.zero_grad()
        f(x).backward(retain_graph=True)
        outs.append((capsys.readouterr().out, layer.bias.grad.tolist()))
    assert outs[0] == outs[1]


def test_output_in_checkpointed_regions(capsys):
    """Eager prints again in the backward."""
    from torch.utils.checkpoint import checkpoint

    def inner(x):
        print("inner")
        return x.sin().exp()

    def program(x):
        return checkpoint(inner, x, use_reentrant=False).sum()

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    outs = []
    for f in (program, fast):
        f(torch.ones(2, requires_grad=True)).backward()
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]


def test_the_text_of_a_tensor_with_a_history_is_a_break():
    def program(w):
        return str(w * 2), str(w.detach() * 2)

    counters.clear()
    w = torch.ones(2, requires_grad=True)
    assert lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)(w) == program(w)
    assert counters["graph_breaks"]["tensor-text"] == 1


def test_attributes_of_the_compiled_function():
    def program(x):
        program.calls += 1
        program.last = x * 2
        return program.last + 1

    program.calls = 0
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    for _ in range(3):
        fast(torch.ones(2))
    assert program.calls == 3 and torch.equal(program.last, torch.full((2,), 2.0))


@functools.lru_cache(None)
def logged_once(text):
    log.warning(text)


def keyed(x, kept={}):  # noqa: B006  (what the text decides)
    key = f"{x.shape[0]}x{x.shape[1]}"
    if key not in kept:
        kept[key] = len(kept)
    return x + kept[key]


def broken_between(x):
    text = f"before {x.shape[0]}"
    lamina_dynamo.graph_break()
    print(text, len(text))
    return x + 1


TEXTS_OF_SIZES = {
    "printed": (lambda x: (print(f"{x.shape[0]:>4} of", x.shape, [x.shape[0]], (x.numel(),), {"n": x.shape[0]}), x + 1)[1], 2),
    "logged": (lambda x: (log.warning(f"{x.shape[0] / 2:.3f} %s %d", x.shape, x.shape[0]), x + 1)[1], 2),
    "below the level": (lambda x: (log.debug(f"{tuple(x.shape)}"), x + 1)[1], 2),
    "logged once": (lambda x: (logged_once(f"length {x.shape[0] // 2}"), x + 1)[1], 2),
    "warned": (lambda x: (warnings.warn(f"length {x.shape[0]}", stacklevel=1), x + 1)[1], 2),
    "returned": (lambda x: (f"{x.shape[0]}" + "!", "%d-%s" % (x.shape[0], x.shape[1]), x + 1), 2),
    "raised and caught": (lambda x: raised_and_caught(x), 2),
    "decides": (keyed, 5),
    "its length decides": (lambda x: x + len(f"{x.shape[0]}"), 5),
    "around a break": (broken_between, None),
}


def raised_and_caught(x):
    try:
        if x.shape[0] > 1:
            raise ValueError(f"too long: {x.shape[0]}")
    except ValueError:
        return x - 1


@pytest.mark.parametrize("program, most", TEXTS_OF_SIZES.values(), ids=TEXTS_OF_SIZES)
def test_texts_of_sizes_that_change(program, most, capsys, caplog):
    def calls(fn):
        logged_once.cache_clear()
        keyed.__defaults__[0].clear()
        caplog.clear()
        out = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for n in (3, 4, 5, 12, 4):
                result = fn(torch.ones(n, 2))
                out.append([v if isinstance(v, str) else v.tolist() for v in (result if isinstance(result, tuple) else (result,))])
        return out, [str(w.message) for w in warned], [r.getMessage() for r in caplog.records], capsys.readouterr().out

    graphs = []
    want = calls(program)
    assert calls(lamina_dynamo.optimize(program, lambda gm, example_inputs: graphs.append(gm) or gm.forward)) == want
    assert most is None or len(graphs) <= most
