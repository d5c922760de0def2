// Witnesses: what a later call must find unchanged for a full success to be repeated without re-reading everything.
//
// A witness is made right after `Program::full` succeeded. Each node is then either
//   pinned: its value must be the very object seen then; a few memory words prove that (a dictionary's version tag, a cell's
//           contents, a type's version), and what was checked of it and cannot change on its own needs no further check; or
//           From 3.12 on dictionaries are watched, and one word for all of them replaces their tags until one of them changes.
//   live:   read again at each call, all checks run again (arguments, and whatever turned out to change often).
// Keeps: no user code runs in `Witness::check`, so nothing moves while it looks; a word's address is only read after the
//        earlier words have proved its owner alive. A pointer that equals a remembered one might be a new object at an old
//        address: dictionary tags and type versions are unique in the process, everything else is anchored by a weak reference
//        (its referent word must still be the pointer) or, for atoms, by a strong one. User objects are never kept alive.
namespace {

enum FastKind : uint8_t { F_END, F_WORD, F_WORD32, F_SAME, F_READ, F_CHECK, F_TENSOR, F_PINNED_TENSOR, F_GLOBALS, F_CELL };

struct FastOp {
  FastKind kind;
  bool is_tag = false;  // a mismatch says: the container changed (else: the value of the node did)
  bool is_root = false; // a mismatch says: another instance; this witness stays good for its own
  int node;
  const void* where;    // address, Node or Check
  uint64_t expected;    // F_PINNED_TENSOR: where its TensorImpl was
  PyObject* object;     // F_PINNED_TENSOR: the tensor
};

struct Snapshot {  // what a tensor was like when its check held
  PyTypeObject* type;
  bool requires_grad;
  uint64_t metadata[MAX_METADATA / sizeof(uint64_t)];
  bool fits(const c10::TensorImpl* t, PyObject* o) const {
    return Py_TYPE(o) == type && same_metadata(t, metadata) && requires_grad_of(t) == requires_grad;
  }
};

enum class Verdict { HIT, MISS, STALE, OTHER };

struct Witness {
  std::vector<FastOp> live, pinned;  // arguments first: they fail most often, and decide at once
  std::vector<FastOp> unwatched;     // of `pinned`, what is to be looked at when no watched dictionary has changed
  bool watches = false;
  uint64_t changes_seen = 0;
  std::list<Snapshot> snapshots;     // those of equal tensors are shared
  std::vector<PyObject*> val;        // borrowed: valid after a HIT, until Python code runs
  std::vector<PyObject*> supplied;   // the pinned ones of the values to supply, in their order: `val` is long, and they are far apart there
  std::vector<size_t> not_pinned;    // which of the values to supply are not in `supplied`
  std::vector<Ref> anchors;
  bool check_across = false;
  int stale_node = -1;
  bool stale_tag = false;

  Verdict check(const Program& p, const Roots& r);

