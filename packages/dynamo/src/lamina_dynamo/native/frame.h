// The frame hook (PEP 523): frames of foreign code, called by a region that broke, run compiled entries in place.
//
// Installed only while some thread has a callback, since an installed hook makes every Python-to-Python call of the process
// slower. A frame is replaced by swapping the code object inside it: arguments are where the new code wants them already
// (argument slots come first and hold raw values until cells are made), the closure stays, the interpreter releases everything.
// Where the new code needs a larger frame, a function is made of it and called on the argument slots instead.
#if PY_VERSION_HEX >= 0x030d0000
extern "C" PyAPI_FUNC(void) _PyEval_FrameClearAndPop(PyThreadState*, _PyInterpreterFrame*);  // exported, in no public header
#endif

namespace {

// hook_callback(function, slots, code) -> CodeCache with an entry that matches; None: not this time; SKIP: never this code
thread_local bool in_callback = false;
int hook_threads = 0;

struct CodeExtra {  // per code object
  bool skip = false;
  int whose = -1;  // what `whose_code` said, -1: not asked yet
  struct Known {
    PyObject* callback;  // borrowed, compared only: whose configuration this is
    CodeCache* cache;    // borrowed: removed when the cache dies
    std::vector<std::shared_ptr<Binding>> bindings;
    uint64_t version;
  };
  std::vector<Known> known;
};
Py_ssize_t extra_index = -1;
void free_extra(void* e) { delete (CodeExtra*)e; }

#if PY_VERSION_HEX >= 0x030c0000
#define GET_EXTRA PyUnstable_Code_GetExtra
#define SET_EXTRA PyUnstable_Code_SetExtra
#define REQUEST_EXTRA PyUnstable_Eval_RequestCodeExtraIndex
#else
#define GET_EXTRA _PyCode_GetExtra
#define SET_EXTRA _PyCode_SetExtra
#define REQUEST_EXTRA _PyEval_RequestCodeExtraIndex
#endif

CodeExtra* extra_of(PyObject* code, bool make) {
  void* e = nullptr;
  GET_EXTRA(code, extra_index, &e);
  if (!e && make) SET_EXTRA(code, extra_index, e = new CodeExtra());
  return (CodeExtra*)e;
}

void frame_forget(CodeCache* cache) {
  if (!cache->code) return;
  CodeExtra* e = extra_of(cache->code, false);
  if (!e) return;
  std::vector<std::shared_ptr<Binding>> old;
  for (size_t i = 0; i < e->known.size(); i++)
    if (e->known[i].cache == cache) {
      old.swap(e->known[i].bindings);
      e->known.erase(e->known.begin() + i--);
    }
}

bool frame_init() { return (extra_index = REQUEST_EXTRA(free_extra)) >= 0; }

#if PY_VERSION_HEX >= 0x030d0000
inline PyCodeObject* frame_code(_PyInterpreterFrame* f) { return (PyCodeObject*)f->f_executable; }
#else
inline PyCodeObject* frame_code(_PyInterpreterFrame* f) { return f->f_code; }
#endif

inline PyFunctionObject* frame_function(_PyInterpreterFrame* f) {
#if PY_VERSION_HEX >= 0x030c0000
  return (PyFunctionObject*)f->f_funcobj;
#else
  return f->f_func;
#endif
}

inline int frame_size(PyCodeObject* c) {
#if PY_VERSION_HEX >= 0x030c0000
  return c->co_framesize;
#else
  return c->co_nlocalsplus + c->co_stacksize;
#endif
}

void swap_code(_PyInterpreterFrame* f, PyCodeObject* fresh) {  // the frame has room, its argument slots are in place
  PyCodeObject* old = frame_code(f);
  Py_INCREF(fresh);
#if PY_VERSION_HEX >= 0x030d0000
  f->f_executable = (PyObject*)fresh;
  f->instr_ptr = _PyCode_CODE(fresh);
#else
  f->f_code = fresh;
  f->prev_instr = _PyCode_CODE(fresh) - 1;
#endif
  f->stacktop = fresh->co_nlocalsplus;
  Py_DECREF(old);
}

// Run the entry's code in the frame, which takes over the arguments beyond the slots. False: the frame is too small.
bool enter_in_place(_PyInterpreterFrame* f, Py_ssize_t n, Entry* e, PyObject** arguments) {
  PyCodeObject *fresh = (PyCodeObject*)e->code, *old = frame_code(f);
  if (frame_size(fresh) > frame_size(old)) return false;
  size_t at = n;
  for (; at < e->code_args(); at++) f->localsplus[at] = Py_NewRef(arguments[at]);
  while (at < (size_t)fresh->co_nlocalsplus) f->localsplus[at++] = nullptr;
  swap_code(f, fresh);
  return true;
}

PyObject* call_on_slots(_PyInterpreterFrame* f, Entry* e, PyObject** arguments) {
  PyFunctionObject* fn = frame_function(f);
  Ref function(make_function(e->code, fn->func_globals, fn->func_closure));
  HookRests rests;
  return function ? PyObject_Vectorcall(function.p, arguments, e->code_args(), nullptr) : nullptr;
}

// A frame whose code will not run: what the evaluation would have done at its end. 3.11's caller clears the frame itself.
void drop_frame(PyThreadState* ts, _PyInterpreterFrame* f) {
#if PY_VERSION_HEX >= 0x030d0000
  _PyEval_FrameClearAndPop(ts, f);
#elif PY_VERSION_HEX >= 0x030c0000
  // As _PyEval_FrameClearAndPop and _PyThreadState_PopFrame, which 3.12 does not export, for a frame that never ran (hence
  // without a frame object). The bottom of a chunk of the stack is its first slot.
  for (int i = 0; i < f->stacktop; i++) Py_XDECREF(f->localsplus[i]);
  Py_XDECREF(f->f_locals);
  Py_DECREF(f->f_funcobj);
  Py_DECREF(f->f_code);
  PyObject** base = (PyObject**)f;
  _PyStackChunk* chunk = ts->datastack_chunk;
  if (base == &chunk->data[0]) {
    _PyStackChunk* previous = chunk->previous;
    ts->datastack_top = &previous->data[previous->top];
    ts->datastack_chunk = previous;
    PyObjectArenaAllocator arena;
    PyObject_GetArenaAllocator(&arena);
    arena.free(arena.ctx, chunk, chunk->size);
    ts->datastack_limit = (PyObject**)((char*)previous + previous->size);
  } else {
    ts->datastack_top = base;
  }
#else
  (void)ts, (void)f;
#endif
}

CodeExtra::Known* known_for(CodeExtra* e, PyObject* callback) {
  for (CodeExtra::Known& k : e->known)
    if (k.callback == callback) return &k;
  return nullptr;
}

bool ask(PyCodeObject* code, PyFunctionObject* fn, PyObject* slots_tuple, PyObject** answer) {  // false: exception
  Ref callback = Ref::of(hook_callback);
  in_callback = true;
  *answer = PyObject_CallFunctionObjArgs(callback.p, (PyObject*)fn, slots_tuple, (PyObject*)code, nullptr);
  in_callback = false;
  return *answer != nullptr;
}

// What to do with a frame: an entry to run (0 or more supplied values in `out`), or null to run it as it is.
std::shared_ptr<Binding> find_entry(_PyInterpreterFrame* f, PyCodeObject* code, Py_ssize_t n, std::vector<PyObject*>& out, std::vector<Ref>& hold, bool* error) {
  PyFunctionObject* fn = frame_function(f);
  CodeExtra* e = extra_of((PyObject*)code, true);
  PyObject* mine = hook_callback;
  Roots r{f->localsplus, fn->func_globals, fn->func_closure};
  State now;
  now.read();
  for (int round = 0; round < 2; round++) {
    CodeExtra::Known* k = known_for(e, mine);
    if (k) {
      if (k->version != k->cache->version) {
        std::vector<std::shared_ptr<Binding>> fresh;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(k->cache->entries); i++) {
          Entry* entry = (Entry*)PyList_GET_ITEM(k->cache->entries, i);
          auto at = std::find_if(k->bindings.begin(), k->bindings.end(), [&](auto& b) { return b->entry == entry; });
          fresh.push_back(at == k->bindings.end() ? std::make_shared<Binding>(entry) : *at);
        }
        k->bindings.swap(fresh);
        k->version = k->cache->version;
      }
      std::vector<std::shared_ptr<Binding>> bindings = k->bindings;  // user code may run below
      for (auto& b : bindings) {
        out.resize(b->matcher.p->supplied.size() + 1);
        hold.clear();
        if (b->matcher.match(r, now, out.data(), hold)) return b;
      }
      k = known_for(e, mine);
      if (k && k->cache->frozen) return nullptr;
    }
    if (round || in_callback) return nullptr;
    Ref slots(PyTuple_New(n));
    for (Py_ssize_t i = 0; i < n; i++) PyTuple_SET_ITEM(slots.p, i, Py_NewRef(f->localsplus[i]));
    PyObject* raw = nullptr;
    if (!ask(code, fn, slots.p, &raw)) { *error = true; return nullptr; }
    Ref answer(raw);
    if (!PyObject_TypeCheck(raw, &cache_type)) {
      if (raw == skip_always) e->skip = true;
      return nullptr;
    }
    if (!known_for(e, mine)) e->known.push_back({mine, (CodeCache*)raw, {}, 0});
  }
  return nullptr;
}

