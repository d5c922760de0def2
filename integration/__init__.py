"""The stages together on real models: builders, demo, benchmarks, tests. Uses only the public API of lamina."""
