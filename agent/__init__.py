"""model-agent: makes a declared set of models really be served, next to any model server."""

__version__ = "0.1.0"
