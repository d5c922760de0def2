"""Shape, dtype and stride rules of ATen operators, one module per family."""
