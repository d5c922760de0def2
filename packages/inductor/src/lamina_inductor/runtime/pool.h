// Memory of intermediates and of large results: a best-fit allocator over regions that are kept across calls (stands before entry.cpp in one unit).
//
// malloc gives large blocks back to the system, and each call would fault every page in again (1 to 2 us per page, more than computing it).
// One allocator serves all: what a forward saved serves the gradients as soon as the backward has read it.
// Invariants: the chunks of a region follow each other without gaps, two free ones never do, and the last is a used one without memory.
#include <stddef.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

typedef long i64;

struct alignas(64) Chunk {         // stands before its memory
  i64 bytes;                       // from this chunk to the one that follows; 0: end of a region
  Chunk* before;                   // NULL: start of a region
  Chunk *next, *previous;          // in its bin, while free
  i64 resident;                    // while free: bytes from its start that may be in memory; those behind are not
  bool used;
};

static const i64 GROWTH = 2 << 20;                       // a huge page
static void* const FIRST_REGION = (void*)(1L << 45);     // a hint: nothing is placed there by itself, so that a region can grow at its end
static Chunk* bins[64];                                  // free chunks by the power of two below their size, most recently freed first
static unsigned long occupied = 0;                       // bins that are not empty
static Chunk* region_end = NULL;                         // last chunk of the region that grows
static i64 pool_mapped = 0, pool_used = 0, pool_resident = 0;   // bytes: of all regions, in use, free but in memory
static char pool_lock = 0;

static void lock() { while (__atomic_test_and_set(&pool_lock, __ATOMIC_ACQUIRE)) __builtin_ia32_pause(); }
static void unlock() { __atomic_clear(&pool_lock, __ATOMIC_RELEASE); }
static inline int bin_of(i64 bytes) { return 63 - __builtin_clzl((unsigned long)bytes); }
static inline Chunk* after(Chunk* c) { return (Chunk*)((char*)c + c->bytes); }
static inline i64 round_up(i64 n, i64 to) { return (n + to - 1) / to * to; }

static void put_in_bin(Chunk* c) {
  int k = bin_of(c->bytes);
  c->used = false;
  c->previous = NULL;
  c->next = bins[k];
  if (c->next) c->next->previous = c;
  bins[k] = c;
  occupied |= 1ul << k;
  pool_resident += c->resident;
}
static void take_from_bin(Chunk* c) {
  int k = bin_of(c->bytes);
  if (c->next) c->next->previous = c->previous;
  if (c->previous) c->previous->next = c->next;
  else if (!(bins[k] = c->next)) occupied &= ~(1ul << k);
  c->used = true;
  pool_resident -= c->resident;
}
static Chunk* best_fit(i64 need) {
  for (unsigned long mask = occupied & (~0ul << bin_of(need)); mask; mask &= mask - 1) {
    Chunk* found = NULL;
    for (Chunk* c = bins[__builtin_ctzl(mask)]; c; c = c->next) {
      if (c->bytes == need) return c;
      if (c->bytes > need && (!found || c->bytes < found->bytes)) found = c;
    }
    if (found) return found;
  }
  return NULL;
}
static Chunk* merged(Chunk* c, Chunk* next) {
  if (next->resident) c->resident = c->bytes + next->resident;
  c->bytes += next->bytes;
  return c;
}
// A chunk that is in no bin becomes free, together with free neighbours.
static void release_chunk(Chunk* c) {
  Chunk* n = after(c);
  if (!n->used) { take_from_bin(n); merged(c, n); }
  Chunk* b = c->before;
  if (b && !b->used) { take_from_bin(b); c = merged(b, c); }
  after(c)->before = c;
  put_in_bin(c);
}
static Chunk* new_end(Chunk* at, Chunk* before) {
  at->bytes = 0; at->before = before; at->used = true;
  return at;
}
static void* map(void* hint, i64 bytes) {
  void* p = mmap(hint, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return NULL;
  madvise(p, bytes, MADV_HUGEPAGE);
  pool_mapped += bytes;
  return p;
}
// Adds a free chunk of `need` bytes or more: at the end of the region, whose last chunk may be free already, else in a new one.
static bool grow(i64 need) {
  if (region_end) {
    Chunk* last = region_end->before;
    i64 more = round_up(need - (last->used ? 0 : last->bytes), GROWTH);
    void* p = map(region_end + 1, more);
    if (p == region_end + 1) {
      Chunk* c = region_end;
      c->bytes = more; c->resident = 0;
      region_end = new_end(after(c), c);
      release_chunk(c);
      return true;
    }
    if (p) { munmap(p, more); pool_mapped -= more; }
  }
  i64 bytes = round_up(need + sizeof(Chunk), GROWTH);
  Chunk* c = (Chunk*)map(FIRST_REGION, bytes);
  if (!c) return false;
  c->bytes = bytes - sizeof(Chunk); c->before = NULL; c->resident = 0;
  region_end = new_end(after(c), c);
  put_in_bin(c);
  return true;
}

// Memory of at least `bytes`, aligned to 64; NULL when there is none.
static void* take(i64 bytes) {
  i64 need = round_up(bytes > 0 ? bytes : 1, 64) + (i64)sizeof(Chunk);
  lock();
  Chunk* c = best_fit(need);
  if (!c && grow(need)) c = best_fit(need);
  if (c) {
    take_from_bin(c);
    if (c->bytes - need >= 4096) {      // less is not worth a chunk of its own
      Chunk* rest = (Chunk*)((char*)c + need);
      rest->bytes = c->bytes - need;
      rest->before = c;
      rest->resident = c->resident > need ? c->resident - need : 0;
      after(rest)->before = rest;
      c->bytes = need;
      put_in_bin(rest);
    }
    pool_used += c->bytes;
  }
  unlock();
  return c ? (void*)(c + 1) : NULL;
}

static i64 resident_limit() {
  static i64 limit = 0;
  if (!limit) limit = (i64)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / 8;
  return limit;
}
// Gives the pages of free chunks back to the system.
static void trim() {
  i64 page = sysconf(_SC_PAGESIZE);
  for (Chunk* head : bins)
    for (Chunk* c = head; c; c = c->next) {
      char* from = (char*)round_up((i64)(c + 1), page);
      char* to = (char*)((i64)after(c) / page * page);
      if (c->resident && from < to) madvise(from, to - from, MADV_DONTNEED);
      pool_resident -= c->resident;
      c->resident = 0;
    }
}
static void give(void* p) {
  Chunk* c = (Chunk*)p - 1;
  lock();
  pool_used -= c->bytes;
  c->resident = c->bytes;
  release_chunk(c);
  if (pool_resident > resident_limit()) trim();
  unlock();
}
