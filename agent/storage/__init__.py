"""Where models come from: one file a scheme, behind the Protocol of `agent.storage.base`."""
