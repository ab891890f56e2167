"""What a provider refuses, for tests to look at."""

import pytest

from agent.core.errors import AgentError
from agent.storage.base import StorageProvider


async def refusal(provider: StorageProvider, uri: str) -> AgentError:
    """Resolve *uri*, which must fail, and return how."""
    with pytest.raises(AgentError) as caught:
        await provider.resolve(uri)
    return caught.value
