"""The page on graph breaks, `docs/graph_breaks.md`: each code with its reason and what to do, from the table in `lamina_dynamo.reasons`.

    python tools/graph_breaks.py            write the page
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "graph_breaks.md"

HEAD = """# Graph breaks

Written by `python tools/graph_breaks.py` from `lamina_dynamo/reasons.py`; a test of dynamo checks that it is up to date.

Where Python cannot be captured, the graph ends, the instruction runs in Python, and capture goes on after it: a graph break. The result is that of
eager either way; a break costs a few microseconds per call and keeps the two graphs from being optimised together.

- `lamina.explain(fn)(*args)` lists the breaks of a call on one screen, with the user's lines.
- `LAMINA_LOG=graph_breaks` prints each as it happens; `lamina.counters["graph_breaks"]` counts them by code.
- `fullgraph=True` makes the first one an error:

```
not supported: data-dependent branch
  at model.py:41 in forward:   if x.sum() > 0:
  saw:   Tensor float32[] on cpu
  try:   torch.where, or move the branch outside of the compiled function
  code:  data-dependent-branch
```

A condition that only raises (an assertion, a check of arguments) is no break: it is checked after the graph, or inside where the graph writes to memory from outside, before it does.

| code | what was met | what to do |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    from lamina_dynamo.reasons import REASONS

    rows = [f"| [`{code}`](#{code}) | {r.meets} | {r.remedy} |" if r.example else f"| `{code}` | {r.meets} | {r.remedy} |" for code, r in REASONS.items()]
    parts = [HEAD + "\n".join(rows), "\n\n## Rewrites"]
    for code, r in REASONS.items():
        if r.example:
            before, after = r.example.split("\n->\n")
            parts.append(f"\n\n### {code}\n{r.meets[0].upper()}{r.meets[1:]}.\n```python\n{before}\n```\nbecomes\n```python\n{after}\n```")
    return "".join(parts) + "\n"


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "packages" / name / "src") for name in ("dynshape", "primops", "dynamo")]
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
