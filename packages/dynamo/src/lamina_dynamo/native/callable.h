// The Python types: Program (guards), Entry (program and replacement code), CodeCache (entries of one code object under one
// configuration) and CompiledFunction (what the user calls).
//
// Keeps: entries hold code and constants, never a function: a CompiledFunction makes its own function objects (its globals and
//        closure) from them. Every reference between these objects is visible to the garbage collector.
namespace {

thread_local int bypass_depth = 0;  // > 0: compiled functions run their originals (while compiling, under `disable`)
PyObject *run_eager = nullptr, *skip_always = nullptr;

// ---- Program -------------------------------------------------------------------------------------------------------
struct ProgramObject {
  PyObject_HEAD
  Program program;
  Matcher matcher;
  PyObject* dict;
  PyObject* weaklist;
};
PyTypeObject program_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

bool as_int64s(PyObject* tuple, std::vector<int64_t>& out) {  // None -> ANY
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) {
    PyObject* o = PyTuple_GET_ITEM(tuple, i);
    out.push_back(o == Py_None ? ANY : PyLong_AsLongLong(o));
  }
  return !PyErr_Occurred();
}

bool hold_expected(Check& c, PyObject* o, bool weak) {  // weak where asked and possible
  c.weak = weak && supports_weakrefs(o) && !(PyType_Check(o) && !(((PyTypeObject*)o)->tp_flags & Py_TPFLAGS_HEAPTYPE));
  c.expected = c.weak ? Ref(PyWeakref_NewRef(o, nullptr)) : Ref::of(o);
  return (bool)c.expected;
}

bool hold_classes(Check& c, PyObject* classes) {  // weakly, where they may die
  if (!PyTuple_Check(classes)) return PyErr_SetString(PyExc_TypeError, "an MRO is a tuple of classes"), false;
  c.expected = Ref(PyTuple_New(PyTuple_GET_SIZE(classes)));
  for (Py_ssize_t i = 0; c.expected && i < PyTuple_GET_SIZE(classes); i++) {
    PyObject* k = PyTuple_GET_ITEM(classes, i);
    PyObject* held = PyType_Check(k) && is_mutable_type((PyTypeObject*)k) ? PyWeakref_NewRef(k, nullptr) : Py_NewRef(k);
    if (!held) return false;
    PyTuple_SET_ITEM(c.expected.p, i, held);
  }
  return (bool)c.expected;
}

bool parse_check(PyObject* t, Check& c) {
  int kind, node, guard, weak;
  PyObject* expected;
  if (!PyArg_ParseTuple(t, "iiiOp", &kind, &node, &guard, &expected, &weak)) return false;
  c.kind = (Kind)kind, c.node = node, c.guard = guard;
  if (c.kind == LEN) {
    c.n = PyLong_AsSsize_t(expected);
    return !PyErr_Occurred();
  }
  if (c.kind == MRO) return hold_classes(c, expected);
  if (c.kind != TENSOR) return hold_expected(c, expected, weak);
  PyObject *cls, *dtype, *sizes, *strides;
  const char* device;
  unsigned long long keys;
  int grad;
  if (!PyArg_ParseTuple(expected, "O!OsKO!Op", &PyType_Type, &cls, &dtype, &device, &keys, &PyTuple_Type, &sizes, &strides, &grad)) return false;
  if (!PyType_IsSubtype((PyTypeObject*)cls, tensor_base)) return PyErr_Format(PyExc_TypeError, "%.100s is not a tensor class", ((PyTypeObject*)cls)->tp_name), false;
  std::vector<int64_t> dims;
  if (!as_int64s(sizes, dims)) return false;
  size_t ndim = dims.size();
  if (strides != Py_None && !(as_int64s(strides, dims) && dims.size() == 2 * ndim)) return PyErr_SetString(PyExc_ValueError, "as many strides as sizes"), false;
  if (!hold_expected(c, cls, weak)) return false;
  c.tensor.reset(new (::operator new(sizeof(TensorCheck) + dims.size() * sizeof(int64_t)))
                     TensorCheck{keys, c.expected.p, scalar_type_of(dtype), c10::Device(std::string(device)), c.weak, (bool)grad, strides != Py_None, (uint16_t)ndim});
  std::copy(dims.begin(), dims.end(), c.tensor->dims);
  return true;
}

bool parse_ints(PyObject* tuple, std::vector<int>& out) {
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tuple); i++) out.push_back((int)PyLong_AsLong(PyTuple_GET_ITEM(tuple, i)));
  return !PyErr_Occurred();
}

template <class F>
bool each(PyObject* list, F&& f) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++)
    if (!f(PyList_GET_ITEM(list, i))) return false;
  return true;
}

