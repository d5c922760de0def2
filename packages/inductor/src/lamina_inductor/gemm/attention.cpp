// Scaled dot product attention on the matrix core (follows core.cpp in one translation unit), forward and backward, fp32.
//
// One task is a head (forward: a block of query rows of one). Scores of a block of rows stay in the second-level cache between the products:
// S = Q K^T, P = softmax(scale S + mask), O = P V. The backward recomputes P from the logsumexp.
extern "C" {
float logf(float);
struct lamina_attention_call {
  i64 B, H, Q, K, D;  // batch, heads, query rows, keys, width
  float scale; int causal;
  const float *q, *k, *v, *mask;
  i64 qs[3], ks[3], vs[3], ms[4];  // strides of batch, head, row (the width has stride 1); of the mask's four dimensions
  float *o, *lse;
  i64 os[3], ls[3];
  const float* go;  // backward: gradient of o, then results
  i64 gs[3];
  float *dq, *dk, *dv;
  i64 dqs[3], dks[3], dvs[3];
};
}
#define SCORES_BYTES (384 * 1024)

INLINE V max_of(V a, V b) { return a > b ? a : b; }
// e^x to 1 ulp for x <= 88; below -87.3 it is 0 (Cody and Waite reduction, degree 6)
INLINE V exp_of(V x) {
  const V low = V{} - 87.33f;
  V t = x * 1.44269504f + 12582912.f;            // 1.5 * 2^23: rounds to the nearest integer in the low bits
  VI n = (VI)t;
  t = t - 12582912.f;
  V r = x - t * 0.693145752f;
  r = r - t * 1.42860677e-6f;
  V p = r * 1.38888889e-3f + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.f;
  VI bits = (VI)p + (n << 23);
  return x < low ? V{} : (V)bits;
}

INLINE void product(i64 M, i64 N, i64 K, const float* A, i64 ar, i64 ac, const float* B, i64 br, i64 bc, float* C, i64 cr, bool accumulate) {
  lamina_gemm_call g = {1, M, N, K, A, 0, ar, ac, B, 0, br, bc, C, 0, cr, 0, 0, accumulate, 0, 0};
  tile(g, 0, 0, M, 0, N);
}

// Row of scores to weights, not divided by their sum: s = exp(scale * s + mask - max); returns the sum and the max. `n` keys count, the rest to `end` is 0.
INLINE float soften(float* s, i64 n, i64 end, float scale, const float* mask, i64 step, float* max) {
  i64 k = 0;
  const float inf = __builtin_inff();
  V top = V{} - inf;
  if (mask && step == 0) { float c = mask[0]; for (i64 j = 0; j < n; j++) s[j] = s[j] * scale + c; }
  else if (mask && step == 1) for (i64 j = 0; j < n; j++) s[j] = s[j] * scale + mask[j];
  else if (mask) for (i64 j = 0; j < n; j++) s[j] = s[j] * scale + mask[j * step];
  else for (i64 j = 0; j < n; j++) s[j] = s[j] * scale;
  for (; k + LANES <= n; k += LANES) top = max_of(*(V*)(s + k), top);
  float m = -inf;
  for (int i = 0; i < LANES; i++) m = top[i] > m ? top[i] : m;
  for (i64 j = k; j < n; j++) m = s[j] > m ? s[j] : m;
  float base = m == -inf ? 0 : m;
  V sum = {};
  for (k = 0; k + LANES <= n; k += LANES) { V e = exp_of(*(V*)(s + k) - base); *(V*)(s + k) = e; sum += e; }
  float total = 0;
  if (k < n) {
    float rest[LANES];
    for (int i = 0; i < LANES; i++) rest[i] = k + i < n ? s[k + i] - base : -inf;
    V e = exp_of(*(V*)rest);
    sum += e;
    for (i64 j = k; j < n; j++) s[j] = e[j - k];
  }
  for (int i = 0; i < LANES; i++) total += sum[i];
  for (i64 j = n; j < end; j++) s[j] = 0;
  *max = base;
  return total;
}

struct scratch {
  float* p = 0;
  bool get(i64 n) { return !posix_memalign((void**)&p, 64, 4 * n); }
  ~scratch() { free(p); }
};

static i64 rows_per_block(const lamina_attention_call& a, i64 parts) {
  i64 ld = a.K * parts, rows = SCORES_BYTES / 4 / (ld ? ld : 1);
  rows = rows < 32 ? 32 : least(rows, 1024);
  if (a.causal) rows = least(rows, 64);
  i64 blocks = (a.Q + rows - 1) / rows;
  return (a.Q + blocks - 1) / blocks;
}