 private:
  bool run(const std::vector<FastOp>& ops, const Program& p, const Roots& r, Verdict* out);
};

// Everything lies scattered over memory, at known addresses: fetch ahead. A list of operations ends with that many that do nothing.
constexpr size_t AHEAD = 12;

inline bool Witness::run(const std::vector<FastOp>& ops, const Program& p, const Roots& r, Verdict* out) {
  const FastOp* const ops_end = ops.data() + ops.size() - AHEAD;
  for (const FastOp* at = ops.data(); at < ops_end; at++) {
    for (; at->kind == F_WORD && LIKELY(*(const uint64_t*)at->where == at->expected); at++) __builtin_prefetch(at[AHEAD].where);  // most of them
    if (at >= ops_end) break;
    const FastOp& op = *at;
    const FastOp& next = at[AHEAD];
    __builtin_prefetch(next.where);
    if (next.kind == F_PINNED_TENSOR) {
      __builtin_prefetch(next.object);
      __builtin_prefetch((const char*)next.expected);
      __builtin_prefetch((const char*)next.expected + 64);
      __builtin_prefetch((const char*)next.expected + 128);
    }
    bool ok;
    switch (op.kind) {
      case F_WORD: ok = *(const uint64_t*)op.where == op.expected; break;
      case F_WORD32: ok = *(const uint32_t*)op.where == (uint32_t)op.expected; break;
      case F_SAME: ok = (uint64_t)val[op.node] == op.expected; break;
      case F_GLOBALS: ok = (uint64_t)r.globals == op.expected; break;
      case F_CELL: ok = r.closure && (uint64_t)PyTuple_GET_ITEM(r.closure, (Py_ssize_t)(intptr_t)op.where) == op.expected; break;
      case F_READ: {
        const Node& n = *(const Node*)op.where;
        PyObject* v = read_borrowed(n, n.parent < 0 ? nullptr : val[n.parent], r);
        if (UNLIKELY(!v)) {  // not there; an attribute may still be found by user code
          *out = n.access == ATTR ? Verdict::STALE : Verdict::MISS;
          stale_node = op.node, stale_tag = false;
          return false;
        }
        val[op.node] = v;
        continue;
      }
      case F_PINNED_TENSOR: {
        PyObject* v = op.object;
        if (LIKELY((uint64_t)impl_of(v) == op.expected && ((const Snapshot*)op.where)->fits(impl_of(v), v))) continue;
        if (UNLIKELY(!p.tensor_checks_hold(op.node, v))) { *out = Verdict::MISS; return false; }
        continue;
      }
      case F_TENSOR:
        if (UNLIKELY(!tensor_ok(*(const TensorCheck*)op.where, val[op.node]))) { *out = Verdict::MISS; return false; }
        continue;
      default:  // F_CHECK and those of tensors decide for good: it is the guard itself on the value itself
        if (UNLIKELY(!run_check(*(const Check*)op.where, val[op.node]))) { *out = Verdict::MISS; return false; }
        continue;
    }
    if (UNLIKELY(!ok)) {
      *out = op.is_root ? Verdict::OTHER : Verdict::STALE;
      stale_node = op.node, stale_tag = op.is_tag;
      return false;
    }
  }
  return true;
}

Verdict Witness::check(const Program& p, const Roots& r) {
  Verdict v = Verdict::HIT;
  bool changed = !watches || changes_seen != watched_changes;
  if (!run(live, p, r, &v) || !run(changed ? pinned : unwatched, p, r, &v)) return v;
  changes_seen = watched_changes;
  if (check_across && !p.across(val.data(), nullptr)) return Verdict::MISS;
  return Verdict::HIT;
}

// ---- building ------------------------------------------------------------------------------------------------------
constexpr uint8_t MAX_MISSES = 2;  // after that many a container or value is re-read at each call

class WitnessBuilder {
  const Program& p;
  const Roots& r;
  const std::vector<Ref>& strong;
  std::unique_ptr<Witness> w;
  std::vector<char> is_pinned, is_tagged, is_arg;  // is_arg: every step from an argument is live
  std::unordered_set<const void*> watched; // tags
  std::unordered_set<const void*> proved;  // addresses that a word covers already, types whose version one does
  bool failed = false;

  PyObject* value(int i) { return strong[i].p; }
  std::vector<FastOp>& list_of(int i) { return is_arg[i] ? w->live : w->pinned; }

  void word(int node, const void* address, uint64_t expected, bool is_tag = false) {
    if (proved.insert(address).second) w->pinned.push_back({F_WORD, is_tag, false, node, address, expected});
  }
  void contents(int node, PyObject* d, bool is_tag = false) {  // of a dictionary
    if (watch(d)) watched.insert(dict_tag(d));
    word(node, dict_tag(d), *dict_tag(d), is_tag);
  }
  void same(int node, bool is_root, bool is_tag = false) { w->pinned.push_back({F_SAME, is_tag, is_root, node, nullptr, (uint64_t)value(node)}); }
  void reread(int i) {
    is_arg[i] = p.nodes[i].parent < 0 ? p.nodes[i].access == SLOT : is_arg[p.nodes[i].parent];
    list_of(i).push_back({F_READ, false, false, i, &p.nodes[i], 0});
  }

  // Makes equality of pointers mean identity of objects. False: cannot be done without keeping a user's object alive.
  bool anchor(int node, PyObject* v) {
    if (v == Py_None || PyBool_Check(v) || v == Py_Ellipsis) return true;
    if (PyType_Check(v) && !(((PyTypeObject*)v)->tp_flags & Py_TPFLAGS_HEAPTYPE)) return true;
    if (is_atom(v)) { w->anchors.push_back(Ref::of(v)); return true; }
    if (!supports_weakrefs(v)) return false;
    PyObject* wr = PyWeakref_NewRef(v, nullptr);
    if (!wr) { PyErr_Clear(); return false; }
    w->anchors.emplace_back(wr);
    word(node, &((PyWeakReference*)wr)->wr_object, (uint64_t)v);
    return true;
  }