// (num_slots, nodes, checks, leaves, shapes, aliases, supplied, state or None, index of the state guard): see native/lower.py
bool parse_program(PyObject* args, Program& p) {
  PyObject *nodes, *checks, *leaves, *shapes, *aliases, *supplied, *state;
  if (!PyArg_ParseTuple(args, "iO!O!O!O!O!O!Oi", &p.num_slots, &PyList_Type, &nodes, &PyList_Type, &checks, &PyList_Type, &leaves, &PyList_Type, &shapes, &PyList_Type, &aliases,
                        &PyList_Type, &supplied, &state, &p.state_guard))
    return false;
  bool ok = each(nodes, [&](PyObject* t) {
    int access, parent, container;
    Py_ssize_t index;
    PyObject* key;
    if (!PyArg_ParseTuple(t, "iinOp", &access, &parent, &index, &key, &container)) return false;
    if (PyUnicode_CheckExact(key)) { Py_INCREF(key); PyUnicode_InternInPlace(&key); Py_DECREF(key); }
    bool weak = access == CONST && PyType_Check(key) && is_mutable_type((PyTypeObject*)key);
    p.nodes.push_back(Node{(Access)access, parent, index, weak ? Ref(PyWeakref_NewRef(key, nullptr)) : Ref::of(key), 0, 0, (bool)container, weak});
    return (bool)p.nodes.back().key;
  });
  ok = ok && each(checks, [&](PyObject* t) { p.checks.emplace_back(); return parse_check(t, p.checks.back()); });
  for (size_t c = 0; ok && c < p.checks.size(); c++) {  // sorted by node
    Node& n = p.nodes[p.checks[c].node];
    if (n.first == n.last) n.first = (int)c;
    n.last = (int)c + 1;
  }
  auto leaf = [](PyObject* t, Leaf& l) {
    int kind;
    if (!PyArg_ParseTuple(t, "iii", &l.node, &kind, &l.dim)) return false;
    l.kind = (LeafKind)kind;
    return true;
  };
  ok = ok && each(leaves, [&](PyObject* t) { p.leaves.emplace_back(); return leaf(t, p.leaves.back()); });
  ok = ok && each(shapes, [&](PyObject* t) {
    PyObject* code;
    p.shapes.emplace_back();
    if (!PyArg_ParseTuple(t, "iO!", &p.shapes.back().guard, &PyList_Type, &code)) return false;
    return each(code, [&](PyObject* i) {
      int op;
      long long arg;
      if (!PyArg_ParseTuple(i, "iL", &op, &arg)) return false;
      p.shapes.back().code.push_back({(ShapeOp)op, (int64_t)arg});
      return true;
    });
  });
  ok = ok && each(aliases, [&](PyObject* t) {
    int guard, relation;
    PyObject* members;
    if (!PyArg_ParseTuple(t, "iiO!", &guard, &relation, &PyTuple_Type, &members)) return false;
    p.aliases.push_back({guard, (Relation)relation, {}});
    return parse_ints(members, p.aliases.back().nodes);
  });
  ok = ok && each(supplied, [&](PyObject* t) {  // node, or (node, kind, dim)
    Supplied s{};
    if (PyTuple_Check(t)) s.is_leaf = true;
    if (s.is_leaf ? !leaf(t, s.leaf) : (s.node = (int)PyLong_AsLong(t)) < 0) return false;
    p.supplied.push_back(s);
    return true;
  });
  if (ok && state != Py_None) {
    p.has_state = true;
    for (int i = 0; i < State::N; i++) p.state.w[i] = PyLong_AsUnsignedLongLongMask(PyTuple_GET_ITEM(state, i));
  }
  p.tag_misses.assign(p.nodes.size(), 0), p.value_misses.assign(p.nodes.size(), 0);
  return ok && !PyErr_Occurred();
}

PyObject* program_new(PyTypeObject* type, PyObject* args, PyObject*) {
  ProgramObject* self = (ProgramObject*)type->tp_alloc(type, 0);
  if (!self) return nullptr;
  new (&self->program) Program();
  new (&self->matcher) Matcher(&self->program);
  bool ok = false;
  try { ok = parse_program(args, self->program); } catch (const std::exception& e) { PyErr_SetString(PyExc_ValueError, e.what()); }
  if (ok) return (PyObject*)self;
  Py_DECREF(self);
  return nullptr;
}

int program_traverse(ProgramObject* self, visitproc visit, void* arg) {
  for (Node& n : self->program.nodes) Py_VISIT(n.key.p);
  for (Check& c : self->program.checks) Py_VISIT(c.expected.p);
  Py_VISIT(self->dict);
  return 0;
}
int program_clear(ProgramObject* self) {
  std::vector<Node> nodes(std::move(self->program.nodes));  // emptied first: releasing a reference may run code that looks
  std::vector<Check> checks(std::move(self->program.checks));
  self->program = Program();
  self->program.has_state = true;
  self->program.state.w[0] = 2;  // matches nothing from now on
  self->matcher.remembered.clear();
  Py_CLEAR(self->dict);
  return 0;
}
void program_dealloc(ProgramObject* self) {
  PyObject_GC_UnTrack(self);
  if (self->weaklist) PyObject_ClearWeakRefs((PyObject*)self);
  Py_CLEAR(self->dict);
  self->matcher.~Matcher();
  self->program.~Program();
  Py_TYPE(self)->tp_free(self);
}

bool parse_roots(PyObject* args, const Program& p, Roots& r) {
  PyObject *slots, *globals = Py_None, *closure = Py_None;
  if (!PyArg_ParseTuple(args, "O!|OO", &PyTuple_Type, &slots, &globals, &closure)) return false;
  if (PyTuple_GET_SIZE(slots) != p.num_slots) return PyErr_Format(PyExc_ValueError, "expected %d slots, got %zd", p.num_slots, PyTuple_GET_SIZE(slots)), false;
  r = {((PyTupleObject*)slots)->ob_item, globals == Py_None ? nullptr : globals, closure == Py_None ? nullptr : closure};
  return true;
}

// check(slots, globals, closure) -> bool, remembering; supply(...) -> tuple or None; failure(...) -> (guard, value) or None, reading everything
PyObject* program_check(ProgramObject* self, PyObject* args) {
  Roots r;
  if (!parse_roots(args, self->program, r)) return nullptr;
  State now;
  now.read();
  std::vector<Ref> hold;
  std::vector<PyObject*> out(self->program.supplied.size() + 1);
  return PyBool_FromLong(self->matcher.match(r, now, out.data(), hold));
}
PyObject* program_supply(ProgramObject* self, PyObject* args) {
  Roots r;
  if (!parse_roots(args, self->program, r)) return nullptr;
  State now;
  now.read();
  std::vector<Ref> hold;
  size_t n = self->program.supplied.size();
  std::vector<PyObject*> out(n + 1);
  if (!self->matcher.match(r, now, out.data(), hold)) Py_RETURN_NONE;
  PyObject* t = PyTuple_New(n);
  for (size_t i = 0; t && i < n; i++) PyTuple_SET_ITEM(t, i, Py_NewRef(out[i]));
  return t;
}
PyObject* program_failure(ProgramObject* self, PyObject* args) {
  Roots r;
  if (!parse_roots(args, self->program, r)) return nullptr;
  State now;
  now.read();
  std::vector<Ref> val;
  Failure why;
  if (self->program.full(r, now, val, &why)) Py_RETURN_NONE;
  return Py_BuildValue("iOO", why.guard, why.value ? Py_True : Py_False, why.value ? why.value.p : Py_None);
}
PyObject* program_is_dead(ProgramObject* self, PyObject*) {  // can it never match again?
  for (const Check& c : self->program.checks)
    if (c.weak && c.object() == Py_None) Py_RETURN_TRUE;
  for (const Node& n : self->program.nodes)
    if (n.weak && weak_target(n.key.p) == Py_None) Py_RETURN_TRUE;
  Py_RETURN_FALSE;
}
PyObject* matcher_stats(const Matcher& matcher) {
  size_t words = 0, live = 0;
  uint64_t hits = 0;
  for (auto& m : matcher.remembered) words += m.witness->pinned.size() - AHEAD, live += m.witness->live.size() - AHEAD, hits += m.hits;
  return Py_BuildValue("{s:n,s:n,s:n,s:n,s:n,s:K,s:O}", "nodes", matcher.p->nodes.size(), "checks", matcher.p->checks.size(), "witnesses", matcher.remembered.size(), "pinned_ops", words,
                       "live_ops", live, "hits", hits, "needs_user_code", matcher.needs_user_code ? Py_True : Py_False);
}
PyObject* program_stats(ProgramObject* self, PyObject*) { return matcher_stats(self->matcher); }  // for tests and tuning

