"""How the text of a flag is read, where it is more than a path: pure, and a ValueError says what is wrong."""

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from agent.core.quantity import parse_quantity
from agent.core.reach import Network, networks

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")

LONGEST_SECONDS = 30 * 86400.0
MOST_AT_ONCE = 1000
SLOWEST = 1024  # bytes a second: with less nothing ever comes


def duration(text: str) -> float:
    """Return seconds of `10`, `10s`, `1m`, `1h30m`. Raises ValueError."""
    match = DURATION.fullmatch(text.strip())
    if not text.strip() or match is None:
        raise ValueError("is not a duration like 10, 10s, 1m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def memory(text: str) -> int | None:
    """Return bytes of a Kubernetes quantity, None for `none`. Raises ValueError."""
    if text.strip().lower() in {"none", ""}:
        return None
    try:
        amount = parse_quantity(text).bytes_ceil()
    except ValueError as error:
        raise ValueError(f"is no quantity: {error}") from error
    if amount < 0:
        raise ValueError("is negative")
    return amount


def amount(text: str) -> int:
    """Return bytes of a Kubernetes quantity. Raises ValueError."""
    return memory(text) or 0


def lasting(least_seconds: float, *, or_zero: bool = False) -> Callable[[str], float]:
    """Return a parser of a duration from *least_seconds* up to 30 days, and of 0 where that means never."""

    def parse(text: str) -> float:
        seconds = duration(text)
        if or_zero and seconds == 0:
            return seconds
        if seconds < least_seconds:
            raise ValueError(f"must be {'0, or ' if or_zero else ''}at least {least_seconds:g}s")
        if seconds > LONGEST_SECONDS:
            raise ValueError("is longer than 30 days")
        return seconds

    return parse


def rate(text: str) -> int | None:
    """Return bytes a second, None for `none`. Raises ValueError."""
    bytes_a_second = memory(text)
    if bytes_a_second is not None and bytes_a_second < SLOWEST:
        raise ValueError("must be at least 1Ki, or none")
    return bytes_a_second


def at_once(text: str) -> int:
    """Return how many may run side by side. Raises ValueError."""
    return _whole(text, 1, MOST_AT_ONCE)


def port(text: str) -> int:
    """Return a TCP port, 0 for any free one. Raises ValueError."""
    return _whole(text, 0, 65535)


def other_port(text: str) -> int:
    """Return the TCP port of somebody else. Raises ValueError."""
    return _whole(text, 1, 65535)


def server_url(text: str) -> str | None:
    """Return the address of a model server, None where none is given. Raises ValueError."""
    if not text:
        return None
    try:
        parts = urlsplit(text)
        if parts.scheme == "unix" and not parts.netloc and unquote(parts.path).startswith("/"):
            return text
        if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
            return text
    except ValueError:
        pass  # a port or a bracket that is none: told as the others are
    raise ValueError("is not the address of a server: http://host:port, https://host:port or unix:///path")


def switch(text: str) -> bool:
    """Return a truth value as Go's flag package reads it. Raises ValueError."""
    if text.lower() in {"1", "t", "true", "yes"}:
        return True
    if text.lower() in {"0", "f", "false", "no", ""}:
        return False
    raise ValueError("is not true or false")


def optional_count(text: str) -> int | None:
    """Return a whole number, None for `none`. Raises ValueError."""
    return None if text.lower() in {"none", ""} else _whole(text, 1, 10**6)


def _whole(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("is not a whole number") from None
    if not least <= number <= most:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return number


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that takes exactly *choices*."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return text

    return parse


def optional_networks(text: str) -> tuple[Network, ...] | None:
    """Return the networks of a list, None where nothing is said. Raises ValueError."""
    return networks(text) if text else None


def plain(error: ValueError) -> str:
    """Return what is wrong with a text, in words of ours."""
    text = str(error)
    return "is not a whole number" if text.startswith("invalid literal") else text
