"""How far a download is, as it is told. By itself, so that who moves bytes need not know of plans."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProgressReading:
    """How far a download is. Bytes; `total_bytes`, the rate and the time left are None where unknown."""

    bytes: int
    total_bytes: int | None
    bytes_per_second: float | None
    eta_seconds: float | None