PyMethodDef program_methods[] = {{"check", (PyCFunction)program_check, METH_VARARGS, "check(slots, globals=None, closure=None) -> bool"},
                                 {"supply", (PyCFunction)program_supply, METH_VARARGS, "supply(slots, globals=None, closure=None) -> supplied values, None if a guard fails"},
                                 {"failure", (PyCFunction)program_failure, METH_VARARGS, "failure(slots, globals=None, closure=None) -> (guard index, was read, value) or None"},
                                 {"is_dead", (PyCFunction)program_is_dead, METH_NOARGS, "whether an object that the program wants is gone"},
                                 {"stats", (PyCFunction)program_stats, METH_NOARGS, "sizes and hits"},
                                 {nullptr, nullptr, 0, nullptr}};

// ---- Entry ---------------------------------------------------------------------------------------------------------
// A graph's inputs are numbers into slots, supplied values and constants, in one row; the graph is called from here, with no
// Python code between. `code` runs after it, on slots, the first supplied values, the first constants and the graph's result.
struct Entry {
  PyObject_HEAD
  PyObject *program, *code, *constants, *graph, *inputs, *dict, *weaklist;
  Py_ssize_t code_supplied, code_constants;  // how many of them `code` takes
  int outputs, result;                       // result >= 0: `code` does nothing but return this one of the graph's `outputs`
  std::vector<int> input_at;
  unsigned long long hits;

  Program& guards() { return ((ProgramObject*)program)->program; }
  size_t code_args() { return guards().num_slots + code_supplied + code_constants + (graph != nullptr); }
};
PyTypeObject entry_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

bool parse_inputs(Entry* self) {
  Py_ssize_t bound = self->guards().num_slots + (Py_ssize_t)self->guards().supplied.size() + PyTuple_GET_SIZE(self->constants);
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(self->inputs); i++) {
    long at = PyLong_AsLong(PyTuple_GET_ITEM(self->inputs, i));
    if (at < 0 || at >= bound) return PyErr_Occurred() || PyErr_Format(PyExc_ValueError, "input %zd of the graph is number %ld of %zd values", i, at, bound), false;
    self->input_at.push_back((int)at);
  }
  return true;
}

bool check_entry(Entry* self) {
  Program& p = self->guards();
  PyCodeObject* c = (PyCodeObject*)self->code;
  if (self->code_supplied > (Py_ssize_t)p.supplied.size() || self->code_constants > PyTuple_GET_SIZE(self->constants)) return PyErr_SetString(PyExc_ValueError, "the code takes more than there is"), false;
  if (c->co_argcount != (int)self->code_args() || c->co_kwonlyargcount || (c->co_flags & (CO_VARARGS | CO_VARKEYWORDS | CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)))
    return PyErr_Format(PyExc_ValueError, "replacement code of %U takes %d arguments, expected %zu plain ones (%d slots, %zd supplied)", c->co_name, c->co_argcount, self->code_args(), p.num_slots,
                        self->code_supplied), false;
  return parse_inputs(self);
}

