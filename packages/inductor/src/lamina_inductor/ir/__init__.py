"""Loop-level IR: dtypes, scalar ops, bodies, buffers, nodes, verifier, printer, reference interpreter."""
