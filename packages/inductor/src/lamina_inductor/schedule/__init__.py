"""Scheduling: dependences, fusion, loop order, memory planning."""
