"""Short programs over the whole language; `test_programs` counts their graph breaks."""

import contextlib
import copy
import dataclasses
import enum
import functools
import itertools
import math
from collections import OrderedDict, defaultdict, deque, namedtuple

import torch
from lamina_dynamo import graph_break

from ..observe import breaking_print as print

LOG = []
G = 5
WATCHED = ("LOG", "G")


def f1(x):
    y = x + 1; print('hi', 3); return y * 2
def f2(x):
    y = x + 1
    if y.sum() > 0: y = y * 2
    else: y = y - 1
    return y.relu()
def f3(x):
    out = []
    for i in range(4):
        x = x + i; print(i); out.append(x)
    return out, x
def f4(x):
    with torch.no_grad():
        y = x * 2; print('in', torch.is_grad_enabled()); z = y + 1
    print(torch.is_grad_enabled())
    return z
def f5(x):
    try:
        y = x + 1; print('a'); int('zz'); y = y * 3
    except ValueError as e:
        print('caught', e); y = x - 1; print('more'); y = y * 2
    finally:
        print('fin')
    return y
def g(t): 
    y = t * 3; print('g'); return y.relu()
def f6(x): return g(x + 1) - 1
def f7(x):
    n = 0
    def inc(k):
        nonlocal n
        n += k; return n
    inc(2); y = x + inc(3); print(n); inc(1); return y * n
def f8(x, lst):
    lst.append(x + 1); print(len(lst)); lst.append(lst[0] * 2); return lst
def f9(x):
    return [ (print(i), x + i)[1] for i in range(3)]
def f10(x):
    it = iter([1,2,3]); a = next(it); print(a); return x + next(it)
def gen(t):
    for i in range(3): yield t + i
def f11(x):
    s = 0
    for t in gen(x): print('it'); s = s + t
    return s
def f12(x):
    d = {'a': x, 'b': [x + 1]}
    for k, v in d.items(): print(k)
    return d
def f13(x, *args, k=3, **kw):
    print(len(args), k, sorted(kw)); return x + sum(args) + k + sum(kw.values())
def f14(x):
    try:
        raise KeyError('q')
    except KeyError:
        print('handling')
        try:
            raise
        except KeyError as e: print('re', e.args); return x + 1
def f15(x):
    while x.sum() < 20: x = x + 1.7
    return x
class CM:
    def __enter__(s): print('enter'); return 5
    def __exit__(s, *a): print('exit', a[0]); return True
def f16(x):
    with CM() as v:
        x = x + v; print('body'); x = x * 2; raise ValueError('boo')
    return x
def f17(x):
    y = x.sum().item()
    return x * y
def f18(x):
    z = f"{x.sum()}"; return x * len(z)

P = namedtuple('P','a b')
@dataclasses.dataclass
class DC:
    a: object; b: int = 3
    def tot(self): return self.a * self.b
class Color(enum.Enum): R=1; G=2
def a1(x):
    p = P(x+1, 2); d = DC(p.a); d.b = 5; graph_break(); return p, d, d.tot()
def a2(x):
    out = defaultdict(list); out['k'].append(x); graph_break(); out['z'].append(x*2); return dict(out)
def a3(x):
    s = 0
    for i, (a, b) in enumerate(zip([1,2,3],[4,5,6])):
        s = s + a*b*i + x
        if i == 1: graph_break()
    return s
def a4(x, c):
    match c:
        case {'k': v, **rest}: y = x * v
        case [a, *r]: y = x + a + len(r)
        case DC(a=q): y = x * q
        case _: y = x
    return y
class B:
    def __init__(self, v): self.v = v
    def __repr__(self): return f'{type(self).__name__}({vars(self)})'
    def f(self, x): return x * self.v
    @property
    def p(self): return self.v + 1
    def __call__(self, x): return self.f(x) + self.p
    def __getattr__(self, n):
        if n == 'zz': return 42
        raise AttributeError(n)
class C(B):
    def f(self, x): return super().f(x) + 1
    @classmethod
    def mk(cls, v): return cls(v)
    @staticmethod
    def st(x): return x - 1
def a5(x):
    c = C.mk(3); return c(x) + c.zz + C.st(x) + getattr(c, 'nope', 7) + hasattr(c, 'v')
def a6(x, o):
    o.n = o.v + 1; o.v = o.v * 2; graph_break(); del o.n; o.lst = [x]; return o.f(x)
def a7(x):
    f = functools.partial(lambda a, b, c=1: a*b + c, 2, c=5); g = functools.reduce(lambda a, b: a + b, [x, x*2, x*3]); return f(x) + g + sum(map(lambda t: t*2, [x, x]))
def a8(x):
    srt = sorted([3,1,2], key=lambda v: -v); return x * srt[0], max([1,5,2], key=lambda k: -k), [*itertools.chain([1],[2])], list(filter(None,[0,1,2]))
