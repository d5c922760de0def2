// Single checks: one guard kind each, on one value. None raises; a false answer leaves no exception behind.
namespace {

// Order as in native/lower.py.
enum Kind : uint8_t { TYPE, ID, EQUALS, NONE, NOT_NONE, BOOL, LEN, DICT_KEYS, HAS_KEY, NO_KEY, HAS_ATTR, NO_ATTR, TENSOR, WEAK_TYPE, MRO, NUM_KINDS };

constexpr int64_t ANY = INT64_MIN;  // a size or stride that matches everything

struct TensorCheck {  // one block of memory, for one or two cache lines: `dims` is sizes, then strides
  uint64_t keys;
  PyObject* type;  // the class, or a weak reference to it; owned by the Check
  c10::ScalarType dtype;
  c10::Device device;
  bool weak, requires_grad, has_strides;
  uint16_t ndim;
  int64_t dims[];
};
struct FreeBlock {
  void operator()(void* p) const { ::operator delete(p); }
};

struct Check {
  Kind kind;
  int node;
  int guard;           // index of the guard record
  Py_ssize_t n = 0;    // LEN
  bool weak = false;   // `expected` is a weak reference
  bool safe = true;    // runs no user code
  Ref expected;
  std::unique_ptr<TensorCheck, FreeBlock> tensor;
  PyObject* object() const { return weak ? weak_target(expected.p) : expected.p; }
};

// ---- constants -----------------------------------------------------------------------------------------------------
bool is_atom(PyObject* o) {  // immutable, compared without user code, holds nothing
  return o == Py_None || o == Py_Ellipsis || o == Py_NotImplemented || PyBool_Check(o) || PyLong_CheckExact(o) || PyFloat_CheckExact(o) || PyUnicode_CheckExact(o) ||
         PyBytes_CheckExact(o) || PyComplex_CheckExact(o);
}

bool is_plain_constant(PyObject* o) {  // atoms, tuples of them, and what is compared by identity
  if (is_atom(o)) return true;
  if (PyTuple_CheckExact(o)) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(o); i++)
      if (!is_plain_constant(PyTuple_GET_ITEM(o, i))) return false;
    return true;
  }
  const char* name = Py_TYPE(o)->tp_name;
  return !strcmp(name, "torch.dtype") || !strcmp(name, "torch.device") || !strcmp(name, "torch.layout") || !strcmp(name, "torch.memory_format");
}

bool is_plain_value(PyObject* o) {  // also lists and dictionaries of plain constants: compared without user code, but they may change
  if (PyList_CheckExact(o)) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(o); i++)
      if (!is_plain_value(PyList_GET_ITEM(o, i))) return false;
    return true;
  }
  if (PyDict_CheckExact(o)) {
    Py_ssize_t pos = 0;
    PyObject *k, *v;
    while (PyDict_Next(o, &pos, &k, &v))
      if (!is_plain_constant(k) || !is_plain_value(v)) return false;
    return true;
  }
  return is_plain_constant(o);
}

bool same_attr(PyObject* a, PyObject* b, const char* name);

bool same_constant(PyObject* a, PyObject* b) {  // same type, same value
  if (a == b) return true;
  if (Py_TYPE(a) != Py_TYPE(b)) return false;
  if (PyFloat_CheckExact(a)) {
    double x = PyFloat_AS_DOUBLE(a), y = PyFloat_AS_DOUBLE(b);
    return !memcmp(&x, &y, sizeof x) || (x != x && y != y);
  }
  if (PyComplex_CheckExact(a)) {
    Py_complex x = PyComplex_AsCComplex(a), y = PyComplex_AsCComplex(b);
    return !memcmp(&x, &y, sizeof x);
  }
  if (PyTuple_Check(a)) {
    if (PyTuple_GET_SIZE(a) != PyTuple_GET_SIZE(b)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(a); i++)
      if (!same_constant(PyTuple_GET_ITEM(a, i), PyTuple_GET_ITEM(b, i))) return false;
    return true;
  }
  if (PyList_CheckExact(a)) {
    if (PyList_GET_SIZE(a) != PyList_GET_SIZE(b)) return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(a) && i < PyList_GET_SIZE(b); i++)
      if (!same_constant(PyList_GET_ITEM(a, i), PyList_GET_ITEM(b, i))) return false;
    return true;
  }
  if (PyDict_CheckExact(a)) {
    if (PyDict_GET_SIZE(a) != PyDict_GET_SIZE(b)) return false;
    Py_ssize_t i = 0, j = 0;
    PyObject *ka, *va, *kb, *vb;
    while (PyDict_Next(a, &i, &ka, &va) && PyDict_Next(b, &j, &kb, &vb))
      if (!same_constant(ka, kb) || !same_constant(va, vb)) return false;
    return true;
  }
  if (PySlice_Check(a) || PyRange_Check(a)) return same_attr(a, b, "start") && same_attr(a, b, "stop") && same_attr(a, b, "step");
  int r = PyObject_RichCompareBool(a, b, Py_EQ);
  if (r < 0) PyErr_Clear();
  return r == 1;
}

