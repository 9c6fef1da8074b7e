"""The planner's options: the only list of them, and the defaults of each objective.

The options of ``evaluate``, the parameters of planner_node and docs/reference.md are made from it.
Importing this imports no torch.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from world_model_ros.errors import UserError

if TYPE_CHECKING:
    from world_model_ros.model.config import CheckpointSpec
    from world_model_ros.planning.cem import CEM

SOLVERS = ("auto", "cem", "icem", "mppi", "gradient")
OBJECTIVES = ("auto", "squared", "temporal", "object")
PROPOSALS = ("auto", "none", "inverse_dynamics")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# The squared distance is flat far from the goal, so some first candidates must come near it: a large spread
# and a high correlation make such candidates. The temporal distance has a slope far from the goal, too, but
# is used for pushing, and motion with contact is harder to search than free motion.
_TEMPORAL = {
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
    "risk_penalty": 20.0,
    "squared_distance_weight": 2.0,
    "horizon": 8,
}
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
        "risk_penalty": 100.0,
        "squared_distance_weight": 0.0,
        "horizon": 5,
    },
    "temporal": _TEMPORAL,
    # Its units are standard deviations of codes.
    "object": _TEMPORAL
    | {
        "stand_still_margin": 0.07,
        "risk_penalty": 100.0,
        "replan_tolerance": 0.35,
        "ood_penalty": 0.0,
        "squared_distance_weight": 0.0,
    },
}
# Without proposals only random candidates come near the goal, which takes more of them.
_WIDE = {"solver": "cem", "samples": 128, "elites": 12, "iterations": 6, "first_solve_multiplier": 2}
DEFAULTS_WITHOUT_PROPOSALS = {
    "squared": {
        "solver": "cem",
        "samples": 64,
        "elites": 8,
        "iterations": 4,
        "first_solve_multiplier": 2,
        "time_cost": 0.0,
    },
    "temporal": _WIDE,
    "object": _WIDE,
}
# The more candidates one predictor is asked about, the more of the cheapest it is wrong about: of 80 goals of
# push in a row 70 were reached with 48 samples, 69 with 128; with an ensemble 146 of 160, with 96 of it 153.
DEFAULTS_WITH_ENSEMBLE = {"squared": {}, "temporal": {}, "object": {"samples": 96, "elites": 8}}


@dataclass(frozen=True)
class Option:
    """What one option means and which values it takes."""

    description: str  # a sentence; says the unit
    low: float | None = None  # inclusive, as is ``high``; an int where the option is a whole number
    high: float | None = None
    choices: tuple[str, ...] = ()
    unset: str = "the objective's default"  # what None stands for

    @property
    def kind(self) -> type:
        """The type of its values: int, float or str."""
        return str if self.choices else type(self.low)

    def check(self, name: str, value) -> None:
        """Raise UserError where ``value`` is out of range or no choice."""
        if self.choices and value not in self.choices:
            raise UserError(f"{name} {value!r} is unknown: choose {', '.join(self.choices)}.")
        if not self.choices and value is not None and not self.low <= value <= self.high:
            raise UserError(f"{name} must be from {self.low:g} to {self.high:g}, it is {value}.")


def _number(description: str, low: float, high: float, default: float | None = None, **more):
    return field(default=default, metadata={"option": Option(description, low, high, **more)})


def _choice(description: str, choices: tuple[str, ...], default: str):
    return field(default=default, metadata={"option": Option(description, choices=choices)})


@dataclass(frozen=True)
class PlannerConfig:
    """Options of the planner; None and "auto" leave the choice to ``DEFAULTS``, measured on one CPU thread.

    Costs are in units of the objective: squared latent distance, model steps to the goal, or standard
    deviations of object codes.
    """

    horizon: int | None = _number("Longest plan, in model steps.", 1, 50)
    solver: str = _choice("Search algorithm; auto: the objective's default.", SOLVERS, "auto")
    samples: int | None = _number("Candidate plans in the first iteration of a solve.", 2, 10000)
    elites: int | None = _number("Cheapest candidates, to which the next iteration is fitted.", 2, 1000)
    iterations: int | None = _number("Iterations of a solve.", 1, 100)
    first_solve_multiplier: int | None = _number(
        "Factor on samples in a solve that also chooses the time of arrival, except at the goal.", 1, 100
    )
    initial_std: float | None = _number(
        "Standard deviation of the actions in the first iteration, in z-scores.", 0.001, 10.0
    )
    correlation: float | None = _number(
        "Correlation of the sampled actions between neighbouring control steps; 0 is white noise.", 0.0, 0.999
    )
    objective: str = _choice(
        "Cost of a plan: squared (latent distance to the goal), temporal (predicted model steps to the "
        "goal), object (distance of what the robot does not move directly) or auto: object, or else "
        "temporal, where the checkpoint has that head.",
        OBJECTIVES,
        "auto",
    )
    proposal: str = _choice(
        "Source of additional first candidates; auto: inverse_dynamics where the checkpoint has that head "
        "and its R2 on held-out episodes, for arrivals in 5, is above 0.",
        PROPOSALS,
        "auto",
    )
    # At the goal every plan is predicted to save a little, but in fact moves the robot away.
    stand_still_margin: float | None = _number(
        "Cost that a plan must save over standing still, in units of the objective; otherwise the robot "
        "stands still.",
        0.0,
        1e6,
    )
    time_cost: float | None = _number(
        "Cost of each model step until the arrival, in units of the objective.", 0.0, 1e6
    )
    # After unexpected contact the remaining model steps may be too few.
    replan_tolerance: float | None = _number(
        "Increase of a plan's cost over the previous plan's, in units of the objective, above which the time "
        "of arrival is chosen again.",
        0.0,
        math.inf,
    )
    ood_penalty: float | None = _number(
        "Cost of predicted latents whose norm is below the checkpoint's range of latent norms, for each unit "
        "of norm, in units of the objective.",
        0.0,
        1e6,
    )
    risk_penalty: float | None = _number(
        "Cost of a plan that makes the event of the checkpoint's risk head certain, in units of the "
        "objective; in proportion where it is less probable. Without that head it has no effect.",
        0.0,
        1e6,
    )
    risk_variants: int = _number(
        "Variants of a plan, each with another shift of its first block; a tenth of risk_penalty times their "
        "mean risk is added to the plan's cost. 0: none.",
        0,
        64,
        default=4,
    )
    ensemble: int = _number(
        "Further predictors of the checkpoint that judge the cheapest candidates, at most.", 0, 16, default=16
    )
    landmarks: int = _number(
        "1: aim at the checkpoint's landmarks, where it has some, on the way to a far goal. 0: aim at the "
        "goal only.",
        0,
        1,
        default=1,
    )
    # It changes near the goal, where the temporal distance is coarse, and is nearly constant elsewhere.
    squared_distance_weight: float | None = _number(
        "Largest cost that the squared latent distance adds to the objective, in units of the objective.",
        0.0,
        1e6,
    )
    reached_steps: int = _number(
        "Model steps in a row within the checkpoint's threshold after which the goal counts as reached and "
        "the robot stands still, until it was above 1.5 times the threshold for as many. 0: never.",
        0,
        1000,
        default=4,
    )
    impasse_steps: int = _number(
        "Model steps in a row in which the object distance did not become smaller by more than "
        "stand_still_margin, after which the robot moves elsewhere before it plans on, such as 8; only where "
        "a second predictor judges plans too, and not near the goal. 0: never.",
        0,
        1000,
        default=0,
    )
    surprise_steps: int = _number(
        "Model steps in a row in which what the robot did led elsewhere than the model expects, by more than "
        "the surprise threshold, after which it moves elsewhere before it plans on; only where a second "
        "predictor judges plans too, and not near the goal. 0: never.",
        0,
        1000,
        default=2,
    )
    precision: str = _choice(
        "Number format of the predictions; auto: bf16 where a second predictor judges plans too and the "
        "processor multiplies in bf16, else fp32. fp16: fused kernels on a GPU.",
        PRECISIONS,
        "auto",
    )
    deadline: float | None = _number(
        "Time for one plan, in milliseconds: the solver stops after its last iteration that fits.",
        0.001,
        60000.0,
        unset="no limit",
    )
    seed: int = _number("Seed of the sampled actions.", 0, 2**63 - 1, default=0)

    def __post_init__(self):
        """Raise UserError for values out of range and for more elites than samples."""
        for name, option in OPTIONS.items():
            option.check(name, getattr(self, name))
        if self.elites is not None and self.samples is not None and self.elites > self.samples:
            raise UserError(
                f"elites must lie between 2 and samples, they are {self.elites} of {self.samples}."
            )

    def resolved(
        self, temporal: bool, inverse: bool, moved: bool = False, members: int = 0, bf16: bool = False
    ) -> "PlannerConfig":
        """Return these options with every default filled in, for a checkpoint with these heads or without.

        ``moved`` is whether it has an object-distance head, members how many further predictors it has, bf16
        whether the processor multiplies in bf16.
        """
        objective, proposal, precision = self.objective, self.proposal, self.precision
        if precision == "auto":
            # With an ensemble alone is it known that as many goals are reached: 156 of 160 in either.
            precision = "bf16" if bf16 and members and self.ensemble else "fp32"
        if objective == "auto":
            objective = "object" if moved else "temporal" if temporal else "squared"
        if proposal == "auto":
            proposal = "inverse_dynamics" if inverse else "none"
        defaults = DEFAULTS[objective]
        if proposal == "none":
            defaults = defaults | DEFAULTS_WITHOUT_PROPOSALS[objective]
        elif members and self.ensemble:
            defaults = defaults | DEFAULTS_WITH_ENSEMBLE[objective]
        unset = {k: v for k, v in defaults.items() if getattr(self, k) in (None, "auto")}
        return replace(self, objective=objective, proposal=proposal, precision=precision, **unset)

    def for_checkpoint(self, spec: "CheckpointSpec") -> "PlannerConfig":
        """Return these options with every default filled in, for a checkpoint that plans on this CPU."""
        from world_model_ros.model.checkpoint import multiplies_in_bf16

        model = spec.model
        return self.resolved(
            model.temporal_hidden > 0,
            model.inverse_hidden > 0 and proposes(spec),
            model.object_hidden > 0,
            model.ensemble,
            multiplies_in_bf16(),
        )

    def make_solver(self) -> "CEM":
        """Return the solver with these options; the defaults are those of the squared distance."""
        names = ("solver", "samples", "elites", "iterations", "initial_std", "correlation")
        given = {name: getattr(self, name) for name in names}
        values = {k: DEFAULTS["squared"][k] if v in (None, "auto") else v for k, v in given.items()}
        return solver_classes()[values.pop("solver")](**values)


def proposes(spec: "CheckpointSpec") -> bool:
    """Return whether the inverse-dynamics head tells more of held-out actions than their mean does.

    After few episodes it does not, and the search is better off without its proposals: with 30 episodes of a
    robot with two joints 94 of 100 goals were reached without them, 82 with them.
    """
    judged = spec.training.get("validation")
    value = judged.get("inverse_5") if isinstance(judged, dict) else None
    return value > 0 if isinstance(value, (int, float)) else True


def solver_classes() -> dict[str, "type[CEM]"]:
    """Return the solvers by name; this imports torch."""
    from world_model_ros.planning.cem import CEM, ICEM
    from world_model_ros.planning.gradient import GradientRefinement
    from world_model_ros.planning.mppi import MPPI

    return {"cem": CEM, "icem": ICEM, "mppi": MPPI, "gradient": GradientRefinement}


OPTIONS: dict[str, Option] = {f.name: f.metadata["option"] for f in fields(PlannerConfig)}