// Entry(program, code, constants=(), graph=None, inputs=(), code_supplied=all, code_constants=all, outputs=0, result=-1)
PyObject* entry_new(PyTypeObject* type, PyObject* args, PyObject* kw) {
  static const char* names[] = {"program", "code", "constants", "graph", "inputs", "code_supplied", "code_constants", "outputs", "result", nullptr};
  PyObject *program, *code, *constants = nullptr, *graph = Py_None, *inputs = nullptr;
  Py_ssize_t code_supplied = -1, code_constants = -1;
  int outputs = 0, result = -1;
  if (!PyArg_ParseTupleAndKeywords(args, kw, "O!O!|O!OO!nnii", (char**)names, &program_type, &program, &PyCode_Type, &code, &PyTuple_Type, &constants, &graph, &PyTuple_Type, &inputs, &code_supplied,
                                   &code_constants, &outputs, &result))
    return nullptr;
  Entry* self = (Entry*)type->tp_alloc(type, 0);
  if (!self) return nullptr;
  new (&self->input_at) std::vector<int>();
  self->program = Py_NewRef(program), self->code = Py_NewRef(code);
  self->constants = constants ? Py_NewRef(constants) : PyTuple_New(0), self->inputs = inputs ? Py_NewRef(inputs) : PyTuple_New(0);
  self->graph = graph == Py_None ? nullptr : Py_NewRef(graph);
  self->code_supplied = code_supplied < 0 ? (Py_ssize_t)self->guards().supplied.size() : code_supplied;
  self->code_constants = code_constants < 0 ? PyTuple_GET_SIZE(self->constants) : code_constants;
  self->outputs = outputs, self->result = result < outputs ? result : -1;
  if (check_entry(self)) return (PyObject*)self;
  Py_DECREF(self);
  return nullptr;
}
int entry_traverse(Entry* self, visitproc visit, void* arg) {
  Py_VISIT(self->program); Py_VISIT(self->code); Py_VISIT(self->constants); Py_VISIT(self->graph); Py_VISIT(self->dict);
  return 0;
}
int entry_clear(Entry* self) {  // without constants it is dead: see `call_binding`
  Py_CLEAR(self->constants); Py_CLEAR(self->graph); Py_CLEAR(self->dict);
  return 0;
}
void entry_dealloc(Entry* self) {
  PyObject_GC_UnTrack(self);
  if (self->weaklist) PyObject_ClearWeakRefs((PyObject*)self);
  Py_CLEAR(self->program); Py_CLEAR(self->code); Py_CLEAR(self->constants); Py_CLEAR(self->graph); Py_CLEAR(self->inputs); Py_CLEAR(self->dict);
  self->input_at.~vector();
  Py_TYPE(self)->tp_free(self);
}
PyMemberDef entry_members[] = {{"program", T_OBJECT, offsetof(Entry, program), READONLY, nullptr},
                               {"code", T_OBJECT, offsetof(Entry, code), READONLY, nullptr},
                               {"constants", T_OBJECT, offsetof(Entry, constants), READONLY, nullptr},
                               {"graph", T_OBJECT, offsetof(Entry, graph), READONLY, "what is called on `inputs`, or None"},
                               {"inputs", T_OBJECT, offsetof(Entry, inputs), READONLY, "numbers into slots, supplied values and constants"},
                               {"hits", T_ULONGLONG, offsetof(Entry, hits), 0, nullptr},
                               {"__dictoffset__", T_PYSSIZET, offsetof(Entry, dict), READONLY, nullptr},
                               {nullptr, 0, 0, 0, nullptr}};

// ---- CodeCache -----------------------------------------------------------------------------------------------------
struct CodeCache {
  PyObject_HEAD
  PyObject *code, *entries, *dict, *weaklist;
  uint64_t version;  // changes with the entries
  char frozen;       // no further compilation: misses run eagerly
};
PyTypeObject cache_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

PyObject* cache_new(PyTypeObject* type, PyObject* args, PyObject*) {
  PyObject* code;
  if (!PyArg_ParseTuple(args, "O!", &PyCode_Type, &code)) return nullptr;
  CodeCache* self = (CodeCache*)type->tp_alloc(type, 0);
  if (!self) return nullptr;
  self->code = Py_NewRef(code), self->entries = PyList_New(0), self->version = 1;
  return (PyObject*)self;
}
PyObject* cache_add(CodeCache* self, PyObject* entry) {
  if (!PyObject_TypeCheck(entry, &entry_type)) return PyErr_Format(PyExc_TypeError, "expected an Entry, got %.100s", Py_TYPE(entry)->tp_name);
  if (PyList_Insert(self->entries, 0, entry) < 0) return nullptr;
  self->version++;
  Py_RETURN_NONE;
}
PyObject* cache_remove(CodeCache* self, PyObject* entry) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->entries); i++)
    if (PyList_GET_ITEM(self->entries, i) == entry) {
      self->version++;
      if (PySequence_DelItem(self->entries, i) < 0) return nullptr;
      break;
    }
  Py_RETURN_NONE;
}
PyObject* cache_clear_entries(CodeCache* self, PyObject*) {
  self->version++;
  self->frozen = 0;
  if (PyList_SetSlice(self->entries, 0, PyList_GET_SIZE(self->entries), nullptr) < 0) return nullptr;
  Py_RETURN_NONE;
}
PyObject* cache_entries(CodeCache* self, void*) { return PyList_AsTuple(self->entries); }
int cache_traverse(CodeCache* self, visitproc visit, void* arg) {
  Py_VISIT(self->code); Py_VISIT(self->entries); Py_VISIT(self->dict);
  return 0;
}
int cache_tp_clear(CodeCache* self) {
  self->version++;
  if (self->entries) PyList_SetSlice(self->entries, 0, PyList_GET_SIZE(self->entries), nullptr);
  Py_CLEAR(self->dict);
  return 0;
}
void frame_forget(CodeCache* cache);  // frame.h
void cache_dealloc(CodeCache* self) {
  PyObject_GC_UnTrack(self);
  if (self->weaklist) PyObject_ClearWeakRefs((PyObject*)self);
  frame_forget(self);
  Py_CLEAR(self->code); Py_CLEAR(self->entries); Py_CLEAR(self->dict);
  Py_TYPE(self)->tp_free(self);
}
PyMethodDef cache_methods[] = {{"add", (PyCFunction)cache_add, METH_O, "put an entry in front"},
                               {"remove", (PyCFunction)cache_remove, METH_O, "take an entry out"},
                               {"clear", (PyCFunction)cache_clear_entries, METH_NOARGS, "drop all entries"},
                               {nullptr, nullptr, 0, nullptr}};
PyMemberDef cache_members[] = {{"code", T_OBJECT, offsetof(CodeCache, code), READONLY, nullptr},
                               {"frozen", T_BOOL, offsetof(CodeCache, frozen), 0, "misses run eagerly, without asking"},
                               {nullptr, 0, 0, 0, nullptr}};
PyGetSetDef cache_getset[] = {{"entries", (getter)cache_entries, nullptr, "tuple, most recent first", nullptr}, {nullptr, nullptr, nullptr, nullptr, nullptr}};

// ---- tail calls ----------------------------------------------------------------------------------------------------
// Replacement code that breaks returns what is to be called next and on what; it is called when the code's own frame, and all
// that the frame and its callers held, is gone. So objects die where the program drops them, and breaks in a loop do not nest.
PyTypeObject tail_type = {PyVarObject_HEAD_INIT(nullptr, 0)};  // a tuple: callable, arguments

PyObject* make_tail(PyObject*, PyObject* const* args, Py_ssize_t n) {
  PyObject* self = tail_type.tp_alloc(&tail_type, n);
  for (Py_ssize_t i = 0; self && i < n; i++) PyTuple_SET_ITEM(self, i, Py_NewRef(args[i]));
  return self;
}

