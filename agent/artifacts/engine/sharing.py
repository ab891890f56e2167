"""When a part is so slow that another connection had better bring its end. Pure."""

from agent.artifacts.engine.pieces import Piece
from agent.artifacts.engine.settings import SMALLEST_SHARE

_SLOW_SECONDS = 2.0
"""What is here in less time than this is not worth a connection."""


def left_of(piece: Piece) -> int:
    """Return how many bytes of *piece* nobody has begun to write."""
    return (piece.stop or 0) - piece.taken


def worth_sharing(piece: Piece, now: float) -> bool:
    """Whether *piece* goes on for so long that another connection should take over half of what is left."""
    seconds = now - piece.began
    if seconds < _SLOW_SECONDS / 2:
        return False
    return left_of(piece) >= max(SMALLEST_SHARE, (piece.at - piece.start) / seconds * _SLOW_SECONDS)
