"""Who serves the models: one file a model-server protocol, behind the Protocol of `agent.servers.base`."""