// ---- calling an entry ----------------------------------------------------------------------------------------------
thread_local PyObject* hook_callback = nullptr;  // see frame.h; null: frames of this thread are not looked at

// Replacement code and the graphs it calls are not foreign: the hook rests until the code asks for it again.
struct HookRests {
  PyObject* saved = hook_callback;
  HookRests() { hook_callback = nullptr; }
  ~HookRests() { hook_callback = saved; }
};

struct Binding {  // an entry as one function sees it: its own function object and its own memory of what matched
  Entry* entry;
  PyObject* function = nullptr;
  Matcher matcher;
  explicit Binding(Entry* e) : entry((Entry*)Py_NewRef((PyObject*)e)), matcher(&((ProgramObject*)e->program)->program) {}
  ~Binding() { Py_XDECREF(function), Py_DECREF(entry); }
};

template <size_t N>
struct Arguments {  // a small array on the stack, or a large one on the heap
  PyObject* small[N];
  std::unique_ptr<PyObject*[]> big;
  PyObject** p;
  explicit Arguments(size_t n) : big(n > N ? new PyObject*[n] : nullptr), p(big ? big.get() : small) {}
};

PyObject* make_function(PyObject* code, PyObject* globals, PyObject* closure) {
  PyObject* f = PyFunction_New(code, globals);
  if (!f) return nullptr;
  Py_ssize_t wanted = ((PyCodeObject*)code)->co_nfreevars, given = closure ? PyTuple_GET_SIZE(closure) : 0;
  if (wanted && wanted != given) {
    Py_DECREF(f);
    return PyErr_Format(PyExc_SystemError, "replacement code wants %zd free variables, the function has %zd", wanted, given);
  }
  if (wanted && PyFunction_SetClosure(f, closure) < 0) Py_CLEAR(f);
  return f;
}

// ---- CompiledFunction ----------------------------------------------------------------------------------------------
struct CompiledFunction {
  PyObject_HEAD
  vectorcallfunc vectorcall;
  PyObject *wrapped;   // what was given: a function or a bound method
  PyObject *function;  // the plain function
  PyObject *bound;     // its first argument, or null
  PyObject *on_miss, *cache, *dict, *weaklist;
  std::vector<std::shared_ptr<Binding>> bindings;
  uint64_t version;    // of the cache when `bindings` was made
  bool skip;
};
PyTypeObject compiled_type = {PyVarObject_HEAD_INIT(nullptr, 0)};

struct Binder {  // arguments of a call -> slots in the order of co_varnames; false: let Python say what is wrong
  std::vector<Ref> owned;

  bool bind(PyFunctionObject* f, PyObject* const* args, Py_ssize_t nargs, PyObject* kwnames, PyObject* bound, PyObject** slots) {
    PyCodeObject* c = (PyCodeObject*)f->func_code;
    Py_ssize_t argc = c->co_argcount, named = argc + c->co_kwonlyargcount, nkw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    Py_ssize_t given = nargs + (bound != nullptr), positional = given < argc ? given : argc;
    if (given > argc && !(c->co_flags & CO_VARARGS)) return false;
    auto arg = [&](Py_ssize_t i) { return bound ? (i ? args[i - 1] : bound) : args[i]; };
    for (Py_ssize_t i = 0; i < positional; i++) slots[i] = arg(i);
    for (Py_ssize_t i = positional; i < named; i++) slots[i] = nullptr;
    Py_ssize_t next = named;
    if (c->co_flags & CO_VARARGS) {
      owned.emplace_back(PyTuple_New(given - positional));
      if (!owned.back()) return false;
      for (Py_ssize_t i = positional; i < given; i++) PyTuple_SET_ITEM(owned.back().p, i - positional, Py_NewRef(arg(i)));
      slots[next++] = owned.back().p;
    }
    PyObject* kwdict = nullptr;
    if (c->co_flags & CO_VARKEYWORDS) {
      owned.emplace_back(kwdict = PyDict_New());
      if (!kwdict) return false;
      slots[next++] = kwdict;
    }
    for (Py_ssize_t k = 0; k < nkw; k++)
      if (!keyword(c, PyTuple_GET_ITEM(kwnames, k), args[nargs + k], named, kwdict, slots)) return false;
    return defaults(f, c, argc, named, slots);
  }

 private:
  static bool keyword(PyCodeObject* c, PyObject* name, PyObject* value, Py_ssize_t named, PyObject* kwdict, PyObject** slots) {
    if (!PyUnicode_CheckExact(name)) return false;
    PyObject** names = ((PyTupleObject*)c->co_localsplusnames)->ob_item;
    Py_ssize_t found = -1;
    for (Py_ssize_t i = c->co_posonlyargcount; i < named && found < 0; i++)
      if (names[i] == name) found = i;
    for (Py_ssize_t i = c->co_posonlyargcount; i < named && found < 0; i++)
      if (PyUnicode_Compare(names[i], name) == 0) found = i;
    if (found >= 0) return !slots[found] && (slots[found] = value, true);
    return kwdict && PyDict_SetItem(kwdict, name, value) == 0;
  }
  bool defaults(PyFunctionObject* f, PyCodeObject* c, Py_ssize_t argc, Py_ssize_t named, PyObject** slots) {
    PyObject *d = f->func_defaults, *kd = f->func_kwdefaults;
    Py_ssize_t first = argc - (d ? PyTuple_GET_SIZE(d) : 0);
    for (Py_ssize_t i = 0; i < argc; i++) {
      if (slots[i]) continue;
      if (i < first) return false;
      owned.push_back(Ref::of(slots[i] = PyTuple_GET_ITEM(d, i - first)));
    }
    for (Py_ssize_t i = argc; i < named; i++) {
      if (slots[i]) continue;
      PyObject* v = kd ? PyDict_GetItemWithError(kd, PyTuple_GET_ITEM(c->co_localsplusnames, i)) : nullptr;
      if (!v) return PyErr_Clear(), false;
      owned.push_back(Ref::of(slots[i] = v));
    }
    return true;
  }
};