// Answers of `run_entry_in`: evaluate the frame, which now holds the entry's code, or which is as it was because the graph raised.
PyObject *const IN_PLACE = (PyObject*)&hook_threads, *const AS_IT_IS = (PyObject*)&in_callback;

PyObject* run_entry_in(_PyInterpreterFrame* f, Py_ssize_t n, const std::shared_ptr<Binding>& b, const std::vector<PyObject*>& supplied, PyObject** original) {
  Entry* e = b->entry;
  Ref alive = Ref::of((PyObject*)e);
  e->hits++;
  Arguments<32> row(row_size(e)), arguments(e->code_args());
  std::copy(f->localsplus, f->localsplus + n, row.p);
  std::copy(supplied.begin(), supplied.begin() + e->guards().supplied.size(), row.p + n);
  put_constants(e, row.p);
  Held held(row.p, n + e->guards().supplied.size());
  Ref graph_result;
  if (e->graph) {
    HookRests rests;
    graph_result = Ref(call_graph(e, row.p));
    if (!graph_result) return (*original = after_failure(e)) ? AS_IT_IS : nullptr;
  }
  code_arguments(e, row.p, graph_result.p, arguments.p);
  return enter_in_place(f, n, e, arguments.p) ? IN_PLACE : call_on_slots(f, e, arguments.p);
}

