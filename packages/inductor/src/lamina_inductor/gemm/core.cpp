// Matrix product core: C[M,N] = A[M,K] * B[K,N] (+ bias[N]), fp32, any strides of A and B, rows of C contiguous; batched; threads over tiles.
//
// Follows: Goto and van de Geijn, Anatomy of high-performance matrix multiplication (2008). B is packed in panels of NR columns that stay in L2,
// A is read in place (or packed when its rows are not contiguous), one MR x NR block of C stays in registers.
// Rows are shared out evenly over blocks of at most MR rows, so there is no slow tail in M. Sums run over k in order inside blocks of KC.
typedef long i64;
#if defined(__AVX512F__)
#define LANES 16
#define MR 12
#define NPAD 2
#elif defined(__AVX__)
#define LANES 8
#define MR 6
#define NPAD 2
#else
#define LANES 4
#define MR 4
#define NPAD 2
#endif
#define NR (NPAD * LANES)
#ifndef KC
#define KC 384
#endif
#ifndef NC
#define NC (NR * (256 / NR))
#endif
typedef float V __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int VI __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
extern "C" {
int omp_get_max_threads();
int omp_get_thread_num();
int omp_in_parallel();
int posix_memalign(void**, unsigned long, unsigned long);
void free(void*);

typedef void (*lamina_epilogue)(void* context, i64 r0, i64 r1, i64 c0, i64 c1);
struct lamina_gemm_call {
  i64 batch, M, N, K;
  const float* A; i64 a_batch, a_row, a_col;
  const float* B; i64 b_batch, b_row, b_col;
  float* C; i64 c_batch, c_row;
  const float* bias;                       // N values added to every row, or 0
  const float* row_bias;                   // M values, one for each row, or 0
  i64 accumulate;                          // add to C instead of overwriting it
  lamina_epilogue epilogue; void* context; // rows of batch b are numbered from b * M
};
}

INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

// ---- the register block -----------------------------------------------------------------------------------------------
// C[m, 0:NV*LANES] (+)= A[m, 0:K] * panel. `first`: start from bias (or zero) and do not read C.
template <int M, int NV, bool PACKED>
NOINLINE void block(i64 K, const float* __restrict A, i64 lda, const float* __restrict P, float* __restrict C, i64 ldc, bool first, const float* bias, const float* row_bias) {
  V c[M][NV];
#pragma GCC unroll 16
  for (int i = 0; i < M; i++) {
    __builtin_prefetch(C + i * ldc, 1);
    __builtin_prefetch(C + i * ldc + NV * LANES - 1, 1);
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) c[i][j] = V{};
  }
  for (i64 k = 0; k < K; k++) {
    V b[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) b[j] = *(const V*)(P + k * NR + j * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < M; i++) {
      float a = PACKED ? A[k * MR + i] : A[i * lda + k];
#pragma GCC unroll 2
      for (int j = 0; j < NV; j++) c[i][j] += a * b[j];
    }
  }
  V start[NV];
#pragma GCC unroll 2
  for (int j = 0; j < NV; j++) start[j] = bias ? *(const V*)(bias + j * LANES) : V{};
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 2
    for (int j = 0; j < NV; j++) {
      V* to = (V*)(C + i * ldc + j * LANES);
      *to = c[i][j] + (first ? row_bias ? start[j] + row_bias[i] : start[j] : *to);
    }
}

typedef void (*block_fn)(i64, const float*, i64, const float*, float*, i64, bool, const float*, const float*);
template <int NV, bool PACKED> struct blocks { static const block_fn table[MR + 1]; };
#if MR == 12
#define ROWS(NV, P) {0, block<1, NV, P>, block<2, NV, P>, block<3, NV, P>, block<4, NV, P>, block<5, NV, P>, block<6, NV, P>, block<7, NV, P>, block<8, NV, P>, block<9, NV, P>, block<10, NV, P>, block<11, NV, P>, block<12, NV, P>}
#elif MR == 6
#define ROWS(NV, P) {0, block<1, NV, P>, block<2, NV, P>, block<3, NV, P>, block<4, NV, P>, block<5, NV, P>, block<6, NV, P>}
#else
#define ROWS(NV, P) {0, block<1, NV, P>, block<2, NV, P>, block<3, NV, P>, block<4, NV, P>}
#endif
template <int NV, bool PACKED> const block_fn blocks<NV, PACKED>::table[MR + 1] = ROWS(NV, PACKED);

