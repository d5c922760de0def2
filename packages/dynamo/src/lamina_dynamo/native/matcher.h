// A guard program together with what it remembers of its successes: the thing that is asked at each call.
namespace {

constexpr size_t MAX_WITNESSES = 8;      // instances of a class that share one compiled method, say
constexpr uint32_t GRACE = 16;           // a witness that served this often was worth making: its end counts for nothing

struct Matcher {
  Program* p;
  struct Remembered {
    std::unique_ptr<Witness> witness;
    uint32_t hits = 0;
  };
  std::vector<Remembered> remembered;  // most recent first
  bool needs_user_code = false;

  explicit Matcher(Program* program) : p(program) {}

  // Does the call match? `out` receives the supplied values, borrowed; `hold` keeps alive what nothing else does.
  bool match(const Roots& r, const State& now, PyObject** out, std::vector<Ref>& hold);
  bool match_fully(const Roots& r, const State& now, PyObject** out, std::vector<Ref>& hold, Failure* why);

 private:
  bool supply(const Supplied& s, PyObject* const* val, PyObject** out, std::vector<Ref>& hold);
  void forget(size_t i, int node, bool tag);
};

bool Matcher::supply(const Supplied& s, PyObject* const* val, PyObject** out, std::vector<Ref>& hold) {
  if (!s.is_leaf) return *out = val[s.node], true;
  int64_t n;
  if (!leaf_value(s.leaf, val[s.leaf.node], &n)) return false;
  hold.emplace_back(PyLong_FromLongLong(n));
  if (!(*out = hold.back().p)) PyErr_Clear();
  return *out;
}

void Matcher::forget(size_t i, int node, bool tag) {
  if (remembered[i].hits < GRACE) {
    uint8_t& misses = tag ? p->tag_misses[node] : p->value_misses[node];
    if (misses < 255) misses++;
  }
  remembered.erase(remembered.begin() + i);
}

bool Matcher::match(const Roots& r, const State& now, PyObject** out, std::vector<Ref>& hold) {
  if (p->has_state && !(now == p->state)) return false;
  for (size_t i = 0; i < remembered.size(); i++) {
    Witness& w = *remembered[i].witness;
    switch (w.check(*p, r)) {
      case Verdict::HIT:
        remembered[i].hits++;
        if (i) std::rotate(remembered.begin(), remembered.begin() + i, remembered.begin() + i + 1);
        if (!out) return true;
        std::copy(w.supplied.begin(), w.supplied.end(), out);
        return std::all_of(w.not_pinned.begin(), w.not_pinned.end(), [&](size_t s) { return supply(p->supplied[s], w.val.data(), out + s, hold); });
      case Verdict::MISS: return false;
      case Verdict::STALE:
        if (!match_fully(r, now, nullptr, hold, nullptr)) return false;
        // User code may have run, and changed `remembered`.
        for (size_t j = 0; j < remembered.size(); j++)
          if (remembered[j].witness.get() == &w) { forget(j, w.stale_node, w.stale_tag); break; }
        return match_fully(r, now, out, hold, nullptr);
      case Verdict::OTHER: continue;
    }
  }
  if (!match_fully(r, now, out, hold, nullptr)) return false;
  if (remembered.size() > MAX_WITNESSES) forget(remembered.size() - 1, remembered.back().witness->stale_node, remembered.back().witness->stale_tag);
  return true;
}

bool Matcher::match_fully(const Roots& r, const State& now, PyObject** out, std::vector<Ref>& hold, Failure* why) {
  std::vector<Ref> val;
  if (!p->full(r, now, val, why)) return false;
  if (out) {
    std::vector<PyObject*> raw;
    for (const Ref& v : val) raw.push_back(v.p);
    for (size_t i = 0; i < p->supplied.size(); i++)
      if (!supply(p->supplied[i], raw.data(), out + i, hold)) return false;
    if (!needs_user_code) {
      std::unique_ptr<Witness> w = WitnessBuilder(*p, r, val).build();
      needs_user_code = !w;
      if (w) remembered.insert(remembered.begin(), Remembered{std::move(w), 0});
    }
  }
  for (Ref& v : val) hold.push_back(std::move(v));
  return true;
}

}  // namespace