// ---- what C code calls back during capture -----------------------------------------------------------------------------
// `watched(fn, ...)` calls a native function for a capture. Where C code enters a function of the program's (`__index__` of an
// object, say), the call is stopped: nobody would interpret that function, and what it reads would not be guarded.
enum Whose { LIBRARY, PROGRAM, OURS };
thread_local bool watching = false;
thread_local PyObject* called_back = nullptr;  // code of the program's that was to be entered
PyObject *whose_code = nullptr, *refuse_callback = nullptr;
int watching_threads = 0;

PyObject* evaluate(PyThreadState* ts, _PyInterpreterFrame* f, int throwing);
void install() { _PyInterpreterState_SetEvalFrameFunc(PyInterpreterState_Get(), hook_threads + watching_threads ? evaluate : _PyEval_EvalFrameDefault); }

struct Watch {  // sets whether this thread watches, for a scope
  bool saved = watching;
  explicit Watch(bool on) { set(on); }
  ~Watch() { set(saved); }
  void set(bool on) {
    if (on == watching) return;
    watching_threads += on ? 1 : -1;
    watching = on;
    install();
  }
};

PyObject* evaluate_watched(PyThreadState* ts, _PyInterpreterFrame* f, int throwing) {
  if (ts->tracing) return _PyEval_EvalFrameDefault(ts, f, throwing);  // a debugger or profiler looks on
  PyCodeObject* code = frame_code(f);
  CodeExtra* e = extra_of((PyObject*)code, true);
  if (e->whose < 0) {
    Watch rests(false);
    Ref answer(PyObject_CallFunctionObjArgs(whose_code, (PyObject*)code, f->f_globals, nullptr));
    e->whose = answer ? (int)PyLong_AsLong(answer.p) : LIBRARY;
    PyErr_Clear();
  }
  if (e->whose == OURS) {  // what the interpreter hands to C code: it looks after itself
    Watch rests(false);
    return _PyEval_EvalFrameDefault(ts, f, throwing);
  }
  if (e->whose == PROGRAM && !throwing) {
    if (!called_back) called_back = Py_NewRef((PyObject*)code);
    if (f->owner == FRAME_OWNED_BY_THREAD) {
      drop_frame(ts, f);
      PyErr_SetString(PyExc_RuntimeError, "a function of the program, called by C code during capture");
      return nullptr;
    }
  }
  return _PyEval_EvalFrameDefault(ts, f, throwing);
}

