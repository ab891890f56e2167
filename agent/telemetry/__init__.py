"""Logs (and later metrics and traces): how the agent speaks, not what it decides."""
