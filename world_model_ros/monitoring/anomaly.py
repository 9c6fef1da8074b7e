"""Anomaly detection: model steps with too large a surprise, or a latent norm out of distribution.

The thresholds are those of the checkpoint, computed by training/calibrate.py.
"""

import math
from collections import deque
from dataclasses import dataclass

NORM_MARGIN = 0.2  # of the range's width, on either side
RECENT = 100  # model steps of which the share without a surprise is watched
ENOUGH = 20  # of them, before that share counts
SHARE = 0.05  # of them that may go without a surprise

START = "at the start"
NO_FRAME = "no frame near their start"
NO_COMMANDS = "command/executed did not tell what the robot did"
TOO_SHORT = "too few steps since the last gap"


@dataclass
class AnomalyRules:
    """How many anomalous model steps in a row ask for a HOLD, and how many normal ones end it."""

    trigger: int = 3
    clear: int = 3


def usual_norms(low: float | None, high: float | None) -> tuple[float, float] | None:
    """Return the latent norms that count as usual, given the range of held-out data; None without one."""
    if low is None or high is None:
        return None
    margin = NORM_MARGIN * (high - low)
    return low - margin, high + margin


class AnomalyMonitor:
    """One verdict a model step, from the one-step error and the latent's norm.

    threshold: of the squared error; norm_low, norm_high: the range of latent norms, calibrated on
    held-out data. None where the checkpoint has none: that check is then left out.
    """

    def __init__(
        self,
        threshold: float | None,
        norm_low: float | None,
        norm_high: float | None,
        rules: AnomalyRules | None = None,
    ):
        self.rules = rules or AnomalyRules()
        self.threshold = threshold
        self.usual_norms = usual_norms(norm_low, norm_high)
        self.counts = {"surprises": 0, "out_of_distribution": 0}
        self.reason = ""  # why the robot should be kept still; empty: no reason
        self._bad = self._good = 0

    def step(self, error: float | None, norm: float) -> str:
        """Take a model step's squared error (None: nothing was predicted) and norm; return ``reason``.

        A step without a prediction is neither anomalous nor normal, unless its norm is out of range.
        """
        anomaly = self._anomaly(error, norm)
        if anomaly:
            self._bad, self._good = self._bad + 1, 0
            if self._bad >= self.rules.trigger and not self.reason:
                self.reason = f"for {self._bad} model steps in a row {anomaly}"
        elif error is not None or self.threshold is None:
            self._bad, self._good = 0, self._good + 1
            if self._good >= self.rules.clear:
                self.reason = ""
        return self.reason

    def _anomaly(self, error: float | None, norm: float) -> str:
        if not math.isfinite(norm) or (error is not None and not math.isfinite(error)):
            return "the latent is not finite"
        if self.usual_norms is not None and not self.usual_norms[0] <= norm <= self.usual_norms[1]:
            self.counts["out_of_distribution"] += 1
            shown, low, high = distinct(norm, *self.usual_norms)
            return (
                f"the picture is like none seen in training (latent norm {shown}, {low} to {high} is usual): "
                "clear the camera's view or put the camera back where it was; command/reset lets the robot "
                "move slowly in spite of it, for override_time of command_node"
            )
        if self.threshold is not None and error is not None and error > self.threshold:
            self.counts["surprises"] += 1
            shown, bound = distinct(error, self.threshold)
            return f"the world does not do what the model expects (surprise {shown}, {bound} is the bound)"
        return ""


def distinct(value: float, *bounds: float) -> list[str]:
    """Return numbers as texts, with so many digits that the value reads differently from each bound."""
    for digits in range(1, 17):
        shown, *others = texts = [f"{number:.{digits}f}" for number in (value, *bounds)]
        if shown not in others:
            break
    return texts


class JudgedSteps:
    """Counts model steps by whether they were judged; the reasons are the constants above."""

    def __init__(self):
        self.judged = 0
        self.not_judged: dict[str, int] = {}
        self._recent: deque[str] = deque(maxlen=RECENT)  # why not, or ""

    def add(self, why_not: str = "", count: int = 1) -> None:
        """Note that ``count`` model steps were judged, or why they were not."""
        if why_not:
            self.not_judged[why_not] = self.not_judged.get(why_not, 0) + count
        else:
            self.judged += count
        if why_not != START:  # nobody can do anything about that
            self._recent.extend([why_not] * min(count, RECENT))

    def problem(self) -> str:
        """Return a sentence where too many of the recent steps were not judged, or ""."""
        missing = [why_not for why_not in self._recent if why_not]
        if len(self._recent) < ENOUGH or len(missing) <= SHARE * len(self._recent):
            return ""
        return (
            f"surprise was not judged on {len(missing)} of the last {len(self._recent)} model steps: "
            f"{_listed({why_not: missing.count(why_not) for why_not in dict.fromkeys(missing)})}"
        )

    def metrics(self) -> dict[str, object]:
        """Return what the diagnostics show."""
        return {
            "steps_judged": self.judged,
            "steps_not_judged": sum(self.not_judged.values()),
            "not_judged_why": _listed(self.not_judged),
        }


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {why_not}" for why_not, count in counts.items())
