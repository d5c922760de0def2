// Guard programs: sources as a flat array of nodes, parents first, with the checks of each node behind it.
//
// `Program::full` reads every node and runs every check; it keeps a strong reference to each value while it runs, since
// attribute access may call user code. The remembered short form of a successful run is in witness.h.
namespace {

// Order as in native/lower.py.
enum Access : uint8_t {
  SLOT, GLOBALS, CELL, CONST, ATTR, INST_DICT, TYPE_OF, TYPE_ATTR, ITEM, KEY, CODE, CLOSURE, DEFAULT, KWDEFAULT, METHOD_SELF, METHOD_FUNC, CALL, FREE_CELL, JOIN, MEMBER
};

struct Node {
  Access access;
  int parent;       // -1 for roots
  Py_ssize_t index; // slot, cell, list index, ...; JOIN: the node whose value is appended to the parent's tuple, -1: a tuple of the parent
  Ref key;          // attribute, dictionary key, constant, function
  int first, last;  // its checks
  bool is_container = false;  // something depends on what it holds as a dictionary
  bool weak = false;          // CONST: `key` is a weak reference (classes: a guard must not keep one alive)
};

struct Roots {
  PyObject* const* slots;
  PyObject* globals;
  PyObject* closure;  // tuple of cells or null
};

// ---- shape conditions ----------------------------------------------------------------------------------------------
enum LeafKind : uint8_t { LEAF_SIZE, LEAF_STRIDE, LEAF_OFFSET, LEAF_INT };
struct Leaf {
  int node;
  LeafKind kind;
  int dim;
};

// Order as in native/lower.py.
enum ShapeOp : uint8_t { S_CONST, S_LEAF, S_ADD, S_SUB, S_MUL, S_FLOORDIV, S_MOD, S_NEG, S_MIN, S_MAX, S_EQ, S_NE, S_LT, S_LE, S_GT, S_GE, S_AND, S_OR, S_NOT, S_ABS, S_TRUNCDIV };
struct ShapeInst {
  ShapeOp op;
  int64_t arg;
};
constexpr int MAX_SHAPE_STACK = 64;
struct Shape {
  int guard;
  std::vector<ShapeInst> code;
};

bool leaf_value(const Leaf& l, PyObject* v, int64_t* out) {
  if (l.kind == LEAF_INT) {
    if (!PyLong_Check(v)) return false;
    int overflow = 0;
    *out = PyLong_AsLongLongAndOverflow(v, &overflow);
    return !overflow;
  }
  if (!is_tensor(v)) return false;
  try {
    c10::TensorImpl* t = impl_of(v);
    if (l.kind == LEAF_OFFSET) return *out = t->storage_offset(), true;
    c10::IntArrayRef a = l.kind == LEAF_SIZE ? t->sizes() : t->strides();
    int64_t d = l.dim < 0 ? l.dim + (int64_t)a.size() : l.dim;
    if (d < 0 || d >= (int64_t)a.size()) return false;
    return *out = a[d], true;
  } catch (const std::exception&) {
    return false;
  }
}

bool shape_holds(const std::vector<ShapeInst>& code, const int64_t* leaves) {  // false also on overflow and division by zero
  int64_t s[MAX_SHAPE_STACK];
  int n = 0;
  for (const ShapeInst& i : code) {
    if (i.op == S_CONST) { s[n++] = i.arg; continue; }
    if (i.op == S_LEAF) { s[n++] = leaves[i.arg]; continue; }
    if (i.op == S_NEG) { if (s[n - 1] == INT64_MIN) return false; s[n - 1] = -s[n - 1]; continue; }
    if (i.op == S_ABS) { if (s[n - 1] == INT64_MIN) return false; s[n - 1] = s[n - 1] < 0 ? -s[n - 1] : s[n - 1]; continue; }
    if (i.op == S_NOT) { s[n - 1] = !s[n - 1]; continue; }
    int64_t b = s[--n], &a = s[n - 1], r = 0;
    switch (i.op) {
      case S_ADD: if (__builtin_add_overflow(a, b, &r)) return false; break;
      case S_SUB: if (__builtin_sub_overflow(a, b, &r)) return false; break;
      case S_MUL: if (__builtin_mul_overflow(a, b, &r)) return false; break;
      case S_FLOORDIV: if (!b || (a == INT64_MIN && b == -1)) return false; r = a / b - (a % b != 0 && (a < 0) != (b < 0)); break;
      case S_TRUNCDIV: if (!b || (a == INT64_MIN && b == -1)) return false; r = a / b; break;
      case S_MOD: if (!b || (a == INT64_MIN && b == -1)) return false; r = a % b; if (r && (r < 0) != (b < 0)) r += b; break;
      case S_MIN: r = a < b ? a : b; break;
      case S_MAX: r = a > b ? a : b; break;
      case S_EQ: r = a == b; break;
      case S_NE: r = a != b; break;
      case S_LT: r = a < b; break;
      case S_LE: r = a <= b; break;
      case S_GT: r = a > b; break;
      case S_GE: r = a >= b; break;
      case S_AND: r = a && b; break;
      case S_OR: r = a || b; break;
      default: return false;
    }
    a = r;
  }
  return n == 1 && s[0];
}

// ---- the program ---------------------------------------------------------------------------------------------------
enum Relation { SAME_OBJECT, OTHER_OBJECTS, OTHER_STORAGES };

struct Alias {  // what holds of `nodes`: all the same, or pairwise different
  int guard;
  Relation relation;
  std::vector<int> nodes;
};

struct Supplied {  // handed to the replacement code: the value of a node, or a number of a tensor
  bool is_leaf;
  int node;
  Leaf leaf;
};

struct Failure {
  int guard = -1;
  Ref value;  // what was read; null: it could not be read
};

struct Program {
  std::vector<Node> nodes;
  std::vector<Check> checks;
  std::vector<Leaf> leaves;
  std::vector<Shape> shapes;
  std::vector<Alias> aliases;
  std::vector<Supplied> supplied;
  bool has_state = false;
  int state_guard = -1;
  State state;
  int num_slots = 0;
  // How often a remembered container (tag) or value of a node turned out changed: then it is re-read instead. Shared by all witnesses.
  std::vector<uint8_t> tag_misses, value_misses;

