"""Run time: the native entry object and the loaded graph."""
