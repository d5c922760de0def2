// What the extension relies on in CPython's and PyTorch's memory layout, one place per fact.
//
// Python: instance dictionaries, dictionary and type version tags (3.11, 3.12, 3.13).
// PyTorch: the TensorImpl* in a Python tensor and the scalar type in a torch.dtype; both are verified at start-up.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#define Py_BUILD_CORE 1
extern "C" {
#include <internal/pycore_frame.h>
#include <internal/pycore_code.h>
}
#undef Py_BUILD_CORE

#include <c10/core/DefaultDtype.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/TensorImpl.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <ATen/PythonTorchFunctionTLS.h>

#ifdef __linux__
#include <malloc.h>
#endif

#include <algorithm>
#include <cstring>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <unordered_set>
#include <vector>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // ma_version_tag is deprecated from 3.12, and present up to 3.13

// Heavy headers are avoided: these are the exported symbols themselves.
namespace at {
class Context {
 public:
  bool deterministicAlgorithms() const;
  bool deterministicAlgorithmsWarnOnly() const;
};
Context& globalContext();
namespace autocast {
bool is_autocast_enabled(c10::DeviceType);
c10::ScalarType get_autocast_dtype(c10::DeviceType);
bool is_autocast_cache_enabled();
}  // namespace autocast
}  // namespace at

