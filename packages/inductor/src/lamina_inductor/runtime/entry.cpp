// The native entry object: a vectorcall callable that hands tensor handles to a generated graph function and wraps what comes back.
//
// Invariants: handles of inputs are borrowed (the address of THPVariable.cdata), or, in a `boxed` call, owned and dropped by the generated code
// after their last use; handles of outputs are owned and moved into Python tensors. Memory is the pool's (pool.h).
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

namespace at { class TensorBase; }
PyObject* THPVariable_Wrap(const at::TensorBase& var);

typedef void* H;
extern "C" {
int aoti_torch_delete_tensor_object(H);
int aoti_torch_new_tensor_handle(H, H*);
int torch_from_blob(void*, i64, const i64*, const i64*, i64, int, int, int, H*, int, const unsigned char*, i64, void (*)(void*, void*), void*);
int aoti_torch_empty_strided(i64, const i64*, const i64*, int, int, int, H*);
int aoti_torch_layout_strided(void);
const char* torch_exception_get_what_without_backtrace() __attribute__((weak));   // not in torch 2.11
}

struct Ctx {                       // mirrored in codegen/entry.py
  int (*callback)(Ctx*, int number, int n_in, H* in, i64* sizes, int n_out, H* out);
  void* (*acquire)(Ctx*, i64 bytes);
  void (*release)(Ctx*, void*);
  const char* message;             // set by generated code: "Type: text"
  void* self;
  int (*output)(Ctx*, i64 ndim, const i64* sizes, const i64* strides, int dtype, i64 bytes, H* out);   // a large result
  i64 owned;                       // whether the tensor inputs are this call's own
};
typedef int (*EntryFn)(Ctx*, H* in, i64* ints, H* out, i64* int_out);

struct Entry {
  PyObject_HEAD
  vectorcallfunc vectorcall;
  Ctx ctx;
  EntryFn fn;
  Py_ssize_t n_in, n_out, n_const, n_tensor, n_int, n_int_out;
  char* in_kind;                   // 't' tensor, 'i' integer, 'f' float64 (its bits, among the integers), '-' not used
  char* out_kind;                  // 't' tensor, 'i' integer, 'f' float64 (its bits), 'b' bool, 'o' constant object
  PyObject* constants;             // tuple of tensors, handed over after the tensor inputs
  PyObject* objects;               // tuple: outputs of kind 'o'
  PyObject* callbacks;             // tuple of callables(tensors tuple, sizes tuple) -> tuple of tensors
  PyObject* name;
  PyObject* weakrefs;
};

static PyTypeObject* tensor_type = NULL;
static inline H handle_of(PyObject* o) { return (H)((char*)o + sizeof(PyObject)); }

// -- memory ---------------------------------------------------------------------------------------------------------------------
static void* acquire(Ctx*, i64 bytes) { return take(bytes); }
static void release(Ctx*, void* p) { give(p); }
static void give_back(void*, void* block) { give(block); }     // the last tensor on a block died, in whatever thread
static int output(Ctx* ctx, i64 ndim, const i64* sizes, const i64* strides, int dtype, i64 bytes, H* out) {
  if (bytes < (64 << 10)) return aoti_torch_empty_strided(ndim, sizes, strides, dtype, 0, 0, out);
  void* p = take(bytes);
  if (!p) { ctx->message = "MemoryError: not enough memory for a result of a compiled graph"; return 1; }
  int failed = torch_from_blob(p, ndim, sizes, strides, 0, dtype, 0, -1, out, aoti_torch_layout_strided(), NULL, 0, give_back, p);
  if (failed) give(p);
  return failed;
}

// -- calls back into Python -------------------------------------------------------------------------------------------------------
static int call_back(Ctx* ctx, int number, int n_in, H* in, i64* sizes, int n_out, H* out) {
  Entry* e = (Entry*)ctx->self;
  PyObject* item = PyTuple_GET_ITEM(e->callbacks, number);      // (callable, number of sizes)
  PyObject* fn = PyTuple_GET_ITEM(item, 0);
  Py_ssize_t n_sizes = PyLong_AsSsize_t(PyTuple_GET_ITEM(item, 1));
  PyObject* tensors = PyTuple_New(n_in);
  PyObject* numbers = PyTuple_New(n_sizes);
  PyObject* result = NULL;
  int failed = 1;
  if (!tensors || !numbers) goto done;
  for (int i = 0; i < n_in; i++) {
    PyObject* t = THPVariable_Wrap(*(const at::TensorBase*)in[i]);
    if (!t) goto done;
    PyTuple_SET_ITEM(tensors, i, t);
  }
  for (Py_ssize_t i = 0; i < n_sizes; i++) PyTuple_SET_ITEM(numbers, i, PyLong_FromLong(sizes[i]));
  result = PyObject_CallFunctionObjArgs(fn, tensors, numbers, NULL);
  if (!result) goto done;
  if (!PyTuple_Check(result) || PyTuple_GET_SIZE(result) != n_out) {
    PyErr_Format(PyExc_RuntimeError, "a fallback returned %R, expected a tuple of %d tensors", result, n_out);
    goto done;
  }
  for (int i = 0; i < n_out; i++)
    if (aoti_torch_new_tensor_handle(handle_of(PyTuple_GET_ITEM(result, i)), &out[i])) goto done;
  failed = 0;
done:
  Py_XDECREF(tensors); Py_XDECREF(numbers); Py_XDECREF(result);
  return failed;
}

