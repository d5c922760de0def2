// Sliding windows over images: depthwise convolution forward and backward (channels last), max pooling. fp32.
//
// One vector holds LANES channels of a pixel; sums run over the taps in order, in registers. Threads share out image rows.
typedef long i64;
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float V __attribute__((vector_size(4 * LANES), aligned(4)));
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
extern "C" {
int posix_memalign(void**, unsigned long, unsigned long);
void free(void*);
struct lamina_window_call {
  i64 N, C, H, W, OH, OW;           // input H x W, output OH x OW
  i64 kh, kw, sh, sw, ph, pw, dh, dw;
};
}
typedef lamina_window_call G;
INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
INLINE i64 most(i64 a, i64 b) { return a > b ? a : b; }
INLINE V load(const float* p) { return *(const V*)p; }
struct buffer {
  float* p = 0;
  bool get(i64 n) { return !posix_memalign((void**)&p, 64, 4 * (n ? n : 1)); }
  ~buffer() { free(p); }
};

// ---- depthwise: out[y, x, c] = bias[c] + sum over valid taps in[iy, ix, c] * T[tap, c] -----------------------------------
struct taps { int n; i64 in[128]; i64 w[128]; };  // offsets in floats of the input pixel and of the tap's weights

template <int CV> INLINE void one_pixel(const taps& t, const float* in, const float* T, const float* bias, float* out) {
  V acc[CV];
#pragma GCC unroll 4
  for (int v = 0; v < CV; v++) acc[v] = bias ? load(bias + v * LANES) : V{};
  for (int k = 0; k < t.n; k++) {
    const float *a = in + t.in[k], *w = T + t.w[k];
#pragma GCC unroll 4
    for (int v = 0; v < CV; v++) acc[v] += load(a + v * LANES) * load(w + v * LANES);
  }
#pragma GCC unroll 4
  for (int v = 0; v < CV; v++) *(V*)(out + v * LANES) = acc[v];
}

NOINLINE void all_channels(i64 C, const taps& t, const float* in, const float* T, const float* bias, float* out) {
  if (C < LANES) {
    for (i64 c = 0; c < C; c++) {
      float acc = bias ? bias[c] : 0;
      for (int k = 0; k < t.n; k++) acc += in[t.in[k] + c] * T[t.w[k] + c];
      out[c] = acc;
    }
    return;
  }
  i64 c = 0;
  for (; c + 4 * LANES <= C; c += 4 * LANES) one_pixel<4>(t, in + c, T + c, bias ? bias + c : 0, out + c);
  for (; c + LANES <= C; c += LANES) one_pixel<1>(t, in + c, T + c, bias ? bias + c : 0, out + c);
  if (c < C) { c = C - LANES; one_pixel<1>(t, in + c, T + c, bias ? bias + c : 0, out + c); }  // overlaps the vector before: same values again
}

// `PX` neighbouring pixels with the same taps, `step` floats apart in the input
template <int PX> INLINE void strip_vector(const taps& t, const float* in, i64 step, const float* T, const float* bias, float* out, i64 C) {
  V acc[PX];
#pragma GCC unroll 8
  for (int p = 0; p < PX; p++) acc[p] = bias ? load(bias) : V{};
  for (int k = 0; k < t.n; k++) {
    V w = load(T + t.w[k]);
    const float* a = in + t.in[k];
#pragma GCC unroll 8
    for (int p = 0; p < PX; p++) acc[p] += load(a + p * step) * w;
  }
#pragma GCC unroll 8
  for (int p = 0; p < PX; p++) *(V*)(out + p * C) = acc[p];
}
template <int PX> NOINLINE void strip(i64 C, const taps& t, const float* in, i64 step, const float* T, const float* bias, float* out) {
  i64 c = 0;
  for (; c + LANES <= C; c += LANES) strip_vector<PX>(t, in + c, step, T + c, bias ? bias + c : 0, out + c, C);
  if (c < C) { c = C - LANES; strip_vector<PX>(t, in + c, step, T + c, bias ? bias + c : 0, out + c, C); }
}

// T[tap, c] = w[c, tap]
static void transpose_taps(i64 C, i64 taps, const float* w, float* T) {
  for (i64 t = 0; t < taps; t++)
    for (i64 c = 0; c < C; c++) T[t * C + c] = w[c * taps + t];
}

