"""Whether the world still behaves as the model expects: surprise, and latents off their shell."""

import math
from dataclasses import dataclass

NORM_MARGIN = 0.1  # of the shell's width, on either side


@dataclass
class DoubtRules:
    """How many model steps in a row it takes to doubt, and to trust again."""

    doubtful: int = 3
    calm: int = 3


class Doubt:
    """One verdict a model step, from the one-step error and the latent's norm.

    threshold: of the squared error; norm_low, norm_high: the shell that latents lie on, calibrated on
    held-out data. None where the checkpoint has none: that sign is then not looked at.
    """

    def __init__(
        self,
        threshold: float | None,
        norm_low: float | None,
        norm_high: float | None,
        rules: DoubtRules | None = None,
    ):
        self.rules = rules or DoubtRules()
        self.threshold = threshold
        self.shell = None
        if norm_low is not None and norm_high is not None:
            margin = NORM_MARGIN * (norm_high - norm_low)
            self.shell = (norm_low - margin, norm_high + margin)
        self.counts = {"surprises": 0, "off_the_shell": 0}
        self.reason = ""  # why the robot should be kept still; empty: no reason
        self._bad = self._good = 0

    def step(self, error: float | None, norm: float) -> str:
        """Take a model step's squared error (None: nothing was expected) and norm; return ``reason``.

        A step without an expectation says nothing about surprise, and ends no doubt.
        """
        sign = self._sign(error, norm)
        if sign:
            self._bad, self._good = self._bad + 1, 0
            if self._bad >= self.rules.doubtful and not self.reason:
                self.reason = f"{sign} for {self._bad} model steps in a row"
        elif error is not None or self.threshold is None:
            self._bad, self._good = 0, self._good + 1
            if self._good >= self.rules.calm:
                self.reason = ""
        return self.reason

    def _sign(self, error: float | None, norm: float) -> str:
        if not math.isfinite(norm) or (error is not None and not math.isfinite(error)):
            return "the latent is not finite"
        if self.shell is not None and not self.shell[0] <= norm <= self.shell[1]:
            self.counts["off_the_shell"] += 1
            return (
                f"the picture is like none seen in training (latent norm {norm:.1f}, "
                f"{self.shell[0]:.1f} to {self.shell[1]:.1f} is usual)"
            )
        if self.threshold is not None and error is not None and error > self.threshold:
            self.counts["surprises"] += 1
            return (
                "the world does not do what the model expects "
                f"(surprise {error:.1f}, {self.threshold:.1f} is the bound)"
            )
        return ""
