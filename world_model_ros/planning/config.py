"""Settings of the planner, and what suits which objective."""

import math
from dataclasses import dataclass, replace

from world_model_ros.errors import UserError
from world_model_ros.planning.precision import PRECISIONS
from world_model_ros.planning.solver import SamplingSolver
from world_model_ros.planning.solvers import SOLVERS

OBJECTIVES = ("auto", "squared", "temporal")
PROPOSALS = ("auto", "none", "inverse_dynamics")
# The squared distance is flat far from the goal, so some first candidates must come near it: wide and
# nearly straight ones do. The temporal distance shows the way from afar.
# What contact makes of a push is harder to search than a way through the air.
SUITED = {
    "squared": {
        "solver": "icem",
        "samples": 48,
        "elites": 4,
        "iterations": 1,
        "widening": 1,
        "initial_std": 1.5,
        "correlation": 0.97,
        "worth_moving": 0.0,
        "haste": 4.0,
        "tolerance": math.inf,
        "doubt": 0.0,
        "sharpness": 0.0,
        "horizon": 5,
    },
    "temporal": {
        "solver": "icem",
        "samples": 48,
        "elites": 6,
        "iterations": 3,
        "widening": 3,
        "initial_std": 1.0,
        "correlation": 0.9,
        "worth_moving": 0.5,
        "haste": 0.0,
        "tolerance": 1.0,
        "doubt": 10.0,
        "sharpness": 2.0,
        "horizon": 8,
    },
}
# Without proposals the goal's valley is found by chance, which takes candidates.
BY_CHANCE = {
    "squared": {"solver": "cem", "samples": 64, "elites": 8, "iterations": 4, "widening": 2, "haste": 0.0},
    "temporal": {"solver": "cem", "samples": 128, "elites": 12, "iterations": 6, "widening": 2},
}


@dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner; None is what suits the objective, on one CPU thread (``SUITED``)."""

    samples: int | None = None  # candidates, in the first iteration
    elites: int | None = None
    iterations: int | None = None
    widening: int | None = None  # times as many samples where the moment of arrival is chosen, on the way
    horizon: int | None = None  # model steps
    initial_std: float | None = None  # in z-scores
    correlation: float | None = None  # between neighbouring control steps
    # What a plan must promise over standing still, where the moment of arrival is chosen; in units of the
    # objective. At the goal every plan promises a little, and moving away is what it does.
    worth_moving: float | None = None
    # What each model step until the arrival costs, where its moment is chosen, in the same units.
    haste: float | None = None
    # How much worse than promised a plan may become, in the same units, before its arrival is chosen anew:
    # when contact went otherwise than imagined, the steps that are left may not do.
    tolerance: float | None = None
    # What a future costs whose latents leave the shell of norms inwards, in the same units for each unit of
    # norm; where the checkpoint has no shell, nothing.
    doubt: float | None = None
    # What the squared distance adds to the objective, at most and in the same units: it grows near the goal,
    # where the temporal distance is coarse, and is as good as constant elsewhere.
    sharpness: float | None = None
    solver: str = "auto"  # one of SOLVERS, or what suits the objective
    precision: str = "fp32"  # or bf16, of the imagination
    objective: str = "auto"  # squared, temporal, or temporal where the checkpoint has that head
    proposal: str = "auto"  # none, inverse_dynamics, or that where the checkpoint has the head
    deadline: float | None = None  # ms a plan may take: the solver stops at its last finished iteration
    seed: int = 0

    def __post_init__(self):
        """Raise UserError where the settings make no sense: people choose them."""
        if self.horizon is not None and self.horizon < 1:
            raise UserError(f"horizon must be at least 1 model step, it is {self.horizon}.")
        if self.objective not in OBJECTIVES:
            raise UserError(f"objective {self.objective!r} is unknown: choose {', '.join(OBJECTIVES)}.")
        if self.deadline is not None and not self.deadline > 0:
            raise UserError(f"deadline must be positive, it is {self.deadline} ms.")
        for name in ("doubt", "sharpness"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} must be 0 or more and finite, it is {value}.")
        if self.widening is not None and self.widening < 1:
            raise UserError(f"widening must be at least 1, it is {self.widening}.")
        if self.proposal not in PROPOSALS:
            raise UserError(f"proposal {self.proposal!r} is unknown: choose {', '.join(PROPOSALS)}.")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r} is unknown: choose {', '.join(PRECISIONS)}.")
        if self.solver not in ("auto", *SOLVERS):
            raise UserError(f"solver {self.solver!r} is unknown: choose auto, {', '.join(SOLVERS)}.")
        # Elites are judged against the samples, which may still be open: then again once they are not.
        open_samples = self.elites is not None and self.samples is None
        try:
            (replace(self, elites=None) if open_samples and self.elites >= 2 else self).make_solver()
        except ValueError as error:
            raise UserError(f"{error}.") from None

    def resolved(self, temporal: bool, inverse: bool) -> "PlannerConfig":
        """Return these settings with nothing left open, for a checkpoint with these heads or without."""
        objective, proposal = self.objective, self.proposal
        if objective == "auto":
            objective = "temporal" if temporal else "squared"
        if proposal == "auto":
            proposal = "inverse_dynamics" if inverse else "none"
        suited = SUITED[objective] | (BY_CHANCE[objective] if proposal == "none" else {})
        open_ones = {k: v for k, v in suited.items() if getattr(self, k) in (None, "auto")}
        return replace(self, objective=objective, proposal=proposal, **open_ones)

    def make_solver(self) -> SamplingSolver:
        """Return the solver with these settings; what is open is taken as for the squared distance."""
        names = ("solver", "samples", "elites", "iterations", "initial_std", "correlation")
        given = {name: getattr(self, name) for name in names}
        suited = {k: SUITED["squared"][k] if v in (None, "auto") else v for k, v in given.items()}
        return SOLVERS[suited.pop("solver")](**suited)