extern "C" int lamina_depthwise(const G* call, const float* x, const float* w, const float* bias, float* y) {
  const G& g = *call;
  i64 C = g.C, taps_all = g.kh * g.kw;
  buffer T;
  if (taps_all > 128 || !T.get(taps_all * C)) return 1;
  transpose_taps(C, taps_all, w, T.p);
  i64 x_first = (g.pw + g.sw - 1) / g.sw, last_start = g.W + g.pw - (g.kw - 1) * g.dw;  // columns [x_first, x_last) see all taps
  i64 x_last = last_start <= 0 ? 0 : least(g.OW, (last_start - 1) / g.sw + 1);
  i64 rows = g.N * g.OH;
#pragma omp parallel for schedule(static) if (rows * g.OW * C * taps_all > 100000)
  for (i64 r = 0; r < rows; r++) {
    i64 n = r / g.OH, oy = r % g.OH;
    const float* image = x + n * g.H * g.W * C;
    float* row = y + r * g.OW * C;
    taps t;
    for (i64 ox = 0; ox < g.OW;) {
      t.n = 0;
      for (i64 a = 0; a < g.kh; a++) {
        i64 iy = oy * g.sh - g.ph + a * g.dh;
        if (iy < 0 || iy >= g.H) continue;
        for (i64 b = 0; b < g.kw; b++) {
          i64 ix = ox * g.sw - g.pw + b * g.dw;
          if (ix < 0 || ix >= g.W) continue;
          t.in[t.n] = (iy * g.W + ix) * C; t.w[t.n++] = (a * g.kw + b) * C;
        }
      }
      if (C >= LANES && ox >= x_first && ox < x_last) {
        i64 ox0 = ox;
        for (; ox + 8 <= x_last; ox += 8) strip<8>(C, t, image + (ox - ox0) * g.sw * C, g.sw * C, T.p, bias, row + ox * C);
        for (; ox + 2 <= x_last; ox += 2) strip<2>(C, t, image + (ox - ox0) * g.sw * C, g.sw * C, T.p, bias, row + ox * C);
        for (; ox < x_last; ox++) all_channels(C, t, image + (ox - ox0) * g.sw * C, T.p, bias, row + ox * C);
      } else {
        all_channels(C, t, image, T.p, bias, row + ox * C);
        ox++;
      }
    }
  }
  return 0;
}

extern "C" int lamina_depthwise_grad_input(const G* call, const float* dy, const float* w, float* dx) {
  const G& g = *call;
  if (g.sh == 1 && g.sw == 1) {  // a forward pass with the taps reversed
    i64 taps_all = g.kh * g.kw;
    buffer f;
    if (!f.get(taps_all * g.C)) return 1;
    for (i64 c = 0; c < g.C; c++)
      for (i64 t = 0; t < taps_all; t++) f.p[c * taps_all + t] = w[c * taps_all + taps_all - 1 - t];
    G back = {g.N, g.C, g.OH, g.OW, g.H, g.W, g.kh, g.kw, 1, 1, (g.kh - 1) * g.dh - g.ph, (g.kw - 1) * g.dw - g.pw, g.dh, g.dw};
    if (back.ph >= 0 && back.pw >= 0) return lamina_depthwise(&back, dy, f.p, 0, dx);
  }
  i64 C = g.C, taps_all = g.kh * g.kw;
  buffer T;
  if (taps_all > 128 || !T.get(taps_all * C)) return 1;
  transpose_taps(C, taps_all, w, T.p);
  i64 rows = g.N * g.H;
#pragma omp parallel for schedule(static) if (rows * g.W * C * taps_all > 100000)
  for (i64 r = 0; r < rows; r++) {
    i64 n = r / g.H, iy = r % g.H;
    const float* grad = dy + n * g.OH * g.OW * C;
    taps t;
    for (i64 ix = 0; ix < g.W; ix++) {
      t.n = 0;
      for (i64 a = 0; a < g.kh; a++) {
        i64 oy = iy + g.ph - a * g.dh;
        if (oy < 0 || oy % g.sh || (oy /= g.sh) >= g.OH) continue;
        for (i64 b = 0; b < g.kw; b++) {
          i64 ox = ix + g.pw - b * g.dw;
          if (ox < 0 || ox % g.sw || (ox /= g.sw) >= g.OW) continue;
          t.in[t.n] = (oy * g.OW + ox) * C; t.w[t.n++] = (a * g.kw + b) * C;
        }
      }
      all_channels(C, t, grad, T.p, 0, dx + (r * g.W + ix) * C);
    }
  }
  return 0;
}

