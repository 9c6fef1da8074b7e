import math

import pytest

from world_model_ros.monitoring.anomaly import (
    NO_COMMANDS,
    NO_FRAME,
    START,
    TOO_SHORT,
    AnomalyMonitor,
    AnomalyRules,
    JudgedSteps,
)


@pytest.fixture
def monitor():
    return AnomalyMonitor(threshold=4.0, norm_low=7.0, norm_high=9.0, rules=AnomalyRules(trigger=3, clear=2))


@pytest.mark.fault
def test_fault_36_surprise_for_some_steps_in_a_row_asks_for_a_hold_until_the_world_is_as_expected(monitor):
    reasons = [monitor.step(error, 8.0) for error in (5, 5, 3, 5, 5, 5, 5, 3, 3)]
    assert [bool(reason) for reason in reasons] == [False] * 5 + [True, True, True, False]
    assert "what the model expects" in reasons[5]
    assert "surprise 5.0, 4.0 is the bound" in reasons[5]
    assert "3 model steps in a row" in reasons[5]
    assert monitor.counts == {"surprises": 6, "out_of_distribution": 0}


@pytest.mark.fault
def test_fault_36_latent_norms_out_of_range_ask_for_a_hold_before_anything_was_predicted(monitor):
    reasons = [monitor.step(None, 12.0) for _ in range(3)]
    assert [bool(reason) for reason in reasons] == [False, False, True]
    assert "like none seen in training" in reasons[2]
    assert monitor.counts == {"surprises": 0, "out_of_distribution": 3}


def test_the_norm_range_has_a_margin_of_a_fifth_of_its_width(monitor):
    for norm in (6.6, 9.4):
        monitor.step(1.0, norm)
    assert monitor.counts["out_of_distribution"] == 0
    for norm in (6.59, 9.41):
        monitor.step(1.0, norm)
    assert monitor.counts["out_of_distribution"] == 2


def test_steps_without_a_prediction_end_no_hold(monitor):
    for _ in range(3):
        monitor.step(9.0, 8.0)
    assert all(monitor.step(None, 8.0) for _ in range(10))
    assert [bool(monitor.step(1.0, 8.0)) for _ in range(2)] == [True, False]


def test_without_a_threshold_the_norm_alone_ends_a_hold():
    monitor = AnomalyMonitor(None, 7.0, 9.0, AnomalyRules(1, 1))
    assert monitor.step(1e9, 12.0)
    assert monitor.step(None, 8.0) == ""


@pytest.mark.parametrize(
    ("error", "norm"), [(math.nan, 8.0), (math.inf, 8.0), (1.0, math.nan), (None, math.inf)]
)
def test_numbers_that_are_not_finite_ask_for_a_hold_whatever_the_thresholds(error, norm):
    monitor = AnomalyMonitor(None, None, None, AnomalyRules(1, 1))
    assert "not finite" in monitor.step(error, norm)


def test_without_thresholds_nothing_else_is_looked_at():
    monitor = AnomalyMonitor(None, None, None, AnomalyRules(1, 1))
    assert monitor.step(1e9, 1e9) == ""


def test_half_a_norm_range_is_none():
    assert AnomalyMonitor(1.0, 7.0, None).usual_norms is None


@pytest.mark.parametrize(
    ("norm", "shown"), [(6.59, "6.59, 6.60 to 9.40"), (9.4004, "9.4004, 6.6000 to 9.4000")]
)
def test_a_norm_just_out_of_range_does_not_read_as_if_it_were_in_it(norm, shown):
    monitor = AnomalyMonitor(4.0, 7.0, 9.0, AnomalyRules(1, 1))
    assert f"latent norm {shown} is usual" in monitor.step(None, norm)


def test_a_surprise_just_above_its_bound_does_not_read_as_if_it_were_equal():
    assert "surprise 4.002, 4.000 is the bound" in AnomalyMonitor(4.0, 7.0, 9.0, AnomalyRules(1, 1)).step(
        4.002, 8.0
    )


@pytest.mark.fault
def test_fault_46_a_picture_out_of_range_says_what_a_person_can_do(monitor):
    for _ in range(3):
        reason = monitor.step(None, 12.0)
    assert "clear the camera's view or put the camera back" in reason
    assert "command/reset" in reason
    assert "override_time" in reason


def test_counts_what_was_judged_and_why_not():
    steps = JudgedSteps()
    for _ in range(3):
        steps.add(START)
    steps.add()
    steps.add(NO_FRAME, 2)
    steps.add(TOO_SHORT)
    assert steps.metrics() == {
        "steps_judged": 1,
        "steps_not_judged": 6,
        "not_judged_why": f"3 {START}, 2 {NO_FRAME}, 1 {TOO_SHORT}",
    }


def test_more_than_one_in_twenty_is_a_problem_that_passes():
    steps = JudgedSteps()
    for _ in range(95):
        steps.add()
    for _ in range(5):
        steps.add(NO_COMMANDS)
    assert steps.problem() == ""
    steps.add(NO_FRAME)
    assert steps.problem() == (
        f"surprise was not judged on 6 of the last 100 model steps: 5 {NO_COMMANDS}, 1 {NO_FRAME}"
    )
    for _ in range(100):
        steps.add()
    assert steps.problem() == ""


def test_a_few_steps_are_too_few_and_the_start_is_nobodys_fault():
    steps = JudgedSteps()
    for _ in range(50):
        steps.add(START)
    for _ in range(19):
        steps.add(NO_FRAME)
    assert steps.problem() == ""
    steps.add(NO_FRAME)
    assert "20 of the last 20" in steps.problem()
    steps.add(NO_FRAME, 10_000)
    assert "100 of the last 100" in steps.problem()
