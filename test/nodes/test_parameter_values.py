import array
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_model_ros.nodes.parameters import PARAMETERS, Parameter

EVERY = [(node, parameter) for node, declared in PARAMETERS.items() for parameter in declared]
every = pytest.mark.parametrize("parameter", [p for _, p in EVERY], ids=[f"{n}.{p.name}" for n, p in EVERY])
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**5000, -(10**5000), 2**63, -(2**63)]),
    st.floats(),
    st.text(),
    st.binary(),
    st.lists(st.floats()),
    st.lists(st.one_of(st.integers(), st.text(), st.none())),
    st.lists(st.floats()).map(lambda values: array.array("d", values)),
    st.lists(st.integers(0, 255)).map(lambda values: array.array("B", values)),
)


def of(name):
    return next(p for _, p in EVERY if p.name == name)


@every
def test_defaults_are_fine_and_every_parameter_says_what_it_is(parameter):
    assert parameter.problem(parameter.default) == ""
    assert parameter.description.endswith(".")
    assert (parameter.low is None) == (parameter.high is None)
    assert isinstance(parameter.default, bool | int | float | str | tuple)
    if parameter.low is not None:
        assert {type(parameter.low), type(parameter.high)} == {type(parameter.default)}


def test_a_name_means_the_same_in_every_node():
    by_name = sorted(((p.name, n, p) for n, p in EVERY), key=lambda row: row[:2])
    for name, rows in itertools.groupby(by_name, key=lambda row: row[0]):
        kinds = {type(p.default) for _, _, p in rows}
        assert len(kinds) == 1, name


@pytest.mark.fault
@pytest.mark.parametrize("parameter", [p for _, p in EVERY if p.low is not None], ids=lambda p: p.name)
def test_fault_27_what_is_out_of_range_is_refused_with_the_range(parameter):
    endless = parameter.high == math.inf
    step = 1 if isinstance(parameter.default, int) else 1e-6 if endless else 1e-6 * max(1.0, parameter.high)
    for value in (parameter.low, parameter.high):
        assert parameter.problem(value) == ""
    for value in (parameter.low - step, *(() if endless else (parameter.high + step,))):
        problem = parameter.problem(value)
        assert parameter.name in problem
        assert f"from {parameter.low} to {parameter.high}" in problem


@pytest.mark.fault
@every
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_fault_27_numbers_that_are_not_finite_are_refused(parameter, value):
    if value == parameter.high:  # a range without an end
        assert parameter.problem(value) == ""
        return
    several = isinstance(parameter.default, tuple)
    for given_value in ([value], [0.0, value], array.array("d", [value])) if several else (value,):
        assert parameter.name in parameter.problem(given_value)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("autostart", 1, "true or false"),
        ("autostart", "true", "true or false"),
        ("horizon", 5.0, "a whole number"),
        ("horizon", True, "a whole number"),
        ("horizon", 2**63, "more than 64 bits"),
        ("joint_timeout", 1, "joint_timeout is 1: write 1.0"),
        ("joint_timeout", "fast", "a number with a decimal point"),
        ("joint_timeout", None, "a number with a decimal point"),
        ("checkpoint", 3, "a string"),
        ("limits.low", 0.5, "a list of numbers"),
        ("limits.low", [1, 2], "a list of numbers"),
        ("limits.low", ["a"], "a list of numbers"),
        ("device", "tpu", "choose one of auto, cpu, cuda"),
        ("device", "", "choose one of"),
    ],
)
def test_fault_27_wrong_types_and_choices_are_refused_with_what_would_do(name, value, expected):
    problem = of(name).problem(value)
    assert problem.startswith(f"{name} is ")
    assert expected in problem


def test_lists_may_be_left_out_and_are_taken_as_ros_gives_them():
    for value in (None, (), [], [0.5, 1.0], (0.5,), array.array("d", [0.5])):
        assert of("limits.low").problem(value) == ""


@pytest.mark.fault
@given(st.sampled_from([p for _, p in EVERY]), anything)
def test_fault_27_whatever_comes_is_taken_or_refused_in_a_short_sentence(parameter, value):
    problem = parameter.problem(value)
    assert len(problem) < 400
    if problem:
        assert parameter.name in problem
        return
    if isinstance(parameter.default, tuple):
        assert value is None or all(map(math.isfinite, value))
        return
    assert type(value) is type(parameter.default)
    assert not parameter.choices or value in parameter.choices
    assert parameter.low is None or parameter.low <= value <= parameter.high


def test_a_parameter_without_a_range_takes_any_finite_number():
    assert Parameter("x", 1.0, "Of no range.").problem(1e308) == ""