// One block whose last columns do not fill the vectors: computed whole in a buffer, the wanted part copied.
NOINLINE void edge_block(block_fn fn, int m, i64 cols, i64 K, const float* A, i64 lda, const float* P, float* C, i64 ldc, bool first, const float* bias, const float* row_bias) {
  float tile[MR * NR] __attribute__((aligned(64)));
  float tail[NR] __attribute__((aligned(64)));
  if (bias) for (i64 j = 0; j < NR; j++) tail[j] = j < cols ? bias[j] : 0;
  if (!first)
    for (int i = 0; i < m; i++)
      for (i64 j = 0; j < cols; j++) tile[i * NR + j] = C[i * ldc + j];
  fn(K, A, lda, P, tile, NR, first, bias ? tail : 0, row_bias);
  for (int i = 0; i < m; i++)
    for (i64 j = 0; j < cols; j++) C[i * ldc + j] = tile[i * NR + j];
}

// ---- packing ----------------------------------------------------------------------------------------------------------
#if LANES == 16
// to[k * step + n] = from[n * ld + k], 16 x 16
INLINE void transpose_square(const float* from, i64 ld, float* to, i64 step) {
  V r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = *(const V*)(from + i * ld);
  const VI lo = {0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29}, hi = {2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31};
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) { t[i] = __builtin_shuffle(r[i], r[i + 1], lo); t[i + 1] = __builtin_shuffle(r[i], r[i + 1], hi); }
  const VI lo2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}, hi2 = {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31};
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = __builtin_shuffle(t[i], t[i + 2], lo2); r[i + 1] = __builtin_shuffle(t[i], t[i + 2], hi2);
    r[i + 2] = __builtin_shuffle(t[i + 1], t[i + 3], lo2); r[i + 3] = __builtin_shuffle(t[i + 1], t[i + 3], hi2);
  }
  const VI even = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27}, odd = {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31};
  const VI low = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}, high = {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31};
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    V a = __builtin_shuffle(r[j], r[4 + j], even), b = __builtin_shuffle(r[j], r[4 + j], odd);
    V c = __builtin_shuffle(r[8 + j], r[12 + j], even), d = __builtin_shuffle(r[8 + j], r[12 + j], odd);
    *(V*)(to + j * step) = __builtin_shuffle(a, c, low); *(V*)(to + (8 + j) * step) = __builtin_shuffle(a, c, high);
    *(V*)(to + (4 + j) * step) = __builtin_shuffle(b, d, low); *(V*)(to + (12 + j) * step) = __builtin_shuffle(b, d, high);
  }
}
#elif LANES == 8
INLINE void transpose_square(const float* from, i64 ld, float* to, i64 step) {
  V r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) r[i] = *(const V*)(from + i * ld);
  const VI lo = {0, 8, 1, 9, 4, 12, 5, 13}, hi = {2, 10, 3, 11, 6, 14, 7, 15};
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) { t[i] = __builtin_shuffle(r[i], r[i + 1], lo); t[i + 1] = __builtin_shuffle(r[i], r[i + 1], hi); }
  const VI lo2 = {0, 1, 8, 9, 4, 5, 12, 13}, hi2 = {2, 3, 10, 11, 6, 7, 14, 15};
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = __builtin_shuffle(t[i], t[i + 2], lo2); r[i + 1] = __builtin_shuffle(t[i], t[i + 2], hi2);
    r[i + 2] = __builtin_shuffle(t[i + 1], t[i + 3], lo2); r[i + 3] = __builtin_shuffle(t[i + 1], t[i + 3], hi2);
  }
  const VI low = {0, 1, 2, 3, 8, 9, 10, 11}, high = {4, 5, 6, 7, 12, 13, 14, 15};
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    *(V*)(to + j * step) = __builtin_shuffle(r[j], r[4 + j], low); *(V*)(to + (4 + j) * step) = __builtin_shuffle(r[j], r[4 + j], high);
  }
}
#else
INLINE void transpose_square(const float* from, i64 ld, float* to, i64 step) {
  for (int n = 0; n < LANES; n++)
    for (int k = 0; k < LANES; k++) to[k * step + n] = from[n * ld + k];
}
#endif

