"""Containers: list, dict, set, tuple, deque, defaultdict, OrderedDict, Counter, ChainMap, views, slices, unpacking, sorting."""

import bisect
import collections
import heapq
import operator
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple

from lamina_dynamo import graph_break

from ..observe import breaking_print as print

TABLE = {"a": 1, "b": [2]}
WATCHED = ("TABLE",)
Point = namedtuple("Point", "x y", defaults=(7,))


def list_methods(x):
    l = [3, 1, 2]
    l.append(4); l.extend(range(2)); l.insert(1, 9); l.remove(3); p = l.pop(); q = l.pop(0)
    l.reverse(); c = l.copy(); l.sort(); i = l.index(2); n = l.count(1)
    graph_break()
    l.clear(); l += [1]; l *= 3
    return x + p + q, l, c, i, n, [0] * 3, [1] + [2], [1, 2] < [1, 3], [1] == [1.0]

def list_slices(x):
    l = list(range(10)); l[2:5] = [x]; l[::3] = l[::3][::-1]; del l[1:3]; s = slice(1, None, 2); print(s)
    del l[-1]; l[len(l):] = [5, 6]; a = l[s]; l[1:1] = ["in"]
    return l, a, s.indices(5)

def list_errors(x):
    out = []
    for f in (lambda: [].pop(), lambda: [1].remove(2), lambda: [1].index(2), lambda: [1][1:2][0], lambda: (1,)[3], lambda: [1, "a"].sort(), lambda: {}["k"], lambda: {1: 2}.pop(3), lambda: set().pop(), lambda: [1][None], lambda: 5[0], lambda: deque().popleft(), lambda: int("q"), lambda: {[]: 1}):
        try: f()
        except Exception as e: out.append((type(e).__name__, str(e)))
    return x, out

def dict_methods(x):
    d = dict(a=1, b=2); d.update({"c": x}); d.update([("d", 4)], e=5); v = d.setdefault("a", 9); w = d.setdefault("z", []); w.append(1)
    p = d.pop("b"); q = d.pop("no", None); r = d.popitem(); g = d.get("a"), d.get("no"), d.get("no", 3)
    graph_break()
    d2 = d | {"n": 1}; d |= {"m": 2}; c = d.copy(); d.clear()
    return d, c, d2, v, p, q, r, g, dict.fromkeys("ab", 0), dict(zip("ab", [1, x])), list(reversed(c)), "a" in c, len(c)

def dict_views(x):
    d = {"a": 1, "b": x, "c": 3}; k, v, i = d.keys(), d.values(), d.items()
    d["q"] = 5; graph_break(); d["r"] = 6
    return list(k), list(v), list(i), len(k), "q" in k, ("a", 1) in i, k & {"a", "zz"}, sorted(k | {"zz"}), sorted(k - {"a"}), k == {"a": 0, "b": 0, "c": 0, "q": 0, "r": 0}.keys(), k.isdisjoint({"y"})

def dict_live_view_loop(x):
    d = {"a": 1, "b": 2}; out = []
    for k in list(d): d[k + "2"] = d.pop(k); print(k)
    for i, (k, v) in enumerate(d.items(), 1):
        out.append((i, k, v))
        if v == 1: graph_break()
    return out, x, next(iter(d.values()))

def dict_changed_while_iterated(x):
    d = {"a": 1, "b": 2}
    try:
        for k in d: d[k + "x"] = 1
    except RuntimeError as e: return str(e), sorted(d), x

def dict_keys_of_kinds(x):
    d = {1: "int", "1": "str", (1, 2): "tuple", None: "none", 2.5: "float", True: "bool", frozenset([1]): "fs", int: "type"}
    graph_break()
    return d, d[1], d[(1, 2)], d[1.0], x

def set_methods(x):
    s = {1, 2, 3}; s.add(4); s.discard(9); s.remove(1); t = s.copy(); s.update([7, 8], (9,)); s |= {10}; s &= set(range(9)); s -= {2}; s ^= {3, 50}
    graph_break()
    a = {1, 2} | {3}, {1, 2} & {2}, {1, 2} - {2}, {1, 2} ^ {2, 3}; b = {1} <= {1, 2}, {1} < {1}, {1, 2} >= {2}, {1}.issubset([1]), {1}.union([2], [3]), {1, 2}.isdisjoint({3})
    s.intersection_update([4, 7]); s.symmetric_difference_update([1]); s.difference_update([4])
    return s, t, a, b, frozenset([1]) | {2}, x