Py_ssize_t count_slots(PyCodeObject* c) {
  return c->co_argcount + c->co_kwonlyargcount + !!(c->co_flags & CO_VARARGS) + !!(c->co_flags & CO_VARKEYWORDS);
}

void sync_bindings(CompiledFunction* self) {  // after the cache changed; bindings of entries that stay keep their memory
  CodeCache* cache = (CodeCache*)self->cache;
  std::vector<std::shared_ptr<Binding>> fresh, old;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(cache->entries); i++) {
    Entry* e = (Entry*)PyList_GET_ITEM(cache->entries, i);
    auto at = std::find_if(self->bindings.begin(), self->bindings.end(), [&](auto& b) { return b->entry == e; });
    fresh.push_back(at == self->bindings.end() ? std::make_shared<Binding>(e) : *at);
  }
  old.swap(self->bindings);
  self->bindings.swap(fresh);
  self->version = cache->version;
}

struct Held {  // values that nothing else may be keeping alive while Python code runs
  PyObject* const* p;
  size_t n;
  Held(PyObject* const* values, size_t count) : p(values), n(count) { for (size_t i = 0; i < n; i++) Py_XINCREF(p[i]); }
  ~Held() { for (size_t i = 0; i < n; i++) Py_XDECREF(p[i]); }
};

// Room for a call: slots, supplied values, constants in one row.
size_t row_size(Entry* e) { return e->guards().num_slots + e->guards().supplied.size() + PyTuple_GET_SIZE(e->constants); }

void put_constants(Entry* e, PyObject** row) {
  PyObject** at = row + e->guards().num_slots + e->guards().supplied.size();
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(e->constants); i++) *at++ = PyTuple_GET_ITEM(e->constants, i);
}

