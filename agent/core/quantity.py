"""Kubernetes quantities, exactly: `1.5Gi`, `256Mi`, `1e9`, `100m`.

A quantity is a whole number of billionths, so nothing is ever rounded but what Kubernetes rounds itself:
finer than a billionth goes away from zero, and a binary one is cut at 2^63-1 (apimachinery's
resource.Quantity). Three texts that its parser takes are refused here: digits have to be there (`Gi`, `+`),
an exponent is at most 999, and the whole text at most 255 characters.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

MAX_INT64 = 2**63 - 1
"""The largest number that Kubernetes' integer accessors can tell."""

_NANOS = 10**9
_MAX_TEXT = 255
_MAX_EXPONENT = 999
_GRAMMAR = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?"
    r"(?:(?P<binary>[KMGTPE]i)|(?P<decimal>[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]+))?"
)
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}


class Format(StrEnum):
    """How a quantity is printed; it is that of the text it was read from."""

    BINARY_SI = "BinarySI"
    DECIMAL_SI = "DecimalSI"
    DECIMAL_EXPONENT = "DecimalExponent"


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """A number of billionths. Equal and ordered by value alone: `1Gi` equals `1024Mi`."""

    nanos: int
    format: Format = field(default=Format.DECIMAL_SI, compare=False)

    def bytes_ceil(self) -> int:
        """Return the number of bytes, rounded up: `100m` is 1."""
        return -(-self.nanos // _NANOS)

    def add(self, other: "Quantity") -> "Quantity":
        """Return the sum. Its format is that of self, or of *other* while self is zero, as in Kubernetes."""
        return Quantity(self.nanos + other.nanos, self.format if self.nanos else other.format)

    def canonical(self) -> str:
        """Return the text that Kubernetes prints: no fraction, the largest suffix that loses nothing.

        Raises nothing; `parse_quantity` reads what fits in its 255 characters back to an equal quantity of
        the same printed form.
        """
        if not self.nanos:
            return "0"
        if self.format is Format.BINARY_SI and not self.nanos % _NANOS and abs(self.nanos) >= 1024 * _NANOS:
            return _print_binary(self.nanos // _NANOS)
        return _print_decimal(self.nanos, self.format)

    def __str__(self) -> str:
        return self.canonical()


def parse_quantity(text: str) -> Quantity:
    """Read a quantity; surrounding ASCII white space is ignored. Negative ones are legal here.

    Raises ValueError, in words, for anything that is not one: NaN, Infinity, underscores, digits of other
    scripts, inner spaces, an unknown suffix.
    """
    text = text.strip(" \t\r\n\v\f")
    if len(text) > _MAX_TEXT:
        raise ValueError(f"it is longer than {_MAX_TEXT} characters")
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise ValueError("write digits and one suffix of Ki Mi Gi Ti Pi Ei n u m k M G T P E, such as 256Mi")
    whole, fraction = match["whole"], match["fraction"] or ""
    if not whole + fraction:
        raise ValueError("it has no digits")
    number, exponent, binary, form = int(whole + fraction), -len(fraction), 1, Format.DECIMAL_SI
    if match["binary"]:
        binary, form = 1024 ** _BINARY.index(match["binary"]), Format.BINARY_SI
    elif match["exponent"]:
        exponent, form = exponent + _told_exponent(match["exponent"]), Format.DECIMAL_EXPONENT
    else:
        exponent += _DECIMAL[match["decimal"] or ""]
    nanos = _scaled_up(number * binary, exponent + 9)
    if form is Format.BINARY_SI:
        nanos = min(nanos, MAX_INT64 * _NANOS)
        if 0 < nanos < _NANOS:
            form = Format.DECIMAL_SI
    return Quantity(-nanos if match["sign"] == "-" else nanos, form)


def _told_exponent(text: str) -> int:
    """Read an exponent; what is far below a billionth all rounds up to one, so it is cut."""
    if len(text.lstrip("+-0")) <= len(str(_MAX_EXPONENT)):
        return int(text)
    if text.startswith("-"):
        return -10 * _MAX_EXPONENT
    raise ValueError(f"its exponent is beyond {_MAX_EXPONENT}")


def _scaled_up(number: int, exponent: int) -> int:
    """Return number times ten to the exponent, rounded up to a whole one."""
    factor = int(10 ** abs(exponent))
    return number * factor if exponent >= 0 else -(-number // factor)


def _print_binary(number: int) -> str:
    power = 0
    while power < len(_BINARY) - 1 and number % 1024 == 0:
        number, power = number // 1024, power + 1
    return f"{number}{_BINARY[power]}"


def _print_decimal(nanos: int, form: Format) -> str:
    number, exponent = nanos, -9
    while number % 1000 == 0 and exponent + 3 <= _MAX_EXPONENT:
        number, exponent = number // 1000, exponent + 3
    if form is Format.DECIMAL_EXPONENT or exponent not in _DECIMAL_SUFFIX:
        return f"{number}e{exponent}" if exponent else str(number)
    return f"{number}{_DECIMAL_SUFFIX[exponent]}"