  bool may_pin(int i) { return p.value_misses[i] <= MAX_MISSES; }
  bool may_tag(int i) { return p.tag_misses[i] <= MAX_MISSES && has_sound_tag(value(i)); }

  // Pin by a memory word that must hold the value; else read again.
  void pin_word(int i, PyObject* const* address) {
    bool dict = PyDict_Check(value(i)) && p.nodes[i].is_container;
    if (may_pin(i) && (dict ? may_tag(i) : anchor(i, value(i)))) {
      word(i, address, (uint64_t)value(i));
      is_pinned[i] = true;
    } else {
      reread(i);
    }
  }

  void pin_type(int owner, PyObject* o) {  // the class of an object that may be assigned
    PyTypeObject* t = Py_TYPE(o);
    if (!is_mutable_type(t)) return;
    if (!anchor(owner, (PyObject*)t)) { failed = true; return; }
    word(owner, &o->ob_type, (uint64_t)t);
  }

  static PyObject* any_name() {
    static PyObject* name = PyUnicode_InternFromString("__mro__");
    return name;
  }

  bool pin_version(int node, PyTypeObject* t, PyObject* name) {
    if (!is_mutable_type(t) || proved.count(&t->tp_version_tag)) return true;
    if (p.tag_misses[node] > MAX_MISSES) return false;
    uint32_t version = type_version(t, name);
    if (!version) return false;
    proved.insert(&t->tp_version_tag);
    w->pinned.push_back({F_WORD32, true, false, node, &t->tp_version_tag, version});
    return true;
  }

  void pin_list(int i) {  // storage and length, once
    PyObject* l = value(i);
    word(i, &((PyListObject*)l)->ob_item, (uint64_t)((PyListObject*)l)->ob_item, true);
    word(i, &((PyVarObject*)l)->ob_size, (uint64_t)Py_SIZE(l), true);
  }

  bool pin_order(int i) {  // of a dictionary whose contents are tagged
    if (PyODict_Check(value(i)) && PyDict_GET_SIZE(value(i)) > 1) word(i, order_state(value(i)), *order_state(value(i)), true);
    return true;
  }

  void tag(int i) {  // i's contents as a dictionary
    PyObject* d = value(i);
    if (!p.nodes[i].is_container || !PyDict_Check(d)) return;
    if (!may_tag(i)) return unwatch(d);
    if (!is_pinned[i]) {  // just read again: it must be the same one. Another one is another instance, or an argument made for each call.
      same(i, p.nodes[i].access == INST_DICT && is_arg[i], true);
      is_pinned[i] = true, is_arg[i] = false;
    }
    contents(i, d, true);
    is_tagged[i] = true;
  }

  void item(int i, const Node& n) {
    PyObject* base = value(n.parent);
    bool pinned = is_pinned[n.parent];
    if (PyDict_Check(base)) {
      if (is_tagged[n.parent]) is_pinned[i] = true;
      else if (!PyUnicode_CheckExact(n.key.p) && !PyLong_CheckExact(n.key.p)) failed = true;  // may compare with user code
      else {
        reread(i);
        if (!is_arg[i] && may_pin(i) && !(PyDict_Check(value(i)) && n.is_container) && anchor(i, value(i))) same(i, false), is_pinned[i] = true;
      }
    } else if (PyTuple_Check(base)) {
      if (pinned) is_pinned[i] = true;
      else reread(i);
    } else if (PyList_Check(base)) {
      if (!pinned || p.tag_misses[n.parent] > MAX_MISSES) return reread(i);
      pin_list(n.parent);
      Py_ssize_t at = n.index < 0 ? n.index + PyList_GET_SIZE(base) : n.index;
      pin_word(i, &((PyListObject*)base)->ob_item[at]);
    } else {
      failed = true;
    }
  }

  void function_field(int i, const Node& n) {
    PyFunctionObject* f = (PyFunctionObject*)value(n.parent);
    if (!is_pinned[n.parent]) return reread(i);
    switch (n.access) {
      case CODE: return pin_word(i, &f->func_code);
      case CLOSURE: return pin_word(i, &((PyCellObject*)PyTuple_GET_ITEM(f->func_closure, n.index))->ob_ref);
      case DEFAULT:  // the tuple cannot change: hold it
        w->anchors.push_back(Ref::of(f->func_defaults));
        word(i, &f->func_defaults, (uint64_t)f->func_defaults);
        is_pinned[i] = true;
        return;
      default:  // KWDEFAULT
        if (!has_sound_tag(f->func_kwdefaults)) return reread(i);
        word(i, &f->func_kwdefaults, (uint64_t)f->func_kwdefaults);
        contents(i, f->func_kwdefaults);
        is_pinned[i] = true;
    }
  }