// One row of taps for one vector of channels over one output row: P[b, c] += sum over ox of dy[ox, c] * x[ox * sw - pw + b * dw, c]
template <int KW> INLINE void row_gradient(const G& g, const float* dy, const float* x, float* P, i64 C) {
  V acc[KW];
#pragma GCC unroll 8
  for (int b = 0; b < KW; b++) acc[b] = V{};
  i64 span = (KW - 1) * g.dw;
  for (i64 ox = 0; ox < g.OW; ox++) {
    V d = load(dy + ox * C);
    i64 ix = ox * g.sw - g.pw;
    const float* from = x + ix * C;
    if (ix >= 0 && ix + span < g.W) {
#pragma GCC unroll 8
      for (int b = 0; b < KW; b++) acc[b] += d * load(from + b * g.dw * C);
    } else {
#pragma GCC unroll 8
      for (int b = 0; b < KW; b++)
        if (ix + b * g.dw >= 0 && ix + b * g.dw < g.W) acc[b] += d * load(from + b * g.dw * C);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < KW; b++) *(V*)(P + b * C) += acc[b];
}
template <int KW> NOINLINE void row_gradients(const G& g, const float* dy, const float* x, float* P) {  // C is a multiple of LANES here
  for (i64 c = 0; c < g.C; c += LANES) row_gradient<KW>(g, dy + c, x + c, P + c, g.C);
}
NOINLINE void row_gradients_any(const G& g, const float* dy, const float* x, float* P) {
  for (i64 b = 0; b < g.kw; b++)
    for (i64 ox = 0; ox < g.OW; ox++) {
      i64 ix = ox * g.sw - g.pw + b * g.dw;
      if (ix < 0 || ix >= g.W) continue;
      for (i64 c = 0; c < g.C; c++) P[b * g.C + c] += dy[ox * g.C + c] * x[ix * g.C + c];
    }
}
// The last C % LANES channels through a vector that starts earlier: only its new lanes are kept.
template <int KW> NOINLINE void row_gradients_tail(const G& g, const float* dy, const float* x, float* P) {
  i64 whole = g.C / LANES * LANES;
  for (i64 c = 0; c < whole; c += LANES) row_gradient<KW>(g, dy + c, x + c, P + c, g.C);
  float last[KW * LANES] __attribute__((aligned(64)));
  i64 c = g.C - LANES, keep = whole - c;
  for (int k = 0; k < KW * LANES; k++) last[k] = 0;
  V acc[KW];
  for (int b = 0; b < KW; b++) acc[b] = V{};
  for (i64 ox = 0; ox < g.OW; ox++) {
    V d = load(dy + ox * g.C + c);
    i64 ix = ox * g.sw - g.pw;
#pragma GCC unroll 8
    for (int b = 0; b < KW; b++)
      if (ix + b * g.dw >= 0 && ix + b * g.dw < g.W) acc[b] += d * load(x + (ix + b * g.dw) * g.C + c);
  }
  for (int b = 0; b < KW; b++) {
    *(V*)(last + b * LANES) = acc[b];
    for (i64 k = keep; k < LANES; k++) P[b * g.C + c + k] += last[b * LANES + k];
  }
}
typedef void (*row_fn)(const G&, const float*, const float*, float*);

extern "C" int lamina_depthwise_grad_weight(const G* call, const float* dy, const float* x, float* dw) {
  const G& g = *call;
  i64 C = g.C, size = g.kh * g.kw * C;
  i64 rows = g.N * g.OH, chunks = least(8, rows);  // fixed, so that sums do not depend on the number of threads
  buffer P;
  if (!P.get(size * chunks)) return 1;
  row_fn fn = row_gradients_any;
  if (C >= LANES) {
    bool whole = C % LANES == 0;
    switch (g.kw) {
#define CASE(K) case K: fn = whole ? row_gradients<K> : row_gradients_tail<K>; break;
      CASE(1) CASE(2) CASE(3) CASE(5) CASE(7)
    }
  }
#pragma omp parallel for schedule(dynamic) if (rows * g.OW * size > 200000)
  for (i64 chunk = 0; chunk < chunks; chunk++) {
    float* mine = P.p + size * chunk;
    for (i64 k = 0; k < size; k++) mine[k] = 0;
    for (i64 r = chunk * rows / chunks; r < (chunk + 1) * rows / chunks; r++) {
      i64 n = r / g.OH, oy = r % g.OH;
      for (i64 a = 0; a < g.kh; a++) {
        i64 iy = oy * g.sh - g.ph + a * g.dh;
        if (iy >= 0 && iy < g.H) fn(g, dy + r * g.OW * C, x + (n * g.H + iy) * g.W * C, mine + a * g.kw * C);
      }
    }
  }
  for (i64 t = 0; t < g.kh * g.kw; t++)
    for (i64 c = 0; c < C; c++) {
      float sum = 0;
      for (i64 k = 0; k < chunks; k++) sum += P.p[size * k + t * C + c];
      dw[c * g.kh * g.kw + t] = sum;
    }
  return 0;
}

// ---- max pooling; as eager: the first of equal values wins, NaN wins over all ---------------------------------------------
#define POOL_RUN 1024  // outputs (of a row, or channels of a pixel) whose state is on the stack
INLINE i64 first_inside(i64 start, i64 step) {
  while (start < 0) start += step;
  return start;
}

template <bool WANT> static void pool_planes(const G& g, const float* x, float* y, i64* where) {
  i64 rows = g.N * g.C * g.OH;
#pragma omp parallel for schedule(static) if (rows * g.OW * g.kh * g.kw > 50000)
  for (i64 r = 0; r < rows; r++)
    for (i64 o0 = 0; o0 < g.OW; o0 += POOL_RUN) {
      i64 plane = r / g.OH, oy = r % g.OH, o1 = least(g.OW, o0 + POOL_RUN);
      float best[POOL_RUN];
      int at[WANT ? POOL_RUN : 1];
      i64 y0 = first_inside(oy * g.sh - g.ph, g.dh);
      for (i64 ox = o0; ox < o1; ox++) {
        best[ox - o0] = -__builtin_inff();
        if (WANT) at[ox - o0] = (int)(y0 * g.W + first_inside(ox * g.sw - g.pw, g.dw));
      }
      for (i64 a = 0; a < g.kh; a++) {
        i64 iy = oy * g.sh - g.ph + a * g.dh;
        if (iy < 0 || iy >= g.H) continue;
        for (i64 b = 0; b < g.kw; b++) {
          i64 off = b * g.dw - g.pw;
          i64 lo = most(o0, off < 0 ? (-off + g.sw - 1) / g.sw : 0), hi = off >= g.W ? 0 : least(o1, (g.W - 1 - off) / g.sw + 1);
          const float* from = x + (plane * g.H + iy) * g.W + off + lo * g.sw;
          float* to = best + (lo - o0);
          int *which = at + (WANT ? lo - o0 : 0), start = (int)(iy * g.W + off + lo * g.sw), step = (int)g.sw;
#define SCAN(S)                                                         \
  for (i64 k = 0; k < hi - lo; k++) {                                   \
    float v = from[k * (S)];                                            \
    bool better = v > to[k] || v != v;                                  \
    to[k] = better ? v : to[k];                                         \
    if (WANT) which[k] = better ? start + (int)k * step : which[k];     \
  }
          if (g.sw == 1) { SCAN(1) } else if (g.sw == 2) { SCAN(2) } else { SCAN(g.sw) }
        }
      }
      for (i64 ox = o0; ox < o1; ox++) y[r * g.OW + ox] = best[ox - o0];
      if (WANT) for (i64 ox = o0; ox < o1; ox++) where[r * g.OW + ox] = at[ox - o0];
    }
}

template <bool WANT> static void pool_pixels(const G& g, const float* x, float* y, i64* where) {
  i64 rows = g.N * g.OH, C = g.C;
#pragma omp parallel for schedule(static) if (rows * g.OW * C * g.kh * g.kw > 50000)
  for (i64 r = 0; r < rows; r++) {
    i64 n = r / g.OH, oy = r % g.OH, y0 = first_inside(oy * g.sh - g.ph, g.dh);
    for (i64 ox = 0; ox < g.OW; ox++) {
      i64 x0 = first_inside(ox * g.sw - g.pw, g.dw);
      for (i64 c0 = 0; c0 < C; c0 += POOL_RUN) {
        i64 run = least(POOL_RUN, C - c0);
        float* out = y + (r * g.OW + ox) * C + c0;
        int at[WANT ? POOL_RUN : 1];
        for (i64 c = 0; c < run; c++) { out[c] = -__builtin_inff(); if (WANT) at[c] = (int)(y0 * g.W + x0); }
        for (i64 a = 0; a < g.kh; a++) {
          i64 iy = oy * g.sh - g.ph + a * g.dh;
          if (iy < 0 || iy >= g.H) continue;
          for (i64 b = 0; b < g.kw; b++) {
            i64 ix = ox * g.sw - g.pw + b * g.dw;
            if (ix < 0 || ix >= g.W) continue;
            const float* from = x + ((n * g.H + iy) * g.W + ix) * C + c0;
            int p = (int)(iy * g.W + ix);
#pragma GCC ivdep
            for (i64 c = 0; c < run; c++) {
              float v = from[c];
              bool better = v > out[c] || v != v;
              out[c] = better ? v : out[c];
              if (WANT) at[c] = better ? p : at[c];
            }
          }
        }
        if (WANT) for (i64 c = 0; c < run; c++) where[(r * g.OW + ox) * C + c0 + c] = at[c];
      }
    }
  }
}

extern "C" int lamina_max_pool(const G* call, int channels_last, const float* x, float* y, i64* where) {
  const G& g = *call;
  if (channels_last) where ? pool_pixels<true>(g, x, y, where) : pool_pixels<false>(g, x, y, where);
  else where ? pool_planes<true>(g, x, y, where) : pool_planes<false>(g, x, y, where);
  return 0;
}
