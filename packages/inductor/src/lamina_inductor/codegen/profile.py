"""Timing of each kernel and call of a graph (`config.profile`): sums over all calls, printed when the process ends.

Times are processor times of the calling thread, in milliseconds per call of the graph; what happens between two kernels counts for the second.
"""

from __future__ import annotations

import json

__all__ = ["profile_text"]


def profile_text(labels: list[str]) -> str:
    """C++ of `lm_tick(k)`, which charges the time since the last tick to step `k`, and of the report."""
    names = ", ".join(json.dumps(label) for label in labels) or '""'
    n = max(len(labels), 1)
    return f"""
extern "C" {{ struct lm_time {{ long s, ns; }}; int clock_gettime(int, lm_time*); int printf(const char*, ...); int fflush(void*); }}
static double lm_sum[{n}], lm_last; static long lm_rounds;
static const char* lm_names[{n}] = {{{names}}};
static void lm_tick(int k) {{
  lm_time t; clock_gettime(3, &t);
  double now = t.s * 1e3 + t.ns * 1e-6;
  if (k < 0) lm_rounds++; else lm_sum[k] += now - lm_last;
  clock_gettime(3, &t);
  lm_last = t.s * 1e3 + t.ns * 1e-6;
}}
struct lm_reporter {{ ~lm_reporter() {{
  if (!lm_rounds) return;
  double total = 0; for (double t : lm_sum) total += t;
  printf("profile of a graph: %.3f ms per call, %ld calls\\n", total / lm_rounds, lm_rounds);
  bool done[{n}] = {{0}};
  for (int i = 0; i < {n} && i < 400; i++) {{
    int best = -1;
    for (int k = 0; k < {n}; k++) if (!done[k] && (best < 0 || lm_sum[k] > lm_sum[best])) best = k;
    done[best] = true;
    printf("  %8.3f ms %4.1f%%  %s\\n", lm_sum[best] / lm_rounds, 100 * lm_sum[best] / (total + 1e-9), lm_names[best]);
  }}
  fflush(0);
}} }};
static lm_reporter lm_report;
"""