// P[k * NR + j] = B[k, j] for j < n, zero up to NR
NOINLINE void pack_panel(i64 K, i64 n, const float* B, i64 rs, i64 cs, float* P) {
  if (n == NR && cs == 1) {
    for (i64 k = 0; k < K; k++)
#pragma GCC unroll 2
      for (int j = 0; j < NPAD; j++) *(V*)(P + k * NR + j * LANES) = *(const V*)(B + k * rs + j * LANES);
    return;
  }
  if (n == NR && rs == 1) {
    i64 k = 0;
    for (; k + LANES <= K; k += LANES)
#pragma GCC unroll 2
      for (int j = 0; j < NPAD; j++) transpose_square(B + k + j * LANES * cs, cs, P + k * NR + j * LANES, NR);
    for (; k < K; k++)
      for (i64 j = 0; j < NR; j++) P[k * NR + j] = B[k + j * cs];
    return;
  }
  if (rs == 1) {  // a narrow transposed panel: along k first
    for (i64 j = 0; j < n; j++)
      for (i64 k = 0; k < K; k++) P[k * NR + j] = B[k + j * cs];
    for (i64 k = 0; k < K; k++)
      for (i64 j = n; j < NR; j++) P[k * NR + j] = 0;
    return;
  }
  for (i64 k = 0; k < K; k++) {
    i64 j = 0;
    for (; j < n; j++) P[k * NR + j] = B[k * rs + j * cs];
    for (; j < NR; j++) P[k * NR + j] = 0;
  }
}

// Ask for lines [l0, l1) of the 2 * K lines behind a panel that will be packed next: memory then works while the products run.
INLINE void prefetch_panel(i64 l0, i64 l1, const float* B, i64 rs, i64 cs) {
  if (cs == 1) for (i64 l = l0; l < l1; l++) __builtin_prefetch(B + l / NPAD * rs + l % NPAD * LANES, 0, 2);
  else if (rs == 1) for (i64 l = l0; l < l1; l++) __builtin_prefetch(B + l / NR * LANES + l % NR * cs, 0, 2);
}

// Q[k * MR + i] = A[i, k] for i < m; `whole`: MR rows may be read
NOINLINE void pack_rows(i64 K, int m, bool whole, const float* A, i64 rs, i64 cs, float* Q) {
  if (whole && rs == 1) {
    for (i64 k = 0; k < K; k++)
      for (int i = 0; i < MR; i++) Q[k * MR + i] = A[i + k * cs];
    return;
  }
  for (i64 k = 0; k < K; k++)
    for (int i = 0; i < m; i++) Q[k * MR + i] = A[i * rs + k * cs];
}

struct workspace {
  float *panels, *rows;
  bool ready() {
    return panels || (!posix_memalign((void**)&panels, 64, 4 * (NC * KC + MR * KC + 64)) && (rows = panels + NC * KC, true));
  }
  ~workspace() { free(panels); }
};
static thread_local workspace space;

