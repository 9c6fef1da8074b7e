import pytest

from world_model_ros.safety.clocks import ClockWatch, set_by

MS = 1_000_000


@pytest.mark.fault
@pytest.mark.parametrize("leap", [-5000 * MS, -101 * MS, 101 * MS, 5000 * MS])
def test_fault_49_a_clock_that_runs_away_from_real_time_was_set(leap):
    watch = ClockWatch(100 * MS)
    assert watch.look(1000 * MS, 0) == 0
    assert watch.look(1050 * MS, 50 * MS) == 0
    assert watch.look(1100 * MS + leap, 100 * MS) == leap
    assert watch.look(1150 * MS + leap, 150 * MS) == 0
    assert watch.look(9150 * MS + leap, 8150 * MS) == 0  # we hung, and both clocks went on
    assert watch.age_clock(1, 2) == 2
    watch.forget()
    assert watch.look(0, 9000 * MS) == 0


def test_a_simulated_clock_may_do_anything_but_go_back():
    watch = ClockWatch()
    assert [watch.look(now, 0) for now in (1000, 1000, 9 * 10**12, 9 * 10**12 - 5)] == [0, 0, 0, -5]
    assert watch.age_clock(1, 2) == 1


def test_by_how_much_a_clock_was_set_is_said_in_seconds():
    assert set_by(-5000 * MS) == "back by 5.0 s"
    assert set_by(120 * MS) == "forward by 0.1 s"
