"""The parameters' table agrees with everything that it speaks of. Needs no ROS."""

from dataclasses import fields

import pytest

from world_model_ros.errors import UserError
from world_model_ros.nodes import parameters
from world_model_ros.planning.config import OPTIONS, PlannerConfig
from world_model_ros.sim.tasks import task_names


def named(node):
    return {p.name: p for p in parameters.PARAMETERS[node]}


def test_every_option_of_the_planner_is_a_parameter_with_the_same_words_and_range():
    declared = named("planner_node")
    for field in fields(PlannerConfig):
        parameter, option = declared[field.name], OPTIONS[field.name]
        assert parameter.description.startswith(option.description)
        assert (parameter.high, parameter.choices) == (option.high, option.choices)
        if field.default is None:
            assert parameter.default == parameter.low < option.low
            assert parameter.description.endswith(f" {parameter.default:g}: {option.unset}.")
        else:
            assert (parameter.default, parameter.low) == (field.default, option.low)


def test_the_parameters_defaults_are_the_planners():
    values = {p.name: p.default for p in parameters.PARAMETERS["planner_node"]}
    assert parameters.planner_config(values) == PlannerConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, option.high) for name, option in OPTIONS.items() if not option.choices],
        *[(name, option.low) for name, option in OPTIONS.items() if not option.choices],
        *[(name, choice) for name, option in OPTIONS.items() for choice in option.choices],
    ],
)
def test_what_the_planner_takes_the_node_takes(name, value):
    assert named("planner_node")[name].problem(value) == ""
    values = {p.name: p.default for p in parameters.PARAMETERS["planner_node"]} | {name: value}
    if name == "elites":
        values["samples"] = OPTIONS["samples"].high
    assert getattr(parameters.planner_config(values), name) == value


def test_what_lies_between_a_range_and_its_default_is_refused():
    values = {p.name: p.default for p in parameters.PARAMETERS["planner_node"]}
    with pytest.raises(UserError, match=r"correlation must be from 0 to 0.999, it is -0.5"):
        parameters.planner_config(values | {"correlation": -0.5})


def test_the_default_task_is_one_of_the_simulation():
    assert named("sim_node")["task"].default in task_names()