bool same_attr(PyObject* a, PyObject* b, const char* name) {
  Ref x(PyObject_GetAttrString(a, name)), y(PyObject_GetAttrString(b, name));
  bool r = x && y && same_constant(x.p, y.p);
  PyErr_Clear();
  return r;
}

// ---- containers and attributes -------------------------------------------------------------------------------------
Py_ssize_t length(PyObject* o) {  // of built-in containers' own storage; -1 if it has none
  if (PyDict_Check(o)) return PyDict_GET_SIZE(o);
  if (PyList_Check(o)) return PyList_GET_SIZE(o);
  if (PyTuple_Check(o)) return PyTuple_GET_SIZE(o);
  if (PyAnySet_Check(o)) return PySet_GET_SIZE(o);
  if (PyUnicode_Check(o)) return PyUnicode_GET_LENGTH(o);
  if (PyBytes_Check(o)) return PyBytes_GET_SIZE(o);
  Py_ssize_t n = PyObject_Size(o);
  if (n < 0) PyErr_Clear();
  return n;
}

bool has_builtin_length(PyObject* o) { return PyDict_Check(o) || PyList_Check(o) || PyTuple_Check(o) || PyAnySet_Check(o) || PyUnicode_Check(o) || PyBytes_Check(o); }

Ref ordered_keys(PyObject* odict) {  // as C sees them, whatever a subclass iterates over
  Ref it(PyODict_Type.tp_iter(odict));
  return it ? Ref(PySequence_List(it.p)) : Ref();
}

bool same_keys(PyObject* dict, PyObject* keys) {
  if (!PyDict_Check(dict) || PyDict_GET_SIZE(dict) != PyTuple_GET_SIZE(keys)) return false;
  Ref ordered;
  if (PyODict_Check(dict)) {  // its own order may differ from the storage's
    ordered = ordered_keys(dict);
    if (!ordered) { PyErr_Clear(); return false; }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(ordered.p); i++)
      if (!same_constant(PyList_GET_ITEM(ordered.p, i), PyTuple_GET_ITEM(keys, i))) return false;
    return true;
  }
  Py_ssize_t pos = 0, i = 0;
  PyObject *k, *v;
  while (PyDict_Next(dict, &pos, &k, &v))
    if (!same_constant(k, PyTuple_GET_ITEM(keys, i++))) return false;
  return true;
}

bool same_mro(PyObject* type, PyObject* classes) {  // classes: tuple of types and weak references to types
  PyObject* mro = PyType_Check(type) ? ((PyTypeObject*)type)->tp_mro : nullptr;
  if (!mro || PyTuple_GET_SIZE(mro) != PyTuple_GET_SIZE(classes)) return false;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
    PyObject* c = PyTuple_GET_ITEM(classes, i);
    if (PyTuple_GET_ITEM(mro, i) != (PyWeakref_CheckRef(c) ? weak_target(c) : c)) return false;
  }
  return true;
}

int has_key(PyObject* dict, PyObject* key) {  // -1: not a dictionary, or the comparison failed
  if (!PyDict_Check(dict)) return -1;
  int r = PyDict_Contains(dict, key);
  if (r < 0) PyErr_Clear();
  return r;
}

// Where the attribute protocol finds `name` when no user code has to run; `by` tells how. Borrowed, null otherwise.
enum Found { NOT_FOUND, IN_INSTANCE, IN_TYPE, NEEDS_CALL };
PyObject* plain_attr(PyObject* o, PyObject* name, Found* by) {
  PyTypeObject* t = Py_TYPE(o);
  *by = NEEDS_CALL;
  if (PyType_Check(o)) return nullptr;
  static PyObject* getattribute = PyUnicode_InternFromString("__getattribute__");
  static PyObject* generic = _PyType_Lookup(&PyBaseObject_Type, getattribute);
  if (t->tp_getattro != PyObject_GenericGetAttr && _PyType_Lookup(t, getattribute) != generic) return nullptr;
  PyObject* descr = _PyType_Lookup(t, name);
  if (descr && Py_TYPE(descr)->tp_descr_get && Py_TYPE(descr)->tp_descr_set) return nullptr;
  if (PyObject* d = instance_dict(o)) {
    PyObject* v = PyDict_GetItemWithError(d, name);
    if (v) { *by = IN_INSTANCE; return v; }
    if (PyErr_Occurred()) PyErr_Clear();
  }
  if (descr && !Py_TYPE(descr)->tp_descr_get) { *by = IN_TYPE; return descr; }
  if (descr) return nullptr;
  if (t->tp_getattro == PyObject_GenericGetAttr) *by = NOT_FOUND;
  return nullptr;
}

