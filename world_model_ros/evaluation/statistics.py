"""Numbers with their uncertainty."""

import math

import numpy as np


def wilson_interval(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (95 % by default).

    Unlike the normal approximation it stays inside [0, 1] and is honest at 0 and 100 %
    (Wilson 1927). Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials is no proportion")
    p, z2 = successes / n, z * z
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at 0 and n of n the bounds are 0 and 1 exactly, up to rounding
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def percentile(values, q: float) -> float | None:
    """Return the q-th percentile, linearly interpolated; None of nothing."""
    return float(np.percentile(values, q)) if len(values) else None
