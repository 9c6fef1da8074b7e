"""The parameters' table agrees with everything that it speaks of. Needs no ROS."""

from pathlib import Path

import pytest

from world_model_ros.nodes import parameters
from world_model_ros.planning.config import OBJECTIVES, PROPOSALS, PlannerConfig
from world_model_ros.planning.precision import PRECISIONS
from world_model_ros.planning.solvers import SOLVERS
from world_model_ros.sim.tasks import task_names

ROOT = Path(__file__).resolve().parents[2]


def named(node):
    return {p.name: p for p in parameters.PARAMETERS[node]}


def test_the_readme_has_the_table_as_the_declarations_make_it():
    text = (ROOT / "README.md").read_text()
    begin, end = "<!-- parameters -->\n", "\n<!-- end of parameters -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)]
    assert shown == parameters.table().strip(), "run python -m world_model_ros.nodes.parameters"


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("solver", ("auto", *SOLVERS)),
        ("objective", OBJECTIVES),
        ("proposal", PROPOSALS),
        ("precision", PRECISIONS),
    ],
)
def test_what_can_be_chosen_is_what_the_planner_knows(name, choices):
    assert set(named("planner_node")[name].choices) == set(choices)


def test_defaults_are_the_planners_own():
    default = PlannerConfig()
    for name in ("solver", "objective", "proposal", "precision", "seed"):
        assert named("planner_node")[name].default == getattr(default, name), name


def test_the_default_task_is_one_of_the_simulation():
    assert named("sim_node")["task"].default in task_names()