bool lacks_attr(PyObject* o, PyObject* name) {  // neither in the instance's dictionary nor in the MRO
  if (_PyType_Lookup(PyType_Check(o) ? (PyTypeObject*)o : Py_TYPE(o), name)) return false;
  if (PyType_Check(o)) return true;
  PyObject* d = instance_dict(o);
  return !d || has_key(d, name) == 0;
}

bool has_attr(PyObject* o, PyObject* name) {
  Found by;
  if (plain_attr(o, name, &by)) return true;
  if (by == NOT_FOUND) return false;
  Ref v(PyObject_GetAttr(o, name));
  PyErr_Clear();
  return (bool)v;
}

// ---- tensors -------------------------------------------------------------------------------------------------------
bool tensor_ok(const TensorCheck& e, PyObject* o) {
  if ((PyObject*)Py_TYPE(o) != (UNLIKELY(e.weak) ? weak_target(e.type) : e.type)) return false;
  c10::TensorImpl* t = impl_of(o);
  try {
    if (t->key_set().raw_repr() != e.keys || c10::typeMetaToScalarType(t->dtype()) != e.dtype || t->device() != e.device || requires_grad_of(t) != e.requires_grad) return false;
    c10::IntArrayRef s = t->sizes();
    size_t n = e.ndim;
    if (s.size() != n) return false;
    for (size_t i = 0; i < n; i++)
      if (s[i] != e.dims[i] && e.dims[i] != ANY) return false;
    if (!e.has_strides) return true;
    c10::IntArrayRef r = t->strides();
    for (size_t i = 0; i < n; i++)
      if (r[i] != e.dims[n + i] && e.dims[n + i] != ANY) return false;
    return true;
  } catch (const std::exception&) {  // symbolic sizes, layouts without strides
    return false;
  }
}

bool run_check(const Check& c, PyObject* v) {
  switch (c.kind) {
    case TYPE: return (PyObject*)Py_TYPE(v) == c.object();
    case ID: return v == c.object() && !(c.weak && v == Py_None);
    case EQUALS: return same_constant(v, c.expected.p);
    case NONE: return v == Py_None;
    case NOT_NONE: return v != Py_None;
    case BOOL: return v == c.expected.p;
    case LEN: return length(v) == c.n;
    case DICT_KEYS: return same_keys(v, c.expected.p);
    case HAS_KEY: return has_key(v, c.expected.p) == 1;
    case NO_KEY: return has_key(v, c.expected.p) == 0;
    case HAS_ATTR: return has_attr(v, c.expected.p);
    case NO_ATTR: return lacks_attr(v, c.expected.p);
    case TENSOR: return tensor_ok(*c.tensor, v);
    case MRO: return same_mro(v, c.expected.p);
    case WEAK_TYPE: { PyObject* t = c.object(); return PyType_Check(t) && PyType_IsSubtype(Py_TYPE(v), (PyTypeObject*)t); }
    default: return false;
  }
}

// ---- global state --------------------------------------------------------------------------------------------------
// Number of threads is left out: results do not depend on it beyond what eager promises.
struct State {
  static constexpr int N = 12;
  uint64_t w[N];
  void read() {
    auto tls = c10::impl::tls_local_dispatch_key_set();
    auto autocast = [](c10::DeviceType d) { return at::autocast::is_autocast_enabled(d) ? (uint64_t)at::autocast::get_autocast_dtype(d) : ~0ull; };
    bool on = false;
    w[0] = c10::GradMode::is_enabled();
    w[1] = c10::InferenceMode::is_enabled();
    w[2] = tls.included_.raw_repr();
    w[3] = tls.excluded_.raw_repr();
    w[4] = autocast(c10::kCPU), on |= w[4] != ~0ull;
    w[5] = autocast(c10::kCUDA), on |= w[5] != ~0ull;
    w[6] = on && at::autocast::is_autocast_cache_enabled();
    w[7] = (uint64_t)c10::get_default_dtype_as_scalartype();
    w[8] = at::globalContext().deterministicAlgorithms() | at::globalContext().deterministicAlgorithmsWarnOnly() << 1;
    w[9] = at::impl::PythonTorchFunctionTLS::stack_len();
    w[10] = c10::impl::TorchDispatchModeTLS::stack_len();
    w[11] = at::impl::PythonTorchFunctionTLS::get_disabled_state();
  }
  bool operator==(const State& o) const { return !memcmp(w, o.w, sizeof w); }
};

}  // namespace
