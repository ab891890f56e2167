"""A quantity is refused by a ValueError, or is exactly what arithmetic with fractions says."""

import re
from fractions import Fraction

from agent.core.quantity import MAX_INT64, Format, parse_quantity

POWERS = {"": 1} | {f"{letter}i": 1024**n for n, letter in enumerate("KMGTPE", 1)}
POWERS |= {letter: Fraction(1000) ** n for n, letter in zip((-3, -2, -1), "num", strict=True)}
POWERS |= {letter: 1000**n for n, letter in enumerate("kMGTPE", 1)}


def one(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        quantity = parse_quantity(text)
    except ValueError as refused:
        assert str(refused).isascii()
        return
    wanted = exact(text.strip(" \t\r\n\v\f")) * 10**9
    if quantity.format is Format.BINARY_SI or text.strip().endswith("i"):
        limit = MAX_INT64 * 10**9
        wanted = max(-limit, min(limit, wanted))
    whole = -(-abs(wanted) // 1)  # away from zero
    assert abs(quantity.nanos) == whole, (text, quantity.nanos, whole)
    assert quantity.nanos == 0 or (quantity.nanos < 0) == (wanted < 0)
    if len(quantity.canonical()) > 255:
        return
    again = parse_quantity(quantity.canonical())
    assert (again, again.canonical()) == (quantity, quantity.canonical())


def exact(text: str) -> Fraction:
    """The value by long division, and by nothing of the agent's."""
    number, suffix = re.fullmatch(r"([+-]?[0-9.]+)(.*)", text, re.DOTALL).groups()
    if suffix not in POWERS:
        exponent = max(int(suffix[1:]), -5000)  # below a billionth of a billionth all rounds up alike
        return Fraction(number.rstrip(".")) * Fraction(10) ** exponent
    return Fraction(number.rstrip(".")) * POWERS[suffix]
