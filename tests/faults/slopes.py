"""Whether a number grows: the least-squares slope of samples, the warm-up left out."""

from collections.abc import Sequence

WARM_UP = 0.3


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """How much a number grows by for one of x, by the samples (x, number) after the warm-up."""
    rest = samples[int(len(samples) * WARM_UP) :]
    mean_x = sum(x for x, _ in rest) / len(rest)
    mean_y = sum(y for _, y in rest) / len(rest)
    spread = sum((x - mean_x) ** 2 for x, _ in rest)
    return sum((x - mean_x) * (y - mean_y) for x, y in rest) / spread


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """How much it grew by that slope over the time that was looked at."""
    rest = samples[int(len(samples) * WARM_UP) :]
    return slope(samples) * (rest[-1][0] - rest[0][0])
