"""What the agent tells its proxy's process on standard input, a byte a word; its end means that it is gone.

Apart from both ends, so that neither of the two processes carries the other one's code.
"""

READY = b"r"
"""The first set of models was tried."""
DRAIN = b"d"
"""Finish what is under way, and end."""
