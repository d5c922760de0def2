"""Import rules of the repository: one way between packages, and nothing of the reference compile stack.

Walks the syntax tree of every module in `packages/*/src`: imports (also inside functions), dotted attribute chains, and
names handed to `importlib`, `__import__`, `getattr`. Strings that only name a function of the peer, so that user code that
calls it is recognised, are allowed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "lamina_dynshape": set(),
    "lamina_primops": {"lamina_dynshape"},
    "lamina_dynamo": {"lamina_dynshape", "lamina_primops"},
    "lamina_aotgrad": {"lamina_dynshape", "lamina_primops"},
    "lamina_inductor": {"lamina_dynshape", "lamina_primops"},
    "lamina": {"lamina_dynshape", "lamina_primops", "lamina_dynamo", "lamina_aotgrad", "lamina_inductor"},
}
THIRD_PARTY = {
    "lamina_dynshape": {"torch", "sympy"},
    "lamina_primops": {"torch"},
    "lamina_dynamo": {"torch", "numpy"},
    "lamina_aotgrad": {"torch", "networkx"},
    "lamina_inductor": {"torch", "sympy", "numpy", "triton"},
    "lamina": {"torch"},
}
REFERENCE = (
    "torch._dynamo", "torch._inductor", "torch._functorch", "torch._decomp", "torch._refs", "torch._prims", "torch._prims_common",
    "torch._subclasses", "torch.fx.experimental", "torch._higher_order_ops", "torch.export", "torch._export", "torch._guards",
    "torch._C._dynamo", "torch._C._functorch", "functorch", "torch.compile", "torch._lazy", "torch._C._aoti",
)  # fmt: skip


def is_reference(name: str) -> bool:
    """Whether a dotted name lies in the reference stack."""
    return any(name == root or name.startswith(root + ".") for root in REFERENCE)


def dotted(node: ast.AST) -> str | None:
    """`a.b.c` of an attribute chain that starts at a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def dynamic_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of attribute chains, and of names handed to functions that import or look up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            yield node.lineno, name
        elif isinstance(node, ast.Call) and (called := dotted(node.func)):
            if called.split(".")[-1] in ("import_module", "__import__", "getattr"):
                yield from ((node.lineno, arg.value) for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def problems(source: str, package: str) -> list[tuple[int, str]]:
    """(line, what is wrong) in one module of `package`."""
    tree = ast.parse(source)
    found = []
    for line, name in imported(tree):
        top = name.split(".")[0]
        if is_reference(name):
            found.append((line, f"uses the reference stack: {name}"))
        elif top in MAY_IMPORT and top != package and top not in MAY_IMPORT[package]:
            found.append((line, f"{package} may not import {top}"))
        elif top not in MAY_IMPORT and top not in sys.stdlib_module_names and top not in THIRD_PARTY[package]:
            found.append((line, f"{package} does not depend on {top}"))
    found += [(line, f"uses the reference stack: {name}") for line, name in dynamic_uses(tree) if is_reference(name)]
    return sorted(set(found))


def main() -> int:
    count = files = 0
    for path in sorted((ROOT / "packages").glob("*/src/*/**/*.py")):
        files += 1
        package = path.relative_to(ROOT / "packages").parts[2]
        for line, what in problems(path.read_text(), package):
            count += 1
            print(f"{path.relative_to(ROOT)}:{line}: {what}")
    print(f"{count} import problems in {files} files")
    return 1 if count or not files else 0


if __name__ == "__main__":
    sys.exit(main())
