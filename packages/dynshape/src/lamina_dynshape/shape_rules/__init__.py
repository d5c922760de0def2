"""Shape, dtype and stride rules of ATen operators, one module per family; importing it fills the table."""

from lamina_dynshape.shape_rules import (
    contractions,
    data_dependent,
    factories,
    foreach,
    fourier,
    indexing,
    joining,
    linalg,
    losses,
    metadata,
    norms,
    pointwise,
    rare,
    reductions,
    views,
    windows,
)

__all__ = [
    "contractions", "data_dependent", "factories", "foreach", "fourier", "indexing", "joining", "linalg", "losses", "metadata", "norms", "pointwise", "rare", "reductions", "views", "windows",
]
