"""C++ code generation: scalar text of bodies, kernels, the entry of a graph."""
