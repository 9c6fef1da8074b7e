import math
import subprocess
import sys
from dataclasses import fields, replace

import pytest

from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
from world_model_ros.planning.config import (
    DEFAULTS,
    DEFAULTS_WITH_ENSEMBLE,
    DEFAULTS_WITHOUT_PROPOSALS,
    OPTIONS,
    PRECISIONS,
    SOLVERS,
    PlannerConfig,
    solver_classes,
)

NUMBERS = [name for name, option in OPTIONS.items() if not option.choices]


def test_every_field_is_an_option_with_a_sentence_and_a_range_or_choices():
    for field in fields(PlannerConfig):
        option = OPTIONS[field.name]
        assert option.description.endswith(".")
        assert bool(option.choices) != (option.low is not None)
        numbers = ("seed", "reached_steps", "risk_variants", "ensemble", "landmarks", "impasse_steps")
        numbers += ("surprise_steps",)
        assert field.default in option.choices or field.default is None or field.name in numbers


def test_the_choices_are_what_planning_has():
    from world_model_ros.planning import fast_rollout

    assert set(SOLVERS) == {"auto", *solver_classes()}
    assert set(PRECISIONS) == {"auto", *fast_rollout.PRECISIONS}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("members", [0, 1])
def test_the_defaults_leave_nothing_open_and_are_in_range(temporal, inverse, moved, members):
    config = PlannerConfig().resolved(temporal, inverse, moved, members)
    assert "auto" not in (config.solver, config.objective, config.proposal, config.precision)
    assert [f.name for f in fields(config) if getattr(config, f.name) is None] == ["deadline"]
    assert config.make_solver().samples == config.samples


def test_defaults_name_options_only():
    tables = DEFAULTS, DEFAULTS_WITHOUT_PROPOSALS, DEFAULTS_WITH_ENSEMBLE
    for values in (values for table in tables for values in table.values()):
        assert values.keys() <= OPTIONS.keys()


@pytest.mark.parametrize(
    ("training", "proposal"),
    [
        ({"validation": {"inverse_5": -0.1}}, "none"),
        ({"validation": {"inverse_5": 0.1}}, "inverse_dynamics"),
        ({"validation": {}}, "inverse_dynamics"),
        ({"validation": "unknown"}, "inverse_dynamics"),
        ({}, "inverse_dynamics"),
    ],
)
def test_an_inverse_head_that_tells_nothing_of_held_out_actions_is_not_asked(training, proposal):
    action = ActionSpec(("x", "y"), "twist", "m/s", (0.0,) * 2, (0.2,) * 2, (-1.0,) * 2, (1.0,) * 2)
    model = replace(ModelConfig.small(10), inverse_hidden=8)
    spec = CheckpointSpec(model, ImageSpec(64), action, 0.05, 5, training=training)
    assert PlannerConfig().for_checkpoint(spec).proposal == proposal
    assert PlannerConfig(proposal="inverse_dynamics").for_checkpoint(spec).proposal == "inverse_dynamics"


def test_bf16_is_for_an_ensemble_on_a_processor_that_multiplies_in_it():
    heads = [True] * 3
    assert PlannerConfig().resolved(*heads, members=1, bf16=True).precision == "bf16"
    for config, members, bf16 in (
        (PlannerConfig(ensemble=0), 1, True),
        (PlannerConfig(), 0, True),
        (PlannerConfig(), 1, False),
    ):
        assert config.resolved(*heads, members=members, bf16=bf16).precision == "fp32"
    assert PlannerConfig(precision="fp32").resolved(*heads, members=1, bf16=True).precision == "fp32"
    for precision in ("bf16", "fp16"):
        assert PlannerConfig(precision=precision).resolved(*heads).precision == precision


def test_an_ensemble_that_is_used_gets_more_samples():
    assert PlannerConfig().resolved(True, True, True, 1).samples == 96
    assert PlannerConfig(samples=10, elites=4).resolved(True, True, True, 1).samples == 10
    for alone in (PlannerConfig().resolved(True, True, True), PlannerConfig(ensemble=0).resolved(*4 * [1])):
        assert alone.samples == DEFAULTS["object"]["samples"]


def test_a_given_value_is_kept_where_the_objective_has_a_default():
    assert PlannerConfig(samples=7, elites=3, time_cost=0.0).resolved(False, True).samples == 7
    assert PlannerConfig(time_cost=0.0).resolved(False, True).time_cost == 0.0
    assert PlannerConfig().resolved(False, True).time_cost == DEFAULTS["squared"]["time_cost"]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_taken_and_what_lies_outside_is_refused_by_name(name):
    option = OPTIONS[name]
    for value in (option.low, option.high):
        option.check(name, value)
    outside = [option.low - 1, math.nan] + ([] if option.high == math.inf else [2 * option.high])
    for value in outside:
        with pytest.raises(UserError, match=f"{name} must be from"):
            PlannerConfig(**{name: value})


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in NUMBERS])
def test_an_unknown_choice_is_refused_with_the_choices(name):
    with pytest.raises(UserError, match=f"{name} 'guess' is unknown: choose .*{OPTIONS[name].choices[-1]}"):
        PlannerConfig(**{name: "guess"})


def test_the_options_and_the_parameters_of_the_nodes_import_no_torch():
    code = (
        "import sys, world_model_ros.planning.config as c, world_model_ros.nodes.parameters\n"
        "c.PlannerConfig(samples=20, elites=4).resolved(True, True)\n"
        "assert not {'torch', 'rclpy', 'pybullet'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
