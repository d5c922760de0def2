// The extension module: types, sentinels, switches.
namespace {

PyObject* py_global_state(PyObject*, PyObject*) {  // fields of guards.GlobalState, in order
  State s;
  s.read();
  PyObject* t = PyTuple_New(State::N);
  for (int i = 0; t && i < State::N; i++) PyTuple_SET_ITEM(t, i, PyLong_FromUnsignedLongLong(s.w[i]));
  return t;
}
PyObject* py_bypass(PyObject*, PyObject* delta) {  // add to this thread's depth; returns the new one
  long d = PyLong_AsLong(delta);
  if (d == -1 && PyErr_Occurred()) return nullptr;
  return PyLong_FromLong(bypass_depth += (int)d);
}
bool order_is_counted() {  // each change of the order is a step or two
  Ref d(PyODict_New());
  if (!d || PyODict_SetItem(d.p, Py_True, Py_None) || PyODict_SetItem(d.p, Py_False, Py_None)) return false;
  for (PyObject* key : {Py_True, Py_False}) {
    uint64_t before = *order_state(d.p);
    Ref done(PyObject_CallMethod(d.p, "move_to_end", "O", key));
    if (!done || *order_state(d.p) - before - 1 > 1) return false;
  }
  return true;
}
// setup(tensor base class, a tensor, a torch.float64): verify PyTorch's layout, or raise
PyObject* py_setup(PyObject*, PyObject* args) {
  PyObject *base, *tensor, *float64;
  if (!PyArg_ParseTuple(args, "OOO", &base, &tensor, &float64)) return nullptr;
  Ref cdata(PyObject_GetAttrString(tensor, "_cdata"));
  if (!cdata) return nullptr;
  void* impl = PyLong_AsVoidPtr(cdata.p);
  bool found = false;
  for (Py_ssize_t at : {(Py_ssize_t)sizeof(PyObject), (Py_ssize_t)sizeof(PyObject) + 8})  // at::Tensor, or MaybeOwned<at::Tensor> in older versions
    if (!found && *(void**)((char*)tensor + at) == impl) impl_offset = at, found = true;
  if (!found || scalar_type_of(float64) != c10::ScalarType::Double) {
    PyErr_SetString(PyExc_ImportError, "this PyTorch lays out tensors in an unknown way");
    return nullptr;
  }
  tensor_base = (PyTypeObject*)Py_NewRef(base);
  flag_offset = find_flag(tensor);
  if (!order_is_counted()) return PyErr_SetString(PyExc_ImportError, "this Python lays out OrderedDict in an unknown way"), nullptr;
  Py_RETURN_NONE;
}
PyObject* py_lookup(PyObject*, PyObject* args) {  // (type, name) -> raw class attribute
  PyObject *t, *name;
  if (!PyArg_ParseTuple(args, "O!U", &PyType_Type, &t, &name)) return nullptr;
  PyObject* v = _PyType_Lookup((PyTypeObject*)t, name);
  if (!v) return PyErr_Format(PyExc_AttributeError, "%U", name);
  return Py_NewRef(v);
}

PyMethodDef module_methods[] = {{"global_state", py_global_state, METH_NOARGS, nullptr},
                                {"bypass", py_bypass, METH_O, nullptr},
                                {"setup", py_setup, METH_VARARGS, nullptr},
                                {"lookup_in_mro", py_lookup, METH_VARARGS, nullptr},
                                {"set_hook", py_set_hook, METH_O, "callback(function, slots, code) -> CodeCache or None of this thread; None switches it off. Returns the previous one"},
                                {"get_hook", py_get_hook, METH_NOARGS, nullptr},
                                {"hook_users", py_hook_users, METH_NOARGS, "how many threads have a callback"},
                                {"tail", (PyCFunction)(void (*)(void))make_tail, METH_FASTCALL, "tail(callable, *args): as the result of replacement code, a call to make in its place"},
                                {"watched", (PyCFunction)(void (*)(void))py_watched, METH_FASTCALL | METH_KEYWORDS, "watched(fn, *args, **kwargs): call for a capture; refused where C code calls the program back"},
                                {"set_watch", py_set_watch, METH_VARARGS, "set_watch(whose_code, refuse_callback)"},
                                {"mark_code", py_mark_code, METH_VARARGS, "mark_code(code, skip): never, or again, consider frames of this code"},
                                {nullptr, nullptr, 0, nullptr}};
PyModuleDef module_def = {PyModuleDef_HEAD_INIT, "_lamina_native", "Guards, caches and the frame hook of lamina_dynamo.", -1, module_methods, nullptr, nullptr, nullptr, nullptr};

bool ready(PyTypeObject& t, const char* name, size_t size, newfunc make, void* dealloc, void* traverse, void* clear, Py_ssize_t dict, Py_ssize_t weak) {
  t.tp_name = name, t.tp_basicsize = (Py_ssize_t)size, t.tp_new = make;
  t.tp_dealloc = (destructor)dealloc, t.tp_traverse = (traverseproc)traverse, t.tp_clear = (inquiry)clear;
  t.tp_dictoffset = dict, t.tp_weaklistoffset = weak;
  t.tp_flags |= Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC;
  if (&t != &compiled_type) t.tp_flags |= Py_TPFLAGS_BASETYPE;
  return PyType_Ready(&t) == 0;
}

}  // namespace

