"""The solvers by name."""

from world_model_ros.planning.cem import CEM, ICEM
from world_model_ros.planning.gradient import GradientRefinement
from world_model_ros.planning.mppi import MPPI
from world_model_ros.planning.solver import SamplingSolver

SOLVERS: dict[str, type[SamplingSolver]] = {
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "gradient": GradientRefinement,
}
