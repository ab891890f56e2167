"""Logs on stderr; the full formatter follows in its own commit."""

import logging
from typing import TextIO


def configure(level: str, form: str, stream: TextIO) -> None:
    """Log to *stream*."""
    logging.basicConfig(level=level.upper(), stream=stream, format=f"%(asctime)s %(levelname)s %(name)s %(message)s")
