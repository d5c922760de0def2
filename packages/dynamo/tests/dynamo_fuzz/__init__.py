"""Differential fuzzing of capture: feature programs, breaks everywhere, generated programs, changes between calls. Eager is the oracle."""
