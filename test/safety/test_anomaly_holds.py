import pytest

from world_model_ros.safety.anomaly_holds import AnomalyHolds

SECOND = 1_000_000_000


@pytest.mark.fault
def test_fault_46_an_override_lasts_for_its_time_and_not_beyond_a_clock_that_is_set_back():
    holds = AnomalyHolds(override_time=5.0)
    assert not holds.overridden(0)
    holds.override(10 * SECOND)
    assert holds.overridden(10 * SECOND)
    assert holds.overridden(15 * SECOND)
    assert not holds.overridden(16 * SECOND)
    holds.override(10 * SECOND)
    assert not holds.overridden(2 * SECOND)
    assert not holds.overridden(12 * SECOND)


@pytest.mark.fault
def test_fault_47_the_third_hold_within_the_window_is_a_fault():
    holds = AnomalyHolds(window=20.0)
    found = [bool(holds.began(at * SECOND)) for at in (0, 15, 30, 34, 60, 82, 84)]
    assert found == [False, False, False, True, False, False, False]
    holds.began(85 * SECOND)
    holds.forget()
    assert holds.began(86 * SECOND) == ""