PyMODINIT_FUNC PyInit__lamina_native() {
  program_type.tp_methods = program_methods;
  entry_type.tp_members = entry_members;
  cache_type.tp_methods = cache_methods, cache_type.tp_members = cache_members, cache_type.tp_getset = cache_getset;
  compiled_type.tp_methods = compiled_methods, compiled_type.tp_members = compiled_members, compiled_type.tp_getset = compiled_getset;
  compiled_type.tp_call = PyVectorcall_Call, compiled_type.tp_vectorcall_offset = offsetof(CompiledFunction, vectorcall);
  compiled_type.tp_flags = Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR;
  compiled_type.tp_descr_get = compiled_get, compiled_type.tp_getattro = compiled_getattro, compiled_type.tp_repr = compiled_repr;
  if (!ready(program_type, "lamina_dynamo.native.Program", sizeof(ProgramObject), program_new, (void*)program_dealloc, (void*)program_traverse, (void*)program_clear,
             offsetof(ProgramObject, dict), offsetof(ProgramObject, weaklist)) ||
      !ready(entry_type, "lamina_dynamo.native.Entry", sizeof(Entry), entry_new, (void*)entry_dealloc, (void*)entry_traverse, (void*)entry_clear, offsetof(Entry, dict), offsetof(Entry, weaklist)) ||
      !ready(cache_type, "lamina_dynamo.native.CodeCache", sizeof(CodeCache), cache_new, (void*)cache_dealloc, (void*)cache_traverse, (void*)cache_tp_clear, offsetof(CodeCache, dict),
             offsetof(CodeCache, weaklist)) ||
      !ready(compiled_type, "lamina_dynamo.native.CompiledFunction", sizeof(CompiledFunction), compiled_new, (void*)compiled_dealloc, (void*)compiled_traverse, (void*)compiled_clear,
             offsetof(CompiledFunction, dict), offsetof(CompiledFunction, weaklist)))
    return nullptr;
  tail_type.tp_name = "lamina_dynamo.native.Tail", tail_type.tp_base = &PyTuple_Type, tail_type.tp_flags = Py_TPFLAGS_DEFAULT;
  if (PyType_Ready(&tail_type)) return nullptr;
  PyObject* m = PyModule_Create(&module_def);
  if (!m || !frame_init()) return nullptr;
  run_eager = PyObject_CallNoArgs((PyObject*)&PyBaseObject_Type), skip_always = PyObject_CallNoArgs((PyObject*)&PyBaseObject_Type);
  PyModule_AddObjectRef(m, "Program", (PyObject*)&program_type), PyModule_AddObjectRef(m, "Entry", (PyObject*)&entry_type);
  PyModule_AddObjectRef(m, "CodeCache", (PyObject*)&cache_type), PyModule_AddObjectRef(m, "CompiledFunction", (PyObject*)&compiled_type);
  PyModule_AddObjectRef(m, "RUN_EAGER", run_eager), PyModule_AddObjectRef(m, "SKIP", skip_always);
  return m;
}
