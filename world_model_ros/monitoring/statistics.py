"""Metrics for diagnostics: percentiles of the newest values, and rates."""

from collections import deque

import numpy as np


def percentiles(milliseconds: np.ndarray) -> dict[str, float]:
    """Return p50_ms, p95_ms, p99_ms and n."""
    values = {f"p{p}_ms": float(np.percentile(milliseconds, p)) for p in (50, 95, 99)}
    return {**values, "n": len(milliseconds)}


class Percentiles:
    """The newest values of one quantity."""

    def __init__(self, kept: int = 200):
        self._values: deque[float] = deque(maxlen=kept)

    def add(self, value: float) -> None:
        """Add a value."""
        self._values.append(value)

    def metrics(self, name: str) -> dict[str, str]:
        """Return {name_p50, name_p99, name_last: text}; empty without values."""
        if not self._values:
            return {}
        p50, p99 = np.percentile(self._values, (50, 99))
        at = {"p50": p50, "p99": p99, "last": self._values[-1]}
        return {f"{name}_{key}": f"{value:.1f}" for key, value in at.items()}


class Rate:
    """How often something comes, over the newest arrivals; times in seconds of any one clock."""

    def __init__(self, kept: int = 30):
        self._moments: deque[float] = deque(maxlen=kept)

    def heard(self, moment: float) -> None:
        """Note an arrival."""
        if self._moments and moment < self._moments[-1]:
            self._moments.clear()
        self._moments.append(moment)

    def metrics(self, name: str, now: float) -> dict[str, str]:
        """Return {name_hz, name_age_s: text}; empty before the first."""
        if not self._moments:
            return {}
        span = self._moments[-1] - self._moments[0]
        metrics = {f"{name}_age_s": f"{max(0.0, now - self._moments[-1]):.2f}"}
        if span > 0:
            metrics[f"{name}_hz"] = f"{(len(self._moments) - 1) / span:.1f}"
        return metrics