@contextlib.contextmanager
def ctx(n):
    LOG.append(('in', n))
    try: yield n * 2
    finally: LOG.append(('out', n))
def a9(x):
    with ctx(3) as a, ctx(4) as b: x = x * a + b
    return x, len(LOG)
def a10(x, n=0):
    if n > 4: return x
    return a10(x + n, n + 1)
def a11(x):
    global G
    G = G + 1; return x * G
def a12(x):
    a, *b = x.unbind(0); (c, d), e = (1, 2), 3; return a + c + d + e, b, x.shape, x.size(0), x.dtype, len(x)
def a13(x):
    x = x.clone(); x[0] = 5; x[:, 1] += 2; x.mul_(2); y = x.view(-1); y[0] = -1; return x, y
def a14(x):
    x.add_(1); return x
def a15(x):
    s = {1,2,3}; s.add(4); t = frozenset([1]); d = deque([1,2], maxlen=3); d.append(5); d.appendleft(0); od = OrderedDict(a=1); od.move_to_end('a'); return s, t, d, od, x
def a16(x):
    try: return [1,2][5] + x
    except IndexError as e: return x, str(e)
    finally: LOG.clear()
def a17(x):
    r = []
    for i in range(3):
        try:
            if i == 1: raise ValueError(i)
            r.append(x + i)
        except ValueError: r.append(x * 10); continue
        else: r.append(x - i)
        finally: r.append(i)
    return r
def a18(x):
    raise RuntimeError('user error')
def a19(x):
    def g():
        y = yield x
        z = yield y * 2
        return z
    it = g(); a = next(it); b = it.send(a + 1)
    try: it.send(b)
    except StopIteration as e: return e.value
def a20(x):
    def inner():
        yield from (x * i for i in range(3)); return 5
    return list(inner()), {k: v for k, v in zip('ab', inner())}, {i for i in range(3)}
def a21(x):
    class Loc:
        z = 3
        def m(self, t): return t * self.z
    return Loc().m(x)
def a22(x): return f"{x.shape} {3:>5} {'a'!r} {math.pi:.2f}", '%d %s' % (3, 'x'), "{}-{b}".format(1, b=2), x
def a23(x):
    l = [1]; l.append(l); d = {}; d['d'] = d; return x, len(l), l[1] is l, d['d'] is d
def a24(x, l):
    m = l; m.append(1); m += [2]; l.sort(reverse=True); del l[0]; graph_break(); l.insert(0, 9); return x + l[0], m is l
def a25(x): return torch.nn.functional.softmax(x, dim=-1), torch.cat([x, x], 1), torch.stack([x, x]), torch.zeros_like(x), torch.arange(3), x.sum(0, keepdim=True), torch.where(x > 1, x, -x), x.topk(2), x.max(1)
def a26(x):
    copies = copy.copy([x]), copy.deepcopy({'a': [1, (2, 3)]}); b = B(3); c2 = copy.copy(b); c2.v = 4; return copies, b.v, c2.v
def a27(x):
    it = iter(range(5)); graph_break(); a = next(it); graph_break(); return x + a, list(it)
def a28(x):
    with torch.autocast('cpu', dtype=torch.bfloat16): y = x @ x.T
    with torch.set_grad_enabled(False): z = x * 2
    return y, z, torch.is_grad_enabled()
@torch.no_grad()
def a29(x): return x * 2
def a30(x):
    walrus = (y := x + 1) * 2; lam = lambda *a, **k: (a, k); return walrus, y, lam(1, b=2), [1,2,3][::-1], (1,2)[:1], not x.shape, 1 < 2 < 3
def a31(x):
    try:
        try: {}['k']
        except KeyError as e: raise ValueError('w') from e
    except ValueError as e: graph_break(); return x, repr(e.__cause__), str(e)
def a32(x):
    d = {'a': 1}; d.update(b=2); d.setdefault('c', []).append(3); d |= {'z': 1}; x2 = d.pop('a'); return d, x2, list(d.items()), {**d, 'q': x}

class Output(OrderedDict):  # as transformers' ModelOutput: items and attributes say the same
    a = None
    def __init__(self, **kw):
        super().__init__(**kw)
        for k, v in kw.items(): super().__setattr__(k, v)
    def __setattr__(self, k, v):
        super().__setitem__(k, v); super().__setattr__(k, v)
def a33(x):
    e = Output(a=x * 2); graph_break(); z = Output(b=e.a + 1); e.c = z; graph_break(); e.a = 3; return z, e, e.c.b, e.a, e['a'], vars(z)


ARGS = {
    "a4": lambda x: (x, {"k": 3, "q": 1}), "a6": lambda x: (x, C(3)), "a24": lambda x: (x, [3, 1, 2]), "f8": lambda x: (x, [x]),
}