  void attr(int i, const Node& n) {
    PyObject* o = value(n.parent);
    Found by;
    PyObject* v = plain_attr(o, n.key.p, &by);
    if (v != value(i)) { failed = true; return; }  // found by user code
    PyObject** slot = dict_slot(o);
    bool steady = is_pinned[n.parent] && may_pin(i) && (!slot || (*slot && has_sound_tag(*slot)));
    if (!steady || !pin_version(i, Py_TYPE(o), n.key.p)) return reread(i);
    pin_type(n.parent, o);
    if (slot) {
      word(i, slot, (uint64_t)*slot);
      contents(i, *slot);
    }
    is_pinned[i] = true;
  }

  void place(int i) {
    const Node& n = p.nodes[i];
    bool base_pinned = n.parent >= 0 && is_pinned[n.parent];
    switch (n.access) {
      case SLOT: return reread(i);
      case CONST:
        is_pinned[i] = true;
        if (n.weak && !anchor(i, value(i))) failed = true;
        return;
      case GLOBALS:
        w->pinned.push_back({F_GLOBALS, false, true, i, nullptr, (uint64_t)r.globals});
        is_pinned[i] = true;
        return;
      case FREE_CELL:
        w->pinned.push_back({F_CELL, false, true, i, (const void*)(intptr_t)n.index, (uint64_t)value(i)});
        is_pinned[i] = true;
        return;
      case CELL: {
        PyObject* cell = PyTuple_GET_ITEM(r.closure, n.index);
        w->pinned.push_back({F_CELL, false, true, i, (const void*)(intptr_t)n.index, (uint64_t)cell});
        return pin_word(i, &((PyCellObject*)cell)->ob_ref);
      }
      case INST_DICT:
        if (base_pinned && may_tag(i) && dict_slot(value(n.parent))) { pin_type(n.parent, value(n.parent)); word(i, dict_slot(value(n.parent)), (uint64_t)value(i)); is_pinned[i] = true; return; }
        return reread(i);
      case TYPE_OF:
        if (base_pinned && !is_mutable_type(Py_TYPE(value(n.parent)))) { is_pinned[i] = true; return; }
        if (base_pinned) { pin_type(n.parent, value(n.parent)); is_pinned[i] = true; return; }
        reread(i);
        if (may_pin(i) && anchor(i, value(i))) same(i, true), is_pinned[i] = true, is_arg[i] = false;
        return;
      case TYPE_ATTR:
        if (base_pinned && pin_version(i, (PyTypeObject*)value(n.parent), n.key.p)) { is_pinned[i] = true; return; }
        return reread(i);
      case ITEM: return item(i, n);
      case KEY: if (is_tagged[n.parent]) is_pinned[i] = pin_order(n.parent); else failed = true; return;
      case CODE: case CLOSURE: case DEFAULT: case KWDEFAULT: return function_field(i, n);
      case MEMBER: {
        PyObject** at = member_of(value(n.parent), n.index);
        if (!base_pinned) return reread(i);
        if (*at) return pin_word(i, at);
        word(i, at, 0);
        is_pinned[i] = true;
        return;
      }
      case METHOD_SELF: case METHOD_FUNC: if (base_pinned) is_pinned[i] = true; else reread(i); return;
      case ATTR: return attr(i, n);
      default: failed = true;
    }
  }

  // Is the check settled by the pin (and tag) of its node? May add words.
  bool settled(const Check& c, int i) {
    PyObject* v = value(i);
    switch (c.kind) {
      case ID: case NONE: case NOT_NONE: case BOOL: return true;
      case TYPE: case WEAK_TYPE: pin_type(i, v); return true;
      case EQUALS: return is_plain_constant(v);
      case DICT_KEYS: return is_tagged[i] && pin_order(i);
      case HAS_KEY: case NO_KEY: return is_tagged[i];
      case MRO: return PyType_Check(v) && pin_version(i, (PyTypeObject*)v, any_name());
      case LEN:
        if (PyDict_Check(v)) return is_tagged[i];
        if (PyList_Check(v)) { word(i, &((PyVarObject*)v)->ob_size, (uint64_t)Py_SIZE(v)); return true; }
        return PyTuple_Check(v) || PyUnicode_Check(v) || PyBytes_Check(v);
      case NO_ATTR: {
        if (PyType_Check(v)) return pin_version(i, (PyTypeObject*)v, c.expected.p);
        PyObject** slot = dict_slot(v);
        if (slot && (!*slot || !has_sound_tag(*slot) || p.tag_misses[i] > MAX_MISSES)) return false;
        pin_type(i, v);
        if (!pin_version(i, Py_TYPE(v), c.expected.p)) return false;
        if (slot) word(i, slot, (uint64_t)*slot, true), contents(i, *slot, true);
        return true;
      }
      default: return false;
    }
  }