static int callback(Ctx* ctx, int number, int n_in, H* in, i64* sizes, int n_out, H* out) {
  PyGILState_STATE state = PyGILState_Ensure();
  int failed = call_back(ctx, number, n_in, in, sizes, n_out, out);
  PyGILState_Release(state);
  return failed;
}

static PyObject* fail(const char* m) {
  if (PyErr_Occurred()) return NULL;
  if (m && !strncmp(m, "IndexError: ", 12)) PyErr_SetString(PyExc_IndexError, m + 12);
  else if (m && !strncmp(m, "MemoryError: ", 13)) PyErr_SetString(PyExc_MemoryError, m + 13);
  else if (m && !strncmp(m, "RuntimeError: ", 14)) PyErr_SetString(PyExc_RuntimeError, m + 14);
  else {
    const char* what = torch_exception_get_what_without_backtrace ? torch_exception_get_what_without_backtrace() : NULL;
    PyErr_SetString(PyExc_RuntimeError, what && *what ? what : "a library call failed inside compiled code");
  }
  return NULL;
}

// Turns the borrowed handles of the tensor inputs into owned ones, and empties the list that held the tensors.
static int take_over(Ctx* ctx, H* in, Py_ssize_t count, PyObject* box) {
  for (Py_ssize_t i = 0; i < count; i++) {
    H mine = NULL;
    if (aoti_torch_new_tensor_handle(in[i], &mine)) {
      while (i--) aoti_torch_delete_tensor_object(in[i]);
      return 1;
    }
    in[i] = mine;
  }
  ctx->owned = 1;
  return PyList_SetSlice(box, 0, PyList_GET_SIZE(box), NULL);
}

