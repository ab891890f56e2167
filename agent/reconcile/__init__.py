"""The sidecar's shell: it reads the world, asks the core what to do, and starts it."""