def outside_containers(x, l, d, s, q):
    l.append(x + 1); l[0] = 5; d["new"] = l; d["list"].append(3); del d["gone"]; s.add(9); s.discard(1); q.append(1); q.rotate(1); q.popleft()
    print(len(l), sorted(s))
    l[1:2] = [7, 8]; d["list"][0] = "z"; s |= {77}; d.update(k=1); q.extend([4, 5]); d["self"] = d
    return l, d, q

def outside_aliases(x, l, m, d):
    l.append(1); graph_break(); m.append(2); d["l"].append(3)
    return l is m, d["l"] is l, len(l), x

def deque_methods(x):
    d = deque([1, 2, 3], maxlen=4); d.append(4); d.append(5); d.appendleft(0); d.extend([7]); d.extendleft([8, 9]); d.rotate(1); d.rotate(-2); a = d.pop(); b = d.popleft()
    graph_break()
    d.insert(1, "i"); d.remove("i"); d.reverse(); d[0] = x; c = d.copy(); n = d.count(7); d.clear()
    return d, c, a, b, n, list(c), len(c), c.maxlen, list(reversed(c)), deque("ab") + deque("c")

def defaultdict_methods(x):
    d = defaultdict(list); d["a"].append(x); d["b"] += [1]; n = d["missing"]; c = d.copy(); graph_break(); d["late"].append(3)
    k = defaultdict(lambda: 5); k["q"] += 1; e = defaultdict(int, z=1); e["y"] += 2
    return d, c, n, dict(k), e, "no" in d, d.get("no"), list(d)

def ordereddict_methods(x):
    d = OrderedDict([("a", 1), ("b", 2), ("c", x)]); d.move_to_end("a"); d.move_to_end("c", last=False); p = d.popitem(last=False); graph_break(); d["z"] = 0; q = d.popitem()
    return d, p, q, list(reversed(d)), d == OrderedDict(b=2, a=1), d == {"b": 2, "a": 1}, OrderedDict.fromkeys("xy", 2)

def counter_methods(x):
    c = Counter("abracadabra"); c.update("aaa"); c["z"] += 2; m = c.most_common(2); graph_break(); c.subtract({"a": 3}); e = sorted(c.elements())
    return c, m, "".join(e), c["nope"], c + Counter(a=1), c - Counter(a=100), c & Counter(a=1, b=9), c | Counter(q=1), sum(c.values()), c.total(), x

def chainmap_methods(x):
    c = ChainMap({"a": 1}, {"a": 2, "b": 3}); c["n"] = 5; d = c.new_child({"m": x})
    return dict(c), d["b"], d["m"], list(d), c.maps, "n" in c, d.parents is not c

def namedtuple_methods(x):
    p = Point(x, 2); q = p._replace(y=5); a, b = p; graph_break(); r = Point._make([1, 2])
    return p, q, a, r._asdict(), Point._fields, Point(1).y, p.x is x, p[1], p == (x, 2) if False else r == (1, 2), isinstance(p, tuple), repr(r)

def unpacking(x, t):
    a, (b, *c), *d, e = t; [f, g] = "hi"; h, = [1]; *i, = range(3); (j, k), l = (1, 2), 3
    m = [*c, *d, 0]; n = {**{"a": 1}, "b": 2, **{"a": 3}}; o = (*i, *m); p = {*i, 9}
    graph_break()
    return a, b, c, d, e, f, g, h, i, j + k + l, m, n, o, p, x

def unpacking_errors(x):
    out = []
    for v in ([1], [1, 2, 3], 5):
        try: a, b = v
        except (ValueError, TypeError) as e: out.append(str(e)); print("bad", v)
    try: a, b, *c = [1]
    except ValueError as e: out.append(str(e))
    return out, x

def sorting(x):
    rows = [("b", 2), ("a", 2), ("c", 1)]
    return x, sorted(rows, key=lambda r: (r[1], r[0])), sorted(rows, key=operator.itemgetter(1), reverse=True), min(rows, key=lambda r: r[1]), max([1, 5], default=0), min([], default=3), sorted({"b": 1, "a": 2}), sum([[1], [2]], []), any(v > 1 for _, v in rows), all([]), list(reversed(rows)), sorted("hello", key=str.upper)

