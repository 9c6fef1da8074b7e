"""Settings of the planner, and what suits which objective."""

import math
from dataclasses import dataclass, replace

from world_model_ros.errors import UserError
from world_model_ros.planning.cem import CEM, ICEM
from world_model_ros.planning.fast_rollout import PRECISIONS
from world_model_ros.planning.gradient import GradientRefinement
from world_model_ros.planning.mppi import MPPI

SOLVERS: dict[str, type[CEM]] = {"cem": CEM, "icem": ICEM, "mppi": MPPI, "gradient": GradientRefinement}
OBJECTIVES = ("auto", "squared", "temporal")
PROPOSALS = ("auto", "none", "inverse_dynamics")
# The squared distance is flat far from the goal, so some first candidates must come near it: wide and
# nearly straight ones do. The temporal distance shows the way from afar.
# What contact makes of a push is harder to search than a way through the air.
DEFAULTS = {
    "squared": {
        "solver": "icem",
        "samples": 48,
        "elites": 4,
        "iterations": 1,
        "first_solve_multiplier": 1,
        "initial_std": 1.5,
        "correlation": 0.97,
        "stand_still_margin": 0.0,
        "time_cost": 4.0,
        "replan_tolerance": math.inf,
        "ood_penalty": 0.0,
        "squared_distance_weight": 0.0,
        "horizon": 5,
    },
    "temporal": {
        "solver": "icem",
        "samples": 48,
        "elites": 6,
        "iterations": 3,
        "first_solve_multiplier": 3,
        "initial_std": 1.0,
        "correlation": 0.9,
        "stand_still_margin": 0.5,
        "time_cost": 0.0,
        "replan_tolerance": 1.0,
        "ood_penalty": 10.0,
        "squared_distance_weight": 2.0,
        "horizon": 8,
    },
}
# Without proposals the goal's valley is found by chance, which takes candidates.
DEFAULTS_WITHOUT_PROPOSALS = {
    "squared": {
        "solver": "cem",
        "samples": 64,
        "elites": 8,
        "iterations": 4,
        "first_solve_multiplier": 2,
        "time_cost": 0.0,
    },
    "temporal": {"solver": "cem", "samples": 128, "elites": 12, "iterations": 6, "first_solve_multiplier": 2},
}


@dataclass(frozen=True)
class PlannerConfig:
    """Settings of the planner; None is what suits the objective, on one CPU thread (``DEFAULTS``)."""

    samples: int | None = None  # candidates, in the first iteration
    elites: int | None = None
    iterations: int | None = None
    first_solve_multiplier: int | None = (
        None  # times as many samples where the moment of arrival is chosen, on the way
    )
    horizon: int | None = None  # model steps
    initial_std: float | None = None  # in z-scores
    correlation: float | None = None  # between neighbouring control steps
    # What a plan must promise over standing still, where the moment of arrival is chosen; in units of the
    # objective. At the goal every plan promises a little, and moving away is what it does.
    stand_still_margin: float | None = None
    # What each model step until the arrival costs, where its moment is chosen, in the same units.
    time_cost: float | None = None
    # How much worse than promised a plan may become, in the same units, before its arrival is chosen anew:
    # when contact went otherwise than imagined, the steps that are left may not do.
    replan_tolerance: float | None = None
    # What a future costs whose latents have smaller norms than any in training, in the same units for each
    # unit of norm; where the checkpoint has no range of norms, nothing.
    ood_penalty: float | None = None
    # What the squared distance adds to the objective, at most and in the same units: it grows near the goal,
    # where the temporal distance is coarse, and is as good as constant elsewhere.
    squared_distance_weight: float | None = None
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
        for name in ("ood_penalty", "squared_distance_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"{name} must be 0 or more and finite, it is {value}.")
        if self.first_solve_multiplier is not None and self.first_solve_multiplier < 1:
            raise UserError(
                f"first_solve_multiplier must be at least 1, it is {self.first_solve_multiplier}."
            )
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
        suited = DEFAULTS[objective] | (DEFAULTS_WITHOUT_PROPOSALS[objective] if proposal == "none" else {})
        open_ones = {k: v for k, v in suited.items() if getattr(self, k) in (None, "auto")}
        return replace(self, objective=objective, proposal=proposal, **open_ones)

    def make_solver(self) -> CEM:
        """Return the solver with these settings; what is open is taken as for the squared distance."""
        names = ("solver", "samples", "elites", "iterations", "initial_std", "correlation")
        given = {name: getattr(self, name) for name in names}
        suited = {k: DEFAULTS["squared"][k] if v in (None, "auto") else v for k, v in given.items()}
        return SOLVERS[suited.pop("solver")](**suited)