// watched(fn, *args, **kwargs)
PyObject* py_watched(PyObject*, PyObject* const* args, Py_ssize_t n, PyObject* names) {
  PyObject* before = called_back;
  called_back = nullptr;
  PyObject* out;
  {
    Watch watch(true);
    out = PyObject_Vectorcall(args[0], args + 1, (size_t)(n - 1), names);
  }
  Ref code(called_back);
  called_back = before;
  if (LIKELY(!code)) return out;
  Py_XDECREF(out);
  PyErr_Clear();
  Ref raised(PyObject_CallOneArg(refuse_callback, code.p));
  return nullptr;
}
// set_watch(whose_code, refuse_callback): (code, globals) -> LIBRARY, PROGRAM or OURS; what raises the refusal for a code object
PyObject* py_set_watch(PyObject*, PyObject* args) {
  PyObject *whose, *refuse;
  if (!PyArg_ParseTuple(args, "OO", &whose, &refuse)) return nullptr;
  whose_code = Py_NewRef(whose), refuse_callback = Py_NewRef(refuse);
  Py_RETURN_NONE;
}

PyObject* evaluate(PyThreadState* ts, _PyInterpreterFrame* f, int throwing) {
  if (UNLIKELY(watching)) return evaluate_watched(ts, f, throwing);
  if (LIKELY(!hook_callback || throwing || in_callback || bypass_depth)) return _PyEval_EvalFrameDefault(ts, f, throwing);
  PyCodeObject* code = frame_code(f);
  CodeExtra* e = extra_of((PyObject*)code, false);
  if ((e && e->skip) || (code->co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)) || !(code->co_flags & CO_NEWLOCALS) || f->owner != FRAME_OWNED_BY_THREAD)
    return _PyEval_EvalFrameDefault(ts, f, throwing);
  Py_ssize_t n = count_slots(code);
  for (Py_ssize_t i = 0; i < n; i++)
    if (!f->localsplus[i]) return _PyEval_EvalFrameDefault(ts, f, throwing);
  std::vector<PyObject*> supplied;
  std::vector<Ref> hold;
  bool error = false;
  std::shared_ptr<Binding> b = find_entry(f, code, n, supplied, hold, &error);
  if (!b && !error) return _PyEval_EvalFrameDefault(ts, f, throwing);
  PyObject* original = nullptr;
  PyObject* result = b ? run_entry_in(f, n, b, supplied, &original) : nullptr;
  Ref followed_by(original);
  if (result == IN_PLACE || result == AS_IT_IS) {
    hold.clear(), supplied.clear(), b.reset();
    HookRests rests;
    Ref out(_PyEval_EvalFrameDefault(ts, f, 0));
    if (out && followed_by && !Ref(PyObject_CallNoArgs(followed_by.p))) return nullptr;
    return finish(out.release());
  }
  drop_frame(ts, f);
  return finish(result);
}

// ---- switches ------------------------------------------------------------------------------------------------------
PyObject* py_set_hook(PyObject*, PyObject* callback) {
  PyObject* old = hook_callback ? hook_callback : Py_NewRef(Py_None);
  hook_threads += (callback != Py_None) - (hook_callback != nullptr);
  hook_callback = callback == Py_None ? nullptr : Py_NewRef(callback);
  install();
  return old;
}
PyObject* py_get_hook(PyObject*, PyObject*) { return Py_NewRef(hook_callback ? hook_callback : Py_None); }
PyObject* py_hook_users(PyObject*, PyObject*) { return PyLong_FromLong(hook_threads); }
PyObject* py_mark_code(PyObject*, PyObject* args) {
  PyObject* code;
  int skip;
  if (!PyArg_ParseTuple(args, "O!p", &PyCode_Type, &code, &skip)) return nullptr;
  extra_of(code, true)->skip = skip;
  Py_RETURN_NONE;
}

}  // namespace
