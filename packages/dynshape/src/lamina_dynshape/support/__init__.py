"""What every package of lamina shares: errors, counters, settings, logs, timers, paths, toolchain, verify level.

Imports nothing but the standard library at import time (`toolchain` asks torch for its paths when it builds an extension),
so that every package may use it first.
"""