// `box`: the list that holds the arguments, to be emptied; or NULL.
static PyObject* run(Entry* e, PyObject* const* args, Py_ssize_t n, PyObject* box) {
  if (n != e->n_in) {
    PyErr_Format(PyExc_TypeError, "compiled graph %U takes %zd positional arguments, got %zd", e->name, e->n_in, n);
    return NULL;
  }
  Ctx ctx = e->ctx;     // a copy: several threads may be in one graph
  H in_small[64]; i64 ints_small[16]; H out_small[64]; i64 int_out_small[16];
  Py_ssize_t n_handles = e->n_tensor + e->n_const;
  H* in = n_handles <= 64 ? in_small : (H*)malloc(sizeof(H) * n_handles);
  H* out = e->n_out <= 64 ? out_small : (H*)malloc(sizeof(H) * e->n_out);
  i64* ints = e->n_int <= 16 ? ints_small : (i64*)malloc(sizeof(i64) * e->n_int);
  i64* int_out = e->n_int_out <= 16 ? int_out_small : (i64*)malloc(sizeof(i64) * e->n_int_out);
  PyObject* result = NULL;
  int failed = 0;
  Py_ssize_t t = 0, k = 0;
  for (Py_ssize_t i = 0; i < n; i++) {
    PyObject* a = args[i];
    if (e->in_kind[i] == 't') {
      if (Py_TYPE(a) != tensor_type && !PyObject_TypeCheck(a, tensor_type)) {
        PyErr_Format(PyExc_TypeError, "argument %zd of compiled graph %U is %s, not a tensor", i, e->name, Py_TYPE(a)->tp_name);
        goto done;
      }
      in[t++] = handle_of(a);
    } else if (e->in_kind[i] == 'i') {
      i64 v = PyLong_Check(a) ? PyLong_AsLong(a) : -1;
      if (!PyLong_Check(a)) {
        PyObject* x = PyNumber_Index(a);
        if (!x) goto done;
        v = PyLong_AsLong(x);
        Py_DECREF(x);
      }
      if (v == -1 && PyErr_Occurred()) goto done;
      ints[k++] = v;
    } else if (e->in_kind[i] == 'f') {
      double x = PyFloat_AsDouble(a);
      if (x == -1.0 && PyErr_Occurred()) goto done;
      memcpy(&ints[k++], &x, sizeof x);
    }
  }
  for (Py_ssize_t i = 0; i < e->n_const; i++) in[t++] = handle_of(PyTuple_GET_ITEM(e->constants, i));
  if (box && take_over(&ctx, in, e->n_tensor, box)) { fail(NULL); goto done; }
  Py_BEGIN_ALLOW_THREADS      // as eager operators do; arguments that are not owned stay alive in the caller's frame
  failed = e->fn(&ctx, in, ints, out, int_out);
  if (ctx.owned)
    for (Py_ssize_t i = 0; i < e->n_tensor; i++) if (in[i]) aoti_torch_delete_tensor_object(in[i]);
  Py_END_ALLOW_THREADS
  if (failed) { fail(ctx.message); goto done; }
  result = PyTuple_New(e->n_out);
  {
    Py_ssize_t io = 0, ob = 0, h = 0;
    for (Py_ssize_t i = 0; i < e->n_out; i++) {
      PyObject* o;
      if (e->out_kind[i] == 't') {
        o = THPVariable_Wrap(*(const at::TensorBase*)out[h]);
        aoti_torch_delete_tensor_object(out[h++]);
      } else if (e->out_kind[i] == 'i') {
        o = PyLong_FromLong(int_out[io++]);
      } else if (e->out_kind[i] == 'b') {
        o = PyBool_FromLong(int_out[io++]);
      } else if (e->out_kind[i] == 'f') {
        double x;
        memcpy(&x, &int_out[io++], sizeof x);
        o = PyFloat_FromDouble(x);
      } else {
        o = PyTuple_GET_ITEM(e->objects, ob++);
        Py_INCREF(o);
      }
      if (result && o) PyTuple_SET_ITEM(result, i, o);
      else { Py_XDECREF(o); Py_CLEAR(result); }
    }
  }
done:
  if (in != in_small) free(in);
  if (out != out_small) free(out);
  if (ints != ints_small) free(ints);
  if (int_out != int_out_small) free(int_out);
  return result;
}

static PyObject* call(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  Entry* e = (Entry*)self;
  if (kwnames && PyTuple_GET_SIZE(kwnames)) {
    PyErr_Format(PyExc_TypeError, "compiled graph %U takes no keyword arguments", e->name);
    return NULL;
  }
  return run(e, args, PyVectorcall_NARGS(nargsf), NULL);
}

static PyObject* boxed(PyObject* self, PyObject* box) {
  if (!PyList_CheckExact(box)) {
    PyErr_SetString(PyExc_TypeError, "a boxed call takes one list");
    return NULL;
  }
  return run((Entry*)self, ((PyListObject*)box)->ob_item, PyList_GET_SIZE(box), box);
}
static PyMethodDef entry_methods[] = {
  {"boxed", boxed, METH_O, "boxed(list) -> tuple: a call that owns its arguments: the list is emptied, and each tensor dropped after its last use"},
  {NULL, NULL, 0, NULL}};

static int traverse(Entry* e, visitproc visit, void* arg) {
  Py_VISIT(e->constants); Py_VISIT(e->objects); Py_VISIT(e->callbacks);
  return 0;
}
static int clear(Entry* e) {
  Py_CLEAR(e->constants); Py_CLEAR(e->objects); Py_CLEAR(e->callbacks);
  return 0;
}
static void dealloc(Entry* e) {
  PyObject_GC_UnTrack(e);
  if (e->weakrefs) PyObject_ClearWeakRefs((PyObject*)e);
  clear(e);
  Py_CLEAR(e->name);
  free(e->in_kind); free(e->out_kind);
  PyObject_GC_Del(e);
}
static PyObject* repr(Entry* e) { return PyUnicode_FromFormat("<lamina entry %U>", e->name); }

static PyTypeObject EntryType = {
  .ob_base = PyVarObject_HEAD_INIT(NULL, 0)
  .tp_name = "lamina_entry.Entry",
  .tp_basicsize = sizeof(Entry),
  .tp_dealloc = (destructor)dealloc,
  .tp_vectorcall_offset = offsetof(Entry, vectorcall),
  .tp_repr = (reprfunc)repr,
  .tp_call = PyVectorcall_Call,
  .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC,
  .tp_doc = "Compiled graph: call with flat positional arguments, returns a tuple.",
  .tp_traverse = (traverseproc)traverse,
  .tp_clear = (inquiry)clear,
  .tp_weaklistoffset = offsetof(Entry, weakrefs),
  .tp_methods = entry_methods,
};

