"""The opcode table against the running Python."""

import dis

from lamina_dynamo.bytecode import _PAIRS, Program, live_locals
from lamina_dynamo.opcodes import HANDLERS, UNSUPPORTED, _load_all


def test_every_opcode_is_handled_or_refused_with_a_reason():
    _load_all()
    real = {n for n, code in dis.opmap.items() if code < 256 and not n.startswith("INSTRUMENTED_")}
    missing = real - set(HANDLERS) - set(UNSUPPORTED)
    assert not missing, sorted(missing)


def test_decoded_instructions_agree_with_dis():
    def f(a, *b, c=1, **d):
        for i in b:
            try:
                a += i if c else [j for j in d]
            except ValueError as e:
                raise KeyError from e
            finally:
                c = lambda: a
        return a, c

    ours = Program(f.__code__).instructions
    theirs = [i for i in dis.get_instructions(f) if i.opname not in ("CACHE", "EXTENDED_ARG")]
    assert [(i.op, i.offset) for i in ours] == [(name, i.offset) for i in theirs for name in _PAIRS.get(i.opname, (i.opname,))]
    jumps = {i.offset: i.argval for i in theirs if i.opcode in dis.hasjrel}
    assert {i.offset: ours[i.target].offset for i in ours if i.target is not None} == jumps


def test_exception_table_agrees_with_dis():
    def f(x):
        try:
            with x as y:
                return y
        except ValueError:
            return None

    program = Program(f.__code__)
    table = dis._parse_exception_table(f.__code__)
    offset = [i.offset for i in program.instructions]
    assert [(offset[e.start], offset[e.target], e.depth, e.lasti) for e in program.entries] == [(t.start, t.target, t.depth, t.lasti) for t in table]


def test_a_dead_local_is_not_live():
    def f(a, b):
        c = a + 1
        b = c
        return b

    program = Program(f.__code__)
    names = f.__code__.co_varnames
    assert {names[i] for i in live_locals(program, 0)} == {"a"}


def test_assembling_a_copy_gives_the_same_behaviour():
    from lamina_dynamo.assembler import assemble, copy_instructions

    def f(n):
        out = []
        for i in range(n):
            try:
                if i == 2:
                    raise ValueError(i)
                out.append(i)
            except ValueError as e:
                out.append(str(e))
        return out

    code = f.__code__
    copied = assemble(copy_instructions(Program(code), lambda i: i), code)
    if not any(i.opname in _PAIRS for i in dis.get_instructions(code)):
        assert copied.co_code == code.co_code
    assert list(copied.co_lines()) and f.__class__(copied, {})(5) == f(5)
    assert dis._parse_exception_table(assemble(copy_instructions(Program(copied), lambda i: i), copied)) == dis._parse_exception_table(copied)


def test_a_jump_that_comes_to_point_the_other_way_has_the_size_of_its_new_kind():
    from lamina_dynamo.assembler import assemble, copy_instructions

    def f(n):
        for i in range(n):
            n += i
        return n

    items = copy_instructions(Program(f.__code__), lambda i: i)
    at = next(i for i, a in enumerate(items) if a.op == "JUMP_BACKWARD")
    back, target = items[at], items[at].target
    ahead = copy_instructions(Program(f.__code__), lambda i: i)
    last = [a for a in ahead if a.op in ("RETURN_VALUE", "LOAD_FAST")][-2]
    ahead[at].target = last
    for jump, wanted in ((back, "JUMP_BACKWARD"), (ahead[at], "JUMP_FORWARD")):
        code = assemble(items if jump is back else ahead, f.__code__)
        found = Program(code).instructions
        assert [i.op for i in found] == [a.op for a in (items if jump is back else ahead)]
        assert found[at].op == wanted and found[found[at].target].op == jump.target.op
    assert f.__class__(assemble(items, f.__code__), {"range": range})(4) == 10
    assert f.__class__(code, {"range": range})(4) == 4 and target is not last


def test_breaks_where_a_resume_function_has_more_than_sixteen_locals():
    import lamina_dynamo
    import torch

    def broken(x, v):
        lamina_dynamo.graph_break()
        return x + v

    def f(x):
        return [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, x.sum(), broken(x, 15), [broken(x, v)[0] * i for i, v in enumerate((x, x + 1))]]

    x = torch.arange(3.0)
    assert str(lamina_dynamo.optimize(f, lambda gm, examples: gm.forward)(x)) == str(f(x))
