"""Small asyncio pieces that know nothing of models."""