static Py_ssize_t count(const char* s, char c) { Py_ssize_t n = 0; for (; *s; s++) n += *s == c; return n; }

// make(name, function address, in_kinds, out_kinds, constants, objects, callbacks) -> Entry
static PyObject* make(PyObject*, PyObject* args) {
  PyObject *name, *constants, *objects, *callbacks; const char *in_kind, *out_kind; unsigned long long address;
  if (!PyArg_ParseTuple(args, "UKssO!O!O!", &name, &address, &in_kind, &out_kind, &PyTuple_Type, &constants, &PyTuple_Type, &objects, &PyTuple_Type, &callbacks)) return NULL;
  if (!tensor_type) {
    PyObject* torch = PyImport_ImportModule("torch");
    if (!torch) return NULL;
    tensor_type = (PyTypeObject*)PyObject_GetAttrString(torch, "Tensor");
    Py_DECREF(torch);
    if (!tensor_type) return NULL;
  }
  Entry* e = PyObject_GC_New(Entry, &EntryType);
  if (!e) return NULL;
  e->vectorcall = call;
  e->ctx.callback = callback; e->ctx.acquire = acquire; e->ctx.release = release; e->ctx.message = NULL; e->ctx.self = e; e->ctx.output = output; e->ctx.owned = 0;
  e->fn = (EntryFn)address;
  e->in_kind = strdup(in_kind); e->out_kind = strdup(out_kind);
  e->n_in = (Py_ssize_t)strlen(in_kind); e->n_out = (Py_ssize_t)strlen(out_kind);
  e->n_tensor = count(in_kind, 't'); e->n_int = count(in_kind, 'i') + count(in_kind, 'f'); e->n_int_out = count(out_kind, 'i') + count(out_kind, 'f') + count(out_kind, 'b');
  e->n_const = PyTuple_GET_SIZE(constants);
  Py_INCREF(constants); e->constants = constants;
  Py_INCREF(objects); e->objects = objects;
  Py_INCREF(callbacks); e->callbacks = callbacks;
  Py_INCREF(name); e->name = name; e->weakrefs = NULL;
  PyObject_GC_Track((PyObject*)e);
  return (PyObject*)e;
}

// symbol(path, name) -> address; the library stays loaded
static PyObject* symbol(PyObject*, PyObject* args) {
  const char *path, *name;
  if (!PyArg_ParseTuple(args, "ss", &path, &name)) return NULL;
  void* lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!lib) { PyErr_Format(PyExc_ImportError, "%s", dlerror()); return NULL; }
  void* f = dlsym(lib, name);
  if (!f) { PyErr_Format(PyExc_ImportError, "%s", dlerror()); return NULL; }
  return PyLong_FromUnsignedLongLong((unsigned long long)f);
}

static PyObject* trim_memory(PyObject*, PyObject*) {
  lock();
  trim();
  unlock();
  Py_RETURN_NONE;
}

static PyObject* memory(PyObject*, PyObject*) {
  lock();
  i64 mapped = pool_mapped, used = pool_used, idle = pool_resident;
  unlock();
  return Py_BuildValue("lll", mapped, used, idle);
}

// cdata_ok(tensor, address): is the tensor's implementation pointer where handle_of expects it?
static PyObject* cdata_ok(PyObject*, PyObject* args) {
  PyObject* t; unsigned long long address;
  if (!PyArg_ParseTuple(args, "OK", &t, &address)) return NULL;
  return PyBool_FromLong(*(unsigned long long*)handle_of(t) == address);
}

static PyMethodDef methods[] = {
  {"make", make, METH_VARARGS, "make(name, address, in_kinds, out_kinds, constants, objects, callbacks) -> Entry"},
  {"symbol", symbol, METH_VARARGS, "symbol(path, name) -> address"},
  {"trim_memory", trim_memory, METH_NOARGS, "give memory that is kept for later calls back to the system"},
  {"memory", memory, METH_NOARGS, "memory() -> (address space, bytes in use, bytes kept for later calls)"},
  {"cdata_ok", cdata_ok, METH_VARARGS, "cdata_ok(tensor, tensor._cdata) -> bool"},
  {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "lamina_entry", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_lamina_entry(void) {
  if (PyType_Ready(&EntryType) < 0) return NULL;
  return PyModule_Create(&module);
}
