"""Logs, metrics and traces: how the agent speaks, not what it decides."""