// ---- one tile of C on one thread --------------------------------------------------------------------------------------
NOINLINE void tile(const lamina_gemm_call& g, i64 b, i64 m0, i64 m1, i64 n0, i64 n1) {
  const float *A = g.A + b * g.a_batch, *B = g.B + b * g.b_batch;
  float* C = g.C + b * g.c_batch;
  const bool in_place = g.a_col == 1;
  float *panels = space.panels, *rows = space.rows;
  i64 nk = g.K ? (g.K + KC - 1) / KC : 1, kc = g.K ? (g.K + nk - 1) / nk : 1;
  i64 widest = NC * KC / kc / NR * NR;  // what fits in the panels' buffer: with few k, more columns
  i64 nn = (n1 - n0 + widest - 1) / widest, nc = ((n1 - n0 + nn - 1) / nn + NR - 1) / NR * NR;
  i64 nm = (m1 - m0 + MR - 1) / MR;
  for (i64 j0 = n0; j0 < n1; j0 += nc) {
    i64 jn = least(nc, n1 - j0);
    for (i64 k0 = 0; k0 == 0 || k0 < g.K; k0 += kc) {
      i64 kn = least(kc, g.K - k0);
      bool first = k0 == 0 && !g.accumulate, last = k0 + kc >= g.K;
      for (i64 j = 0; j < jn; j += NR) pack_panel(kn, least(NR, jn - j), B + k0 * g.b_row + (j0 + j) * g.b_col, g.b_row, g.b_col, panels + j * kn);
      const float* next = !last ? B + (k0 + kc) * g.b_row + j0 * g.b_col : j0 + nc < n1 ? B + (j0 + nc) * g.b_col : 0;
      i64 lines = NPAD * (last ? least(kc, g.K) : least(kc, g.K - k0 - kc)), next_columns = last ? least(nc, n1 - j0 - nc) : jn;
      for (i64 i = 0; i < nm; i++) {
        i64 i0 = m0 + i * (m1 - m0) / nm, i1 = m0 + (i + 1) * (m1 - m0) / nm;
        int m = (int)(i1 - i0);
        const float* a = A + i0 * g.a_row + k0 * g.a_col;
        if (!in_place) { pack_rows(kn, m, i0 + MR <= g.M, a, g.a_row, g.a_col, rows); a = rows; }
        for (i64 j = 0; j < jn; j += NR) {
          i64 cols = least(NR, jn - j);
          if (next && j + NR <= next_columns) prefetch_panel(i * lines / nm, (i + 1) * lines / nm, next + j * g.b_col, g.b_row, g.b_col);
          int half = cols <= LANES;
          block_fn fn = half ? (in_place ? blocks<1, false>::table[m] : blocks<1, true>::table[m]) : (in_place ? blocks<2, false>::table[m] : blocks<2, true>::table[m]);
          const float* bias = first && g.bias ? g.bias + (j0 + j) : 0;
          const float* row_bias = first && g.row_bias ? g.row_bias + i0 : 0;
          float* c = C + i0 * g.c_row + j0 + j;
          if (cols == NR || cols == LANES) fn(kn, a, g.a_row, panels + j * kn, c, g.c_row, first, bias, row_bias);
          else edge_block(fn, m, cols, kn, a, g.a_row, panels + j * kn, c, g.c_row, first, bias, row_bias);
        }
        if (last && g.epilogue) g.epilogue(g.context, b * g.M + i0, b * g.M + i1, j0, j0 + jn);
      }
    }
  }
}

// ---- who does what ----------------------------------------------------------------------------------------------------
// Cycles of one thread for a tile of m x n: register blocks, then packing.
static double tile_cost(i64 m, i64 n, i64 K) {
  i64 panels = (n + NR - 1) / NR;
  return (double)panels * NR * K * ((double)m / LANES + 1.0);
}

extern "C" int lamina_gemm(const lamina_gemm_call* call) {
  const lamina_gemm_call& g = *call;
  if (g.batch <= 0 || g.M <= 0 || g.N <= 0) return 0;
  int threads = omp_in_parallel() ? 1 : omp_get_max_threads();
  if (2.0 * g.batch * g.M * g.N * g.K < 2e5) threads = 1;
  i64 tm = 1, tn = 1;
  if (threads > 1 && g.batch < 4 * threads) {
    double best = 1e300;
    for (i64 m = 1; m <= threads * 2 && m <= g.M; m++)
      for (i64 n = 1; m * n <= threads * 2 && n <= (g.N + NR - 1) / NR; n++) {
        i64 rounds = (g.batch * m * n + threads - 1) / threads;
        double cost = rounds * tile_cost((g.M + m - 1) / m, (g.N + n - 1) / n, g.K) * (1 + 0.01 * (m * n > threads));
        if (cost < best * 0.999) { best = cost; tm = m; tn = n; }
      }
  }
  i64 tiles = g.batch * tm * tn, panels = (g.N + NR - 1) / NR;
  int failed = 0;
#pragma omp parallel num_threads((int)least(threads, tiles)) if (threads > 1 && tiles > 1) reduction(| : failed)
  {
    if (!space.ready()) failed = 1;
    else {
#pragma omp for schedule(static) nowait
      for (i64 t = 0; t < tiles; t++) {
        i64 b = t / (tm * tn), i = t / tn % tm, j = t % tn;
        tile(g, b, i * g.M / tm, (i + 1) * g.M / tm, j * panels / tn * NR, least(g.N, (j + 1) * panels / tn * NR));
      }
    }
  }
  return failed;
}