extern "C" int lamina_attention(const lamina_attention_call* call) {
  const lamina_attention_call& a = *call;
  i64 rows = rows_per_block(a, 1), blocks = (a.Q + rows - 1) / rows, tasks = a.B * a.H * blocks, ld = (a.K + LANES - 1) / LANES * LANES;
  int failed = 0;
#pragma omp parallel if (tasks > 1 && !omp_in_parallel()) reduction(| : failed)
  {
    scratch S;
    if (!space.ready() || !S.get(rows * ld)) failed = 1;
    else {
#pragma omp for schedule(dynamic) nowait
      for (i64 t = 0; t < tasks; t++) {
        i64 b = t / (a.H * blocks), h = t / blocks % a.H, r0 = t % blocks * rows, n = least(rows, a.Q - r0);
        i64 keys = a.causal ? least(a.K, r0 + n) : a.K;
        const float *q = a.q + b * a.qs[0] + h * a.qs[1] + r0 * a.qs[2], *k = a.k + b * a.ks[0] + h * a.ks[1], *v = a.v + b * a.vs[0] + h * a.vs[1];
        const float* mask = a.mask ? a.mask + b * a.ms[0] + h * a.ms[1] + r0 * a.ms[2] : 0;
        float* o = a.o + b * a.os[0] + h * a.os[1] + r0 * a.os[2];
        product(n, keys, a.D, q, a.qs[2], 1, k, 1, a.ks[2], S.p, ld, false);
        float weight[n];
        for (i64 i = 0; i < n; i++) {
          float top, sum = soften(S.p + i * ld, a.causal ? least(keys, r0 + i + 1) : keys, keys, a.scale, mask ? mask + i * a.ms[2] : 0, a.ms[3], &top);
          weight[i] = 1 / (sum == 0 ? 1 : sum);
          if (a.lse) a.lse[b * a.ls[0] + h * a.ls[1] + (r0 + i) * a.ls[2]] = sum == 0 ? 0 : top + logf(sum);  // a row without keys: as eager
        }
        product(n, a.D, keys, S.p, ld, 1, v, a.vs[2], 1, o, a.os[2], false);
        for (i64 i = 0; i < n; i++)
          for (i64 d = 0; d < a.D; d++) o[i * a.os[2] + d] *= weight[i];
      }
    }
  }
  return failed;
}

extern "C" int lamina_attention_backward(const lamina_attention_call* call) {
  const lamina_attention_call& a = *call;
  i64 rows = rows_per_block(a, 2), tasks = a.B * a.H, ld = (a.K + LANES - 1) / LANES * LANES;
  int failed = 0;
#pragma omp parallel if (tasks > 1 && !omp_in_parallel()) reduction(| : failed)
  {
    scratch P, S;
    if (!space.ready() || !P.get(rows * ld) || !S.get(rows * ld)) failed = 1;
    else {
#pragma omp for schedule(dynamic) nowait
      for (i64 t = 0; t < tasks; t++) {
        i64 b = t / a.H, h = t % a.H;
        const float *k = a.k + b * a.ks[0] + h * a.ks[1], *v = a.v + b * a.vs[0] + h * a.vs[1];
        float *dk = a.dk + b * a.dks[0] + h * a.dks[1], *dv = a.dv + b * a.dvs[0] + h * a.dvs[1];
        i64 done = 0;  // keys whose gradients have been started
        for (i64 r0 = 0; r0 < a.Q; r0 += rows) {
          i64 n = least(rows, a.Q - r0), keys = a.causal ? least(a.K, r0 + n) : a.K;
          const float *q = a.q + b * a.qs[0] + h * a.qs[1] + r0 * a.qs[2], *g = a.go + b * a.gs[0] + h * a.gs[1] + r0 * a.gs[2];
          const float* o = a.o + b * a.os[0] + h * a.os[1] + r0 * a.os[2];
          const float* mask = a.mask ? a.mask + b * a.ms[0] + h * a.ms[1] + r0 * a.ms[2] : 0;
          product(n, keys, a.D, q, a.qs[2], 1, k, 1, a.ks[2], P.p, ld, false);
          product(n, keys, a.D, g, a.gs[2], 1, v, 1, a.vs[2], S.p, ld, false);
          for (i64 i = 0; i < n; i++) {
            float *p = P.p + i * ld, *s = S.p + i * ld, lse = a.lse[b * a.ls[0] + h * a.ls[1] + (r0 + i) * a.ls[2]];
            const float* m = mask ? mask + i * a.ms[2] : 0;
            i64 seen = a.causal ? least(keys, r0 + i + 1) : keys, step = a.ms[3];
            V part = {};
            i64 d = 0;
            for (; d + LANES <= a.D; d += LANES) part += *(const V*)(g + i * a.gs[2] + d) * *(const V*)(o + i * a.os[2] + d);
            float dot = 0;
            for (int l = 0; l < LANES; l++) dot += part[l];
            for (; d < a.D; d++) dot += g[i * a.gs[2] + d] * o[i * a.os[2] + d];
            if (m) for (i64 j = 0; j < seen; j++) p[j] = p[j] * a.scale + m[j * step] - lse;
            else for (i64 j = 0; j < seen; j++) p[j] = p[j] * a.scale - lse;
            for (i64 j = seen; j < ld; j++) { p[j] = -__builtin_inff(); s[j] = 0; }
            for (i64 j = 0; j < ld; j += LANES) {
              V e = exp_of(*(V*)(p + j));
              *(V*)(p + j) = e;
              *(V*)(s + j) = e * (*(V*)(s + j) - dot) * a.scale;
            }
          }
          i64 old = least(done, keys);
          if (old) {
            product(old, a.D, n, P.p, 1, ld, g, a.gs[2], 1, dv, a.dvs[2], true);
            product(old, a.D, n, S.p, 1, ld, q, a.qs[2], 1, dk, a.dks[2], true);
          }
          if (keys > old) {
            product(keys - old, a.D, n, P.p + old, 1, ld, g, a.gs[2], 1, dv + old * a.dvs[2], a.dvs[2], false);
            product(keys - old, a.D, n, S.p + old, 1, ld, q, a.qs[2], 1, dk + old * a.dks[2], a.dks[2], false);
            done = keys;
          }
          product(n, a.D, keys, S.p, ld, 1, k, a.ks[2], 1, a.dq + b * a.dqs[0] + h * a.dqs[1] + r0 * a.dqs[2], a.dqs[2], false);
        }
        for (i64 j = done; j < a.K; j++)
          for (i64 d = 0; d < a.D; d++) dk[j * a.dks[2] + d] = dv[j * a.dvs[2] + d] = 0;
      }
    }
  }
  return failed;
}