PyObject* call_graph(Entry* e, PyObject* const* row) {
  size_t n = e->input_at.size();
  Arguments<32> in(n + 1);  // one more in front, for a method to put its object
  for (size_t i = 0; i < n; i++) in.p[i + 1] = row[e->input_at[i]];
  return PyObject_Vectorcall(e->graph, in.p + 1, n | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
}

// A Python function's frame takes references to its arguments before anything runs.
bool holds_its_arguments(PyObject* callable) { return PyFunction_Check(callable) || (PyMethod_Check(callable) && PyFunction_Check(PyMethod_GET_FUNCTION(callable))); }

// Arguments of the replacement code, from the row and the graph's result.
void code_arguments(Entry* e, PyObject* const* row, PyObject* graph_result, PyObject** out) {
  size_t slots = e->guards().num_slots, supplied = e->guards().supplied.size();
  out = std::copy(row, row + slots + e->code_supplied, out);
  out = std::copy(row + slots + supplied, row + slots + supplied + e->code_constants, out);
  if (e->graph) *out = graph_result;
}

// Whether the original is to run because the graph raised: what entry.failed(exception) returns is for when the original returns.
// Null: no, the exception stays set.
PyObject* after_failure(Entry* e) {
  if (!e->dict || !PyErr_ExceptionMatches(PyExc_Exception)) return nullptr;
  Ref hook = Ref::of(PyDict_GetItemString(e->dict, "failed"));
  if (!hook) return nullptr;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  if (traceback) PyException_SetTraceback(value, traceback);
  PyObject* answer = PyObject_CallOneArg(hook.p, value);
  if (answer && answer != Py_None) {
    Py_DECREF(type), Py_DECREF(value), Py_XDECREF(traceback);
    return answer;
  }
  PyErr_Clear();
  Py_XDECREF(answer);
  PyErr_Restore(type, value, traceback);
  return nullptr;
}

// row: slots and supplied values; room for constants. `original`: what `after_failure` said, if the original is to run instead.
PyObject* call_binding(CompiledFunction* self, Binding& b, PyObject** row, PyObject** original) {
  PyFunctionObject* f = (PyFunctionObject*)self->function;
  Ref alive = Ref::of((PyObject*)b.entry);
  Entry* e = b.entry;
  if (UNLIKELY(!e->constants)) return PyErr_SetString(PyExc_SystemError, "a compiled entry was called after its end"), nullptr;
  e->hits++;
  put_constants(e, row);
  HookRests rests;
  Held held(row + e->guards().num_slots, !e->graph ? 0 : holds_its_arguments(e->graph) ? e->code_supplied : e->guards().supplied.size());
  Ref graph_result(e->graph ? call_graph(e, row) : nullptr);
  if (e->graph) {
    if (UNLIKELY(!graph_result)) return *original = after_failure(e), nullptr;
    if (e->result >= 0 && PyTuple_CheckExact(graph_result.p) && PyTuple_GET_SIZE(graph_result.p) == e->outputs) return Py_NewRef(PyTuple_GET_ITEM(graph_result.p, e->result));
  }
  if (UNLIKELY(!b.function) && !(b.function = make_function(e->code, f->func_globals, f->func_closure))) return nullptr;
  Arguments<32> all(e->code_args());
  code_arguments(e, row, graph_result.p, all.p);
  Ref function = Ref::of(b.function);
  return ((PyFunctionObject*)function.p)->vectorcall(function.p, all.p, e->code_args(), nullptr);
}

// Try the entries. 1: *out is the result; 0: none matched; -1: `bindings` changed under our feet, look again.
int try_entries(CompiledFunction* self, PyObject** slots, Py_ssize_t n, const Roots& r, const State& now, PyObject** out, PyObject** original) {
  for (size_t i = 0; i < self->bindings.size(); i++) {
    std::shared_ptr<Binding> keep = self->bindings[i];  // user code may run, and change `bindings`
    Binding& b = *keep;
    Arguments<32> row(row_size(b.entry));
    std::vector<Ref> hold;
    uint64_t version = self->version;
    bool hit = b.matcher.match(r, now, row.p + n, hold);
    if (UNLIKELY(version != self->version || i >= self->bindings.size())) return -1;
    if (!hit) continue;
    std::copy(slots, slots + n, row.p);
    if (i) std::rotate(self->bindings.begin(), self->bindings.begin() + i, self->bindings.begin() + i + 1);
    *out = call_binding(self, b, row.p, original);
    return 1;
  }
  return 0;
}

PyObject* run_entry(CompiledFunction* self, Entry* entry, PyObject** slots, Py_ssize_t n, const Roots& r, bool* matched, PyObject** original) {
  auto at = std::find_if(self->bindings.begin(), self->bindings.end(), [&](auto& b) { return b->entry == entry; });
  std::shared_ptr<Binding> b = at == self->bindings.end() ? std::make_shared<Binding>(entry) : *at;
  Arguments<32> row(row_size(entry));
  std::vector<Ref> hold;
  State now;
  now.read();
  *matched = b->matcher.match(r, now, row.p + n, hold);
  if (!*matched) return nullptr;
  std::copy(slots, slots + n, row.p);
  return call_binding(self, *b, row.p, original);
}

// Run the original; what it is followed by is called where it returns and may raise.
PyObject* run_original(CompiledFunction* self, PyObject* const* args, size_t nargsf, PyObject* kwnames, PyObject* followed_by) {
  Ref result(PyObject_Vectorcall(self->wrapped, args, nargsf, kwnames));
  if (result && followed_by && !Ref(PyObject_CallNoArgs(followed_by))) return nullptr;
  return result.release();
}

PyObject* call_once(PyObject* callable, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  CompiledFunction* self = (CompiledFunction*)callable;
  PyFunctionObject* f = (PyFunctionObject*)self->function;
  CodeCache* cache = (CodeCache*)self->cache;
  if (UNLIKELY(self->skip || bypass_depth || f->func_code != cache->code)) return PyObject_Vectorcall(self->wrapped, args, nargsf, kwnames);
  PyCodeObject* c = (PyCodeObject*)f->func_code;
  Py_ssize_t n = count_slots(c), nargs = PyVectorcall_NARGS(nargsf);
  Arguments<32> slots(n);
  Binder binder;
  if (LIKELY(!kwnames && n == nargs && n == c->co_argcount && !self->bound)) std::copy(args, args + n, slots.p);
  else if (!binder.bind(f, args, nargs, kwnames, self->bound, slots.p)) {
    PyErr_Clear();
    return PyObject_Vectorcall(self->wrapped, args, nargsf, kwnames);
  }
  Roots r{slots.p, f->func_globals, f->func_closure};
  State now;
  now.read();
  PyObject *result = nullptr, *original = nullptr;
  int tried = -1;
  for (int again = 0; tried < 0 && again < 4; again++) {
    if (UNLIKELY(self->version != cache->version)) sync_bindings(self);
    tried = try_entries(self, slots.p, n, r, now, &result, &original);
  }
  if (LIKELY(tried > 0)) return LIKELY(!original) ? result : run_original(self, args, nargsf, kwnames, Ref(original).p);
  if (cache->frozen || self->on_miss == Py_None || !self->on_miss) return PyObject_Vectorcall(self->wrapped, args, nargsf, kwnames);
  Ref tuple(PyTuple_New(n));
  if (!tuple) return nullptr;
  for (Py_ssize_t i = 0; i < n; i++) PyTuple_SET_ITEM(tuple.p, i, Py_NewRef(slots.p[i]));
  Ref on_miss = Ref::of(self->on_miss);
  Ref answer(PyObject_CallFunctionObjArgs(on_miss.p, callable, tuple.p, nullptr));
  if (!answer) return nullptr;
  if (PyObject_TypeCheck(answer.p, &entry_type)) {
    if (self->version != cache->version) sync_bindings(self);
    bool matched = false;
    result = run_entry(self, (Entry*)answer.p, slots.p, n, r, &matched, &original);
    if (matched) return !original ? result : run_original(self, args, nargsf, kwnames, Ref(original).p);
  } else if (answer.p == skip_always) {
    self->skip = true;
  } else if (answer.p != run_eager && !PyCallable_Check(answer.p)) {
    return PyErr_Format(PyExc_TypeError, "on_miss returned %.100s, expected Entry, RUN_EAGER, SKIP or what to call when the original has returned", Py_TYPE(answer.p)->tp_name);
  }
  return run_original(self, args, nargsf, kwnames, PyCallable_Check(answer.p) && !PyObject_TypeCheck(answer.p, &entry_type) ? answer.p : nullptr);
}

// Call what replacement code left to be called, until there is a result.
PyObject* finish(PyObject* result) {
  if (LIKELY(!result || !Py_IS_TYPE(result, &tail_type))) return result;
  HookRests rests;
  while (result && Py_IS_TYPE(result, &tail_type)) {
    Ref tail(result);
    PyObject** items = ((PyTupleObject*)result)->ob_item;
    PyObject* target = PyWeakref_CheckProxy(items[0]) ? PyWeakref_GET_OBJECT(items[0]) : items[0];
    Ref callee = Ref::of(target);
    result = (Py_IS_TYPE(target, &compiled_type) ? call_once : PyObject_Vectorcall)(target, items + 1, PyTuple_GET_SIZE(tail.p) - 1, nullptr);
  }
  return result;
}

PyObject* compiled_call(PyObject* callable, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  Ref alive = Ref::of(callable);  // it may be released by what we call, and with it what a tail call refers to
  return finish(call_once(callable, args, nargsf, kwnames));
}

PyObject* compiled_new(PyTypeObject* type, PyObject* args, PyObject* kw) {
  static const char* names[] = {"function", "on_miss", "cache", nullptr};
  PyObject *wrapped, *on_miss, *cache = nullptr;
  if (!PyArg_ParseTupleAndKeywords(args, kw, "OO|O!", (char**)names, &wrapped, &on_miss, &cache_type, &cache)) return nullptr;
  PyObject* function = PyMethod_Check(wrapped) ? PyMethod_GET_FUNCTION(wrapped) : wrapped;
  if (!PyFunction_Check(function)) return PyErr_Format(PyExc_TypeError, "expected a Python function or a method of one, got %.100s", Py_TYPE(wrapped)->tp_name);
  Ref own(cache ? Py_NewRef(cache) : PyObject_CallOneArg((PyObject*)&cache_type, PyFunction_GET_CODE(function)));
  if (!own) return nullptr;
  CompiledFunction* self = (CompiledFunction*)type->tp_alloc(type, 0);
  if (!self) return nullptr;
  new (&self->bindings) std::vector<std::shared_ptr<Binding>>();
  self->vectorcall = compiled_call;
  self->wrapped = Py_NewRef(wrapped), self->function = Py_NewRef(function);
  self->bound = PyMethod_Check(wrapped) ? Py_NewRef(PyMethod_GET_SELF(wrapped)) : nullptr;
  self->on_miss = Py_NewRef(on_miss), self->cache = own.release();
  return (PyObject*)self;
}
int compiled_traverse(CompiledFunction* self, visitproc visit, void* arg) {
  Py_VISIT(self->wrapped); Py_VISIT(self->function); Py_VISIT(self->bound); Py_VISIT(self->on_miss); Py_VISIT(self->cache); Py_VISIT(self->dict);
  for (auto& b : self->bindings) {
    Py_VISIT(b->entry);
    Py_VISIT(b->function);
  }
  return 0;
}
int compiled_clear(CompiledFunction* self) {
  std::vector<std::shared_ptr<Binding>> old;
  old.swap(self->bindings);
  self->version = 0;
  self->skip = true;
  Py_CLEAR(self->on_miss); Py_CLEAR(self->dict);
  return 0;
}
void compiled_dealloc(CompiledFunction* self) {
  PyObject_GC_UnTrack(self);
  if (self->weaklist) PyObject_ClearWeakRefs((PyObject*)self);
  compiled_clear(self);
  Py_CLEAR(self->wrapped); Py_CLEAR(self->function); Py_CLEAR(self->bound); Py_CLEAR(self->cache);
  self->bindings.~vector();
  Py_TYPE(self)->tp_free(self);
}
PyObject* compiled_get(PyObject* self, PyObject* obj, PyObject*) {
  if (!obj || obj == Py_None || ((CompiledFunction*)self)->bound) return Py_NewRef(self);
  return PyMethod_New(self, obj);
}
PyObject* compiled_getattro(PyObject* self, PyObject* name) {  // its own attributes, then the function's
  PyObject* v = PyObject_GenericGetAttr(self, name);
  if (v || !PyErr_ExceptionMatches(PyExc_AttributeError)) return v;
  PyErr_Clear();
  return PyObject_GetAttr(((CompiledFunction*)self)->wrapped, name);
}
PyObject* compiled_repr(PyObject* self) { return PyUnicode_FromFormat("<compiled %R>", ((CompiledFunction*)self)->wrapped); }
template <const char* const* NAME>
PyObject* compiled_forward(PyObject* self, void*) { return PyObject_GetAttrString(((CompiledFunction*)self)->wrapped, *NAME); }
const char *const name_doc = "__doc__", *const name_module = "__module__";
PyObject* compiled_copy(PyObject* self, PyObject*) { return Py_NewRef(self); }  // as functions do
PyObject* found_by_name(PyObject* self, PyObject* name) {  // what its module has under its qualified name; null without an exception
  Ref module_name(PyObject_GetAttrString(self, "__module__"));
  Ref names(PyObject_GetAttrString(self, "__globals__"));
  PyObject* at = module_name && names && PyDict_Check(names.p) ? PyDict_GetItemString(names.p, "__name__") : nullptr;
  PyObject* found = at && PyObject_RichCompareBool(at, module_name.p, Py_EQ) == 1 ? PyDict_GetItemWithError(names.p, name) : nullptr;
  PyErr_Clear();
  return found;
}
PyObject* compiled_reduce(PyObject* self, PyObject*) {  // by name, as functions are, where the name leads here: a decorated function
  Ref name(PyObject_GetAttrString(self, "__qualname__"));
  if (!name) return nullptr;
  if (found_by_name(self, name.p) == self) return name.release();
  return PyErr_Format(PyExc_TypeError, "cannot pickle %R: compiled code lives in this process; pickle the original (__wrapped__) and compile it again", self);
}

PyObject* compiled_stats(CompiledFunction* self, PyObject*) {  // for tests and tuning: one dictionary per entry, most recent first
  Ref list(PyList_New(0));
  for (auto& b : self->bindings) {
    Ref d(matcher_stats(b->matcher));
    if (!list || !d || PyList_Append(list.p, d.p) < 0) return nullptr;
  }
  return list.release();
}

PyMethodDef compiled_methods[] = {{"stats", (PyCFunction)compiled_stats, METH_NOARGS, "sizes and hits of the entries' guard programs, as this callable sees them"},
                                  {"__copy__", compiled_copy, METH_NOARGS, nullptr},
                                  {"__deepcopy__", compiled_copy, METH_O, nullptr},
                                  {"__reduce__", compiled_reduce, METH_NOARGS, nullptr},
                                  {nullptr, nullptr, 0, nullptr}};
PyMemberDef compiled_members[] = {{"__wrapped__", T_OBJECT, offsetof(CompiledFunction, wrapped), READONLY, nullptr},
                                  {"function", T_OBJECT, offsetof(CompiledFunction, function), READONLY, nullptr},
                                  {"cache", T_OBJECT, offsetof(CompiledFunction, cache), READONLY, nullptr},
                                  {"on_miss", T_OBJECT, offsetof(CompiledFunction, on_miss), 0, nullptr},
                                  {"skip", T_BOOL, offsetof(CompiledFunction, skip), 0, "always run the original"},
                                  {nullptr, 0, 0, 0, nullptr}};
PyGetSetDef compiled_getset[] = {{"__doc__", compiled_forward<&name_doc>, nullptr, nullptr, nullptr},
                                 {"__module__", compiled_forward<&name_module>, nullptr, nullptr, nullptr},
                                 {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
                                 {nullptr, nullptr, nullptr, nullptr, nullptr}};

}  // namespace
