"""bytecode capture into FX graphs, guards, graph breaks and code caches."""

__version__ = "0.1.0"