def sort_with_break(x):
    l = [3, 1, 2]
    l.sort(key=lambda v: (print("key", v), -v)[1])
    return l, x

def heaps(x):
    h = [5, 1, 4]; heapq.heapify(h); heapq.heappush(h, 0); a = heapq.heappop(h); graph_break(); l = [1, 3, 5]; bisect.insort(l, 4)
    return h, a, heapq.nsmallest(2, h), l, bisect.bisect(l, 3), list(heapq.merge([1, 4], [2])), x

def zips_and_maps(x):
    z = zip([1, 2, 3], "abc"); first = next(z); graph_break(); rest = list(z); m = map(lambda a, b: a * b, [1, 2], [3, 4]); f = filter(lambda v: v % 2, range(5)); e = enumerate("ab", 5); r = reversed([1, 2])
    return first, rest, list(m), list(f), list(e), list(r), x, dict(enumerate("ab")), list(zip(*[(1, 2), (3, 4)])), [*map(str, [1, 2])]

def strict_zip(x):
    try: return list(zip([1], [1, 2], strict=True))
    except ValueError as e: print(e); return x

def live_iterators(x):
    a = iter([1, 2, 3]); b = iter({"k": 1, "l": 2}); c = iter(range(10, 20)); d = enumerate([x, x + 1]); e = iter("xyz"); f = iter({5}); g = iter((1, 2))
    got = next(a), next(b), next(c), next(d), next(e), next(g)
    print("break", got[0])
    return got, list(a), list(b), next(c), list(d), "".join(e), list(f), list(g), next(iter([]), "none")

def iterator_shared_by_two_loops(x):
    it = iter(range(6)); out = []
    for i in it:
        out.append(i)
        for j in it:
            out.append(-j)
            if j % 2: print("odd"); break
    return out, x

def mutate_list_while_iterating(x):
    l = [1, 2, 3]; out = []
    for i in l:
        out.append(i)
        if i < 3: l.append(i + 5)
        if i == 2: print("mid")
    return l, out, x

def nested_comprehensions(x):
    a = [[i * j for j in range(3) if j != 1] for i in range(2)]; b = {k: [v for v in range(k)] for k in range(3)}; c = {i % 2 for i in range(5)}; d = [y for y in [x * i for i in range(2)]]; e = list((i, j) for i in range(2) for j in "ab")
    return a, b, c, d, e, [k for k, v in b.items() if v], [(lambda: i)() for i in range(2)]

def comprehension_with_break(x):
    k = 3; a = [(print("c", i), i + k)[1] for i in range(3)]; b = {j: print("d", j) for j in "ab"}; c = sum((print("g", i) or i) for i in range(2)); i = 5
    return a, b, c, i, x

def tensors_in_containers(x):
    l = [x, x + 1]; d = {"t": l[1]}; l[0] = l[0] * 2; graph_break(); l[1].add_(1); t = tuple(l)
    return l, d, t, l[1] is d["t"], [a.shape for a in l]

def cyclic(x):
    l = [1]; l.append(l); d = {"l": l}; l.append(d); graph_break(); l[2]["x"] = x
    return l, d

def global_containers(x):
    TABLE["a"] += 1; TABLE["b"].append(5); TABLE["n"] = x; graph_break(); TABLE["b"] = list(reversed(TABLE["b"])); TABLE.pop("a")
    return len(TABLE)

def user_containers(x):
    d = collections.UserDict(a=1); d["b"] = 2
    return dict(d), len(d), x

def bytes_and_ranges(x):
    b = bytes([1, 2]); a = bytearray(b"ab"); a.append(99); r = range(10, 0, -3); graph_break(); a[0] = 120
    return b, a, b"a" + b"b", r, list(r), len(r), 7 in r, r[1], r[1:], b.hex(), r.index(4), memoryview(b)[0], x


ARGS = {
    "outside_containers": lambda x: (x, [1, 2, x], {"list": [1], "gone": 1}, {1, 2}, deque([1, 2], maxlen=5)),
    "outside_aliases": lambda x: (lambda l: (x, l, l, {"l": l}))([0]),
    "unpacking": lambda x: (x, (1, [2, 3, 4], 5, 6, 7)),
}