  bool full(const Roots& r, const State& now, std::vector<Ref>& val, Failure* why) const;
  bool tensor_checks_hold(int node, PyObject* v) const;
  bool across(PyObject* const* val, Failure* why) const;
  static Ref read(const Node& n, PyObject* base, const Roots& r);
};

PyObject* nth_key(PyObject* d, Py_ssize_t n) {  // new reference
  if (PyODict_Check(d)) {
    Ref keys = ordered_keys(d);
    if (!keys || n >= PyList_GET_SIZE(keys.p)) return nullptr;
    return Py_NewRef(PyList_GET_ITEM(keys.p, n));
  }
  Py_ssize_t pos = 0;
  PyObject *k, *v;
  while (PyDict_Next(d, &pos, &k, &v))
    if (n-- == 0) return Py_NewRef(k);
  return nullptr;
}

// The value without running user code; null: not there, or not readable that way.
PyObject* read_borrowed(const Node& n, PyObject* base, const Roots& r) {
  switch (n.access) {
    case SLOT: return r.slots[n.index];
    case GLOBALS: return r.globals;
    case FREE_CELL: return r.closure && n.index < PyTuple_GET_SIZE(r.closure) ? PyTuple_GET_ITEM(r.closure, n.index) : nullptr;
    case CELL: return r.closure && n.index < PyTuple_GET_SIZE(r.closure) ? PyCell_GET(PyTuple_GET_ITEM(r.closure, n.index)) : nullptr;
    case CONST: {
      PyObject* v = n.weak ? weak_target(n.key.p) : n.key.p;
      return n.weak && v == Py_None ? nullptr : v;
    }
    case ATTR: { Found by; return plain_attr(base, n.key.p, &by); }
    case INST_DICT: return instance_dict(base);
    case TYPE_OF: return (PyObject*)Py_TYPE(base);
    case TYPE_ATTR: return PyType_Check(base) ? _PyType_Lookup((PyTypeObject*)base, n.key.p) : nullptr;
    case ITEM:
      if (PyDict_Check(base)) {
        PyObject* v = PyDict_GetItemWithError(base, n.key.p);
        if (!v && PyErr_Occurred()) PyErr_Clear();
        return v;
      }
      if (!PyLong_CheckExact(n.key.p)) return nullptr;
      if (PyList_Check(base)) { Py_ssize_t i = n.index < 0 ? n.index + PyList_GET_SIZE(base) : n.index; return i >= 0 && i < PyList_GET_SIZE(base) ? PyList_GET_ITEM(base, i) : nullptr; }
      if (PyTuple_Check(base)) { Py_ssize_t i = n.index < 0 ? n.index + PyTuple_GET_SIZE(base) : n.index; return i >= 0 && i < PyTuple_GET_SIZE(base) ? PyTuple_GET_ITEM(base, i) : nullptr; }
      return nullptr;
    case CODE: return PyFunction_Check(base) ? PyFunction_GET_CODE(base) : nullptr;
    case CLOSURE: {
      PyObject* c = PyFunction_Check(base) ? PyFunction_GET_CLOSURE(base) : nullptr;
      return c && n.index < PyTuple_GET_SIZE(c) ? PyCell_GET(PyTuple_GET_ITEM(c, n.index)) : nullptr;
    }
    case DEFAULT: {
      PyObject* d = PyFunction_Check(base) ? PyFunction_GET_DEFAULTS(base) : nullptr;
      Py_ssize_t i = d && n.index < 0 ? n.index + PyTuple_GET_SIZE(d) : n.index;
      return d && i >= 0 && i < PyTuple_GET_SIZE(d) ? PyTuple_GET_ITEM(d, i) : nullptr;
    }
    case KWDEFAULT: {
      PyObject* d = PyFunction_Check(base) ? PyFunction_GET_KW_DEFAULTS(base) : nullptr;
      return d ? PyDict_GetItemWithError(d, n.key.p) : nullptr;
    }
    case MEMBER: {
      PyObject** at = member_of(base, n.index);
      return at && !*at ? Py_None : at ? *at : nullptr;
    }
    case METHOD_SELF: return PyMethod_Check(base) ? PyMethod_GET_SELF(base) : nullptr;
    case METHOD_FUNC: return PyMethod_Check(base) ? PyMethod_GET_FUNCTION(base) : nullptr;
    default: return nullptr;
  }
}

Ref Program::read(const Node& n, PyObject* base, const Roots& r) {
  Ref v;
  Found by;
  switch (n.access) {
    case ATTR: {
      PyObject* plain = plain_attr(base, n.key.p, &by);
      if (plain) return Ref::of(plain);
      v = Ref(by == NOT_FOUND ? nullptr : PyObject_GetAttr(base, n.key.p));
      break;
    }
    case ITEM:
      v = PyDict_Check(base) || PyList_Check(base) || PyTuple_Check(base) ? Ref::of(read_borrowed(n, base, r)) : Ref(PyObject_GetItem(base, n.key.p));
      break;
    case KEY: v = Ref(PyDict_Check(base) ? nth_key(base, n.index) : nullptr); break;
    case CALL: v = Ref(PyObject_CallOneArg(n.key.p, base)); break;
    default: v = Ref::of(read_borrowed(n, base, r));
  }
  if (!v && PyErr_Occurred()) PyErr_Clear();
  return v;
}

const void* identity(PyObject* v, Relation relation) {
  if (relation == OTHER_OBJECTS || !v || !is_tensor(v) || !impl_of(v)->has_storage()) return v;
  return impl_of(v)->unsafe_storage().unsafeGetStorageImpl();
}

bool all_different(const Alias& a, PyObject* const* val) {
  const void* few[32];
  std::vector<const void*> many(a.nodes.size() > 32 ? a.nodes.size() : 0);
  const void** ids = many.empty() ? few : many.data();
  const void** end = ids;
  for (int i : a.nodes) *end++ = identity(val[i], a.relation);
  std::sort(ids, end);
  return std::adjacent_find(ids, end) == end;
}

bool Program::across(PyObject* const* val, Failure* why) const {
  for (const Alias& a : aliases) {
    bool ok = a.relation == SAME_OBJECT ? val[a.nodes[0]] == val[a.nodes[1]] : all_different(a, val);
    if (!ok) {
      if (why) why->guard = a.guard, why->value = Ref::of(val[a.nodes[0]]);
      return false;
    }
  }
  if (shapes.empty()) return true;
  int64_t small[64];
  std::unique_ptr<int64_t[]> big(leaves.size() > 64 ? new int64_t[leaves.size()] : nullptr);
  int64_t* numbers = big ? big.get() : small;
  for (size_t i = 0; i < leaves.size(); i++)
    if (!leaf_value(leaves[i], val[leaves[i].node], &numbers[i])) {
      if (why) why->guard = shapes[0].guard, why->value = Ref::of(val[leaves[i].node]);
      return false;
    }
  for (const Shape& s : shapes)
    if (!shape_holds(s.code, numbers)) {
      if (why) {
        why->guard = s.guard;
        why->value = Ref(PyDict_New());  // number of the leaf -> its value
        for (const ShapeInst& i : s.code)
          if (i.op == S_LEAF) {
            Ref k(PyLong_FromLongLong(i.arg)), v(PyLong_FromLongLong(numbers[i.arg]));
            PyDict_SetItem(why->value.p, k.p, v.p);
          }
      }
      return false;
    }
  return true;
}

bool Program::tensor_checks_hold(int node, PyObject* v) const {
  for (int c = nodes[node].first; c < nodes[node].last; c++)
    if (checks[c].kind == TENSOR && !run_check(checks[c], v)) return false;
  return true;
}

Ref joined(PyObject* base, PyObject* last) {  // (base,), or (*base, last)
  Ref one(PyTuple_Pack(1, last ? last : base));
  return one && last ? Ref(PySequence_Concat(base, one.p)) : std::move(one);
}

bool Program::full(const Roots& r, const State& now, std::vector<Ref>& val, Failure* why) const {
  if (has_state && !(now == state)) {
    if (why) why->guard = state_guard;
    return false;
  }
  val.resize(nodes.size());
  for (size_t i = 0; i < nodes.size(); i++) {
    const Node& n = nodes[i];
    val[i] = n.access == JOIN ? joined(val[n.parent].p, n.index < 0 ? nullptr : val[n.index].p) : read(n, n.parent < 0 ? nullptr : val[n.parent].p, r);
    if (!val[i]) {
      if (why)  // the first guard that needed the value: its own, or one of a node below
        for (size_t j = i; j < nodes.size() && why->guard < 0; j++) {
          int p = (int)j;
          while (p > (int)i) p = nodes[p].parent;
          if (p == (int)i && nodes[j].first < nodes[j].last) why->guard = checks[nodes[j].first].guard;
        }
      return false;
    }
    for (int c = n.first; c < n.last; c++)
      if (!run_check(checks[c], val[i].p)) {
        if (why) why->guard = checks[c].guard, why->value = Ref::of(val[i].p);
        return false;
      }
  }
  std::unique_ptr<PyObject*[]> raw(new PyObject*[nodes.size() + 1]);
  for (size_t i = 0; i < nodes.size(); i++) raw[i] = val[i].p;
  return across(raw.get(), why);
}

}  // namespace