namespace {

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

// ---- references ----------------------------------------------------------------------------------------------------
struct Ref {  // one owned reference
  PyObject* p = nullptr;
  Ref() = default;
  explicit Ref(PyObject* owned) : p(owned) {}
  static Ref of(PyObject* borrowed) { Py_XINCREF(borrowed); return Ref(borrowed); }
  Ref(Ref&& o) noexcept : p(o.p) { o.p = nullptr; }
  Ref& operator=(Ref&& o) noexcept { std::swap(p, o.p); return *this; }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;
  ~Ref() { Py_XDECREF(p); }
  PyObject* release() { PyObject* r = p; p = nullptr; return r; }
  explicit operator bool() const { return p != nullptr; }
};

// ---- Python --------------------------------------------------------------------------------------------------------
// Address of the word that holds the instance dictionary; null if the type has none. Materialises inline values once.
inline PyObject** dict_slot(PyObject* o) { return _PyObject_GetDictPtr(o); }

inline PyObject* instance_dict(PyObject* o) {  // borrowed; creates an empty one where the object has none yet
  PyObject** slot = dict_slot(o);
  if (!slot) return nullptr;
  if (*slot) return *slot;
  if (PyType_Check(o)) return nullptr;
  Py_XDECREF(PyObject_GenericGetDict(o, nullptr));
  PyErr_Clear();
  slot = dict_slot(o);
  return slot ? *slot : nullptr;
}

// Members of functions and classes that attribute access shows, in the order of native/lower.py; null if `o` has no such member.
inline PyObject** member_of(PyObject* o, Py_ssize_t which) {
  if (PyFunction_Check(o)) {
    auto* f = (PyFunctionObject*)o;
    PyObject** at[] = {&f->func_name, &f->func_qualname, &f->func_doc, &f->func_module, &f->func_defaults, &f->func_kwdefaults, &f->func_annotations};
    return at[which];
  }
  if (!PyType_Check(o) || !(((PyTypeObject*)o)->tp_flags & Py_TPFLAGS_HEAPTYPE) || which > 1) return nullptr;
  return which ? &((PyHeapTypeObject*)o)->ht_qualname : &((PyHeapTypeObject*)o)->ht_name;
}

inline uint64_t* dict_tag(PyObject* d) { return &((PyDictObject*)d)->ma_version_tag; }

// Counts the changes of an OrderedDict's order, which its tag does not see: the sixth word behind the dictionary (Objects/odictobject.c). Verified at start-up.
inline uint64_t* order_state(PyObject* d) { return (uint64_t*)((char*)d + sizeof(PyDictObject)) + 5; }

// Does every change of the dictionary give it a new tag? Tags are unique in the process: equal tags mean equal contents.
inline bool has_sound_tag(PyObject* d) {
#if PY_VERSION_HEX >= 0x030d0000
  return ((PyDictObject*)d)->ma_values == nullptr;  // stores to inline values of an instance bypass the tag
#else
  (void)d;
  return true;
#endif
}

// ---- watched dictionaries ------------------------------------------------------------------------------------------
// From 3.12 on the interpreter says when a watched dictionary is about to change or to die. The count of these events is one word
// for all of them: while it stands, every watched dictionary is as it was. Watching sets a bit of the tag.
uint64_t watched_changes = 0;
#if PY_VERSION_HEX >= 0x030c0000
inline int dict_watcher() {  // -1: the interpreter's few are taken
  static int id = PyDict_AddWatcher([](PyDict_WatchEvent, PyObject*, PyObject*, PyObject*) { return watched_changes++, 0; });
  if (id < 0) PyErr_Clear();
  return id;
}
inline bool watch(PyObject* d) { return dict_watcher() >= 0 && !PyDict_Watch(dict_watcher(), d); }
inline void unwatch(PyObject* d) {  // a change for all who rely on it: they find another tag
  if (dict_watcher() < 0 || !(*dict_tag(d) >> dict_watcher() & 1)) return;
  PyDict_Unwatch(dict_watcher(), d);
  watched_changes++;
}
#else
inline bool watch(PyObject*) { return false; }
inline void unwatch(PyObject*) {}
#endif

// Version of everything a type's attribute lookup can see, 0 if it has none. Unique in the process, 0 after a change.
inline uint32_t type_version(PyTypeObject* t, PyObject* any_name) {
#if PY_VERSION_HEX >= 0x030c0000
  (void)any_name;
  PyUnstable_Type_AssignVersionTag(t);
#else
  _PyType_Lookup(t, any_name);
#endif
#if PY_VERSION_HEX < 0x030d0000
  if (!(t->tp_flags & Py_TPFLAGS_VALID_VERSION_TAG)) return 0;
#endif
  return t->tp_version_tag;
}

inline bool is_mutable_type(PyTypeObject* t) { return (t->tp_flags & Py_TPFLAGS_HEAPTYPE) && !(t->tp_flags & Py_TPFLAGS_IMMUTABLETYPE); }

inline PyObject* weak_target(PyObject* wr) { return ((PyWeakReference*)wr)->wr_object; }  // None when dead

inline bool supports_weakrefs(PyObject* o) { return Py_TYPE(o)->tp_weaklistoffset != 0 || (Py_TYPE(o)->tp_flags & (1UL << 3)); }

// ---- PyTorch -------------------------------------------------------------------------------------------------------
PyTypeObject* tensor_base = nullptr;         // torch._C.TensorBase
Py_ssize_t impl_offset = sizeof(PyObject);   // of the TensorImpl* in a Python tensor

inline bool is_tensor(PyObject* o) { return PyObject_TypeCheck(o, tensor_base); }
inline c10::TensorImpl* impl_of(PyObject* o) { return *(c10::TensorImpl**)((char*)o + impl_offset); }

// TensorImpl::requires_grad without its two calls through other libraries. The member is private; an explicit instantiation may name it.
template <auto META, auto FIRST, auto LAST>
struct Expose {
  friend const std::unique_ptr<c10::AutogradMetaInterface>& autograd_meta_of(const c10::TensorImpl& t) { return t.*META; }
  friend const char* first_of(const c10::TensorImpl& t) { return (const char*)&(t.*FIRST); }
  friend const char* last_of(const c10::TensorImpl& t) { return (const char*)&(t.*LAST); }
};
const std::unique_ptr<c10::AutogradMetaInterface>& autograd_meta_of(const c10::TensorImpl& t);
const char* first_of(const c10::TensorImpl& t);
const char* last_of(const c10::TensorImpl& t);
template struct Expose<&c10::TensorImpl::autograd_meta_, &c10::TensorImpl::sizes_and_strides_, &c10::TensorImpl::key_set_>;
Py_ssize_t flag_offset = -1;  // of the byte in the autograd metadata that says that a leaf requires a gradient; found at start-up, -1: unknown
inline bool requires_grad_of(const c10::TensorImpl* t) {
  const auto& meta = autograd_meta_of(*t);
  return meta && ((flag_offset >= 0 && ((const char*)meta.get())[flag_offset]) || meta->requires_grad());  // spares a call, and a line of memory
}

// The only byte that follows `requires_grad` of a leaf.
inline Py_ssize_t find_flag(PyObject* tensor) {
#ifdef __GLIBC__
  std::string seen[3];
  for (int i = 0; i < 3; i++) {
    Ref done(PyObject_CallMethod(tensor, "requires_grad_", "O", i == 1 ? Py_False : Py_True));
    if (!done) return PyErr_Clear(), -1;
    auto* meta = (char*)autograd_meta_of(*impl_of(tensor)).get();
    seen[i].assign(meta, std::min<size_t>(malloc_usable_size(meta), 256));
  }
  Py_ssize_t found = -1;
  for (size_t i = 0; i < seen[0].size(); i++)
    if (seen[0][i] != seen[1][i]) {
      if (found >= 0 || seen[0][i] != 1 || seen[1][i] != 0 || seen[2][i] != 1) return -1;
      found = (Py_ssize_t)i;
    }
  return found;
#else
  return -1;
#endif
}

// The memory of a plain tensor that says what it is: sizes, strides, dtype, device, keys. The same bytes mean the same answers.
constexpr size_t MAX_METADATA = 192;
inline std::string_view metadata_of(const c10::TensorImpl* t) { return {first_of(*t), (size_t)(last_of(*t) - first_of(*t)) + sizeof(c10::DispatchKeySet)}; }
inline bool same_metadata(const c10::TensorImpl* t, const uint64_t* seen) {  // their size is known when this is compiled: no loop, no branches
  typedef uint64_t Pair __attribute__((vector_size(16), aligned(8), may_alias));
  const uint64_t* now = (const uint64_t*)metadata_of(t).data();
  constexpr size_t unit = sizeof(Pair) / sizeof(uint64_t);
  const size_t words = metadata_of(t).size() / sizeof(uint64_t);
  Pair differ = *(const Pair*)(now + words - unit) ^ *(const Pair*)(seen + words - unit);
#pragma GCC unroll 16
  for (size_t i = 0; i + unit < words; i += unit) differ |= *(const Pair*)(now + i) ^ *(const Pair*)(seen + i);
  return !(differ[0] | differ[1]);
}
inline bool has_plain_metadata(const c10::TensorImpl* t) {  // nothing of it computed, or kept elsewhere
  return typeid(*t) == typeid(c10::TensorImpl) && !t->key_set().has(c10::DispatchKey::Python) && !t->has_symbolic_sizes_strides() && t->dim() <= C10_SIZES_AND_STRIDES_MAX_INLINE_SIZE &&
         first_of(*t) < last_of(*t) && metadata_of(t).size() <= MAX_METADATA && metadata_of(t).size() % sizeof(uint64_t) == 0;
}
inline c10::ScalarType scalar_type_of(PyObject* dtype) { return (c10::ScalarType) * ((int8_t*)dtype + sizeof(PyObject)); }

}  // namespace