  // The check of a pinned tensor as a comparison of memory, where it lends itself.
  bool snapshot(int i) {
    PyObject* v = value(i);
    const c10::TensorImpl* t = impl_of(v);
    if (!has_plain_metadata(t) || (is_mutable_type(Py_TYPE(v)) && !anchor(i, (PyObject*)Py_TYPE(v)))) return false;
    std::string_view data = metadata_of(t);
    bool grad = requires_grad_of(t);
    auto same = [&](const Snapshot& s) { return s.fits(t, v); };
    auto at = std::find_if(w->snapshots.begin(), w->snapshots.end(), same);
    if (at == w->snapshots.end()) {
      at = w->snapshots.insert(at, Snapshot{Py_TYPE(v), grad, {}});
      memcpy(at->metadata, data.data(), data.size());
    }
    w->pinned.push_back({F_PINNED_TENSOR, false, false, i, &*at, (uint64_t)t, v});
    return true;
  }

  bool is_safe(const Check& c, PyObject* v) {
    switch (c.kind) {
      case EQUALS: case DICT_KEYS: return is_plain_value(c.expected.p);
      case HAS_KEY: case NO_KEY: return PyUnicode_CheckExact(c.expected.p) || PyLong_CheckExact(c.expected.p);
      case LEN: return has_builtin_length(v);
      case HAS_ATTR: return false;
      default: return true;
    }
  }

 public:
  WitnessBuilder(const Program& program, const Roots& roots, const std::vector<Ref>& values) : p(program), r(roots), strong(values), w(new Witness) {
    size_t n = p.nodes.size();
    is_pinned.assign(n, 0), is_tagged.assign(n, 0), is_arg.assign(n, 0);
  }

  std::unique_ptr<Witness> build() {  // null: some step needs user code
    for (size_t i = 0; i < p.nodes.size() && !failed; i++) {
      const Node& n = p.nodes[i];
      place((int)i);
      if (failed) break;
      tag((int)i);
      for (int c = n.first; c < n.last && !failed; c++) {
        const Check& check = p.checks[c];
        if (is_pinned[i] && settled(check, (int)i)) continue;
        if (!is_safe(check, value((int)i))) failed = true;
        else if (check.kind == TENSOR && is_pinned[i] && snapshot((int)i)) continue;
        else if (check.kind == TENSOR) list_of((int)i).push_back({F_TENSOR, false, false, (int)i, check.tensor.get(), 0});
        else list_of((int)i).push_back({F_CHECK, false, false, (int)i, &check, 0});
      }
    }
    if (failed) return nullptr;
    if ((w->watches = !watched.empty())) {
      auto by_watching = [&](const FastOp& op) { return op.kind == F_WORD && watched.count(op.where); };
      std::remove_copy_if(w->pinned.begin(), w->pinned.end(), std::back_inserter(w->unwatched), by_watching);
      w->changes_seen = watched_changes;
    }
    for (auto* ops : {&w->live, &w->pinned, &w->unwatched}) ops->insert(ops->end(), AHEAD, FastOp{F_END, false, false, 0, nullptr, 0});
    for (const Ref& v : strong) w->val.push_back(v.p);
    auto is_live = [&](int i) { return !is_pinned[i]; };
    for (const Supplied& s : p.supplied) {
      bool fixed = !s.is_leaf && is_pinned[s.node];
      if (!fixed) w->not_pinned.push_back(w->supplied.size());
      w->supplied.push_back(fixed ? value(s.node) : nullptr);
    }
    for (const Alias& a : p.aliases) w->check_across |= std::any_of(a.nodes.begin(), a.nodes.end(), is_live);
    w->check_across |= !p.shapes.empty();
    return std::move(w);
  }
};

}  // namespace
