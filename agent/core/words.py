"""Numbers and strangers' words as people read them in messages."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: int) -> str:
    """Return a count of bytes with a binary unit and at most one decimal: `1.5 GiB`, `512 MiB`."""
    amount, unit = float(count), 0
    while abs(amount) >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    text = f"{amount:.1f}".removesuffix(".0")
    return f"{text} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return a time span in its largest fitting units: `8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    return f"{whole // 3600} h" + (f" {whole % 3600 // 60} min" if whole % 3600 // 60 else "")


def printable(text: str, limit: int = 1024) -> str:
    """Return *text* on one line, without control characters, in at most *limit* bytes of UTF-8.

    A long text loses its middle: a traceback says what it is about at its end.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    raw = line.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode()
    half = (limit - 5) // 2
    return f"{raw[:half].decode('utf-8', 'ignore')} ... {raw[-half:].decode('utf-8', 'ignore')}"


def seconds(span: float) -> str:
    """Return a time that something took: milliseconds where it is short."""
    return f"{span:.1f} s" if span >= 1 else f"{span * 1000:.0f} ms"
