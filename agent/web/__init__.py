"""What the agent answers over HTTP on its status port."""
