"""The commands behind `model-agent`, one file each, imported only when asked for."""
