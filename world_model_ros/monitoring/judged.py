"""On how many model steps surprise was judged, and why not on the others."""

from collections import deque

RECENT = 100  # model steps
ENOUGH = 20  # of them, before a share of them says anything
SHARE = 0.05  # of them that may go without a judgement

START = "at the start"
NO_FRAME = "no frame near their start"
NO_COMMANDS = "command/executed did not tell what the robot did"
HISTORY = "too few steps since the last gap"


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
