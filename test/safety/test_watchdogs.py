import pytest

from world_model_ros.safety.watchdogs import ClockWatch, FrameRate, Freshness, set_by

MS = 1_000_000


def test_nothing_is_fresh_before_it_was_heard():
    stream = Freshness()
    assert not stream.ever
    assert not stream.fresh(0, 100)


def test_fresh_until_the_timeout_and_not_longer():
    stream = Freshness()
    stream.heard(1000)
    assert stream.ever
    assert stream.fresh(1100, 100)
    assert not stream.fresh(1101, 100)


def test_the_first_message_is_enough_at_the_beginning():
    stream = Freshness(needed=3)
    stream.heard(1000)
    assert stream.fresh(1000, 100)


def test_after_a_silence_as_many_as_needed_must_come():
    stream = Freshness(needed=3)
    stream.heard(0)
    assert not stream.fresh(1000, 100)
    fresh = []
    for moment in (1001, 1002, 1003):
        stream.heard(moment)
        fresh.append(stream.fresh(moment, 100))
    assert fresh == [False, False, True]


def test_the_same_message_again_is_not_another():
    stream = Freshness(needed=3)
    stream.heard(0)
    assert not stream.fresh(1000, 100)
    for moment in (1001, 1001, 1000, 1001):
        stream.heard(moment)
    assert not stream.fresh(1001, 100)


def test_a_second_silence_counts_from_the_beginning():
    stream = Freshness(needed=2)
    stream.heard(0)
    for start in (1000, 2000):
        assert not stream.fresh(start, 100)
        stream.heard(start)
        assert not stream.fresh(start, 100)
    stream.heard(2050)
    assert stream.fresh(2050, 100)


def rate_of(intervals, step=250 * MS, longest=100 * MS):
    rate, stamp = FrameRate(step, longest), 0
    for interval in (0, *intervals):
        stamp += round(interval * MS)
        rate.heard(stamp)
    return rate


@pytest.mark.fault
def test_fault_57_a_camera_is_judged_by_the_middle_of_its_intervals():
    assert rate_of([200] * 9).too_slow() == "camera/image_raw is too slow: 5.0 Hz seen, 10 Hz needed"
    assert rate_of([200] * 8).too_slow() == ""  # not enough to judge by
    assert rate_of([90, 110] * 5).too_slow() == ""
    assert rate_of([50, 50, 50, 50, 1000] * 2).too_slow() == ""  # frames are lost now and then
    assert rate_of([250] * 9).too_slow() == ""  # each model step is shown
    assert rate_of([250] * 4 + [310] + [250] * 4).too_slow() == ""  # after a jump of the clock
    assert rate_of([244, 257, 250, 241, 258, 250, 262, 247, 250]).too_slow()  # about 4 Hz, by chance
    assert "3.7 Hz" in rate_of([270] * 9).too_slow()


def test_a_frame_that_is_repeated_or_comes_late_is_no_interval():
    rate = rate_of([200] * 9)
    for _ in range(20):
        rate.heard(1800 * MS)
    assert rate.too_slow()
    rate.heard(1700 * MS)
    assert rate.too_slow()
    rate.reset()
    assert rate.too_slow() == ""


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
    watch.reset()
    assert watch.look(0, 9000 * MS) == 0


def test_a_simulated_clock_may_do_anything_but_go_back_or_leap():
    watch = ClockWatch()
    watch.ahead = 10**13
    assert [watch.look(now, 0) for now in (0, 10**13, 3 * 10**13)] == [0, 0, 2 * 10**13]
    watch.reset()
    assert [watch.look(now, 0) for now in (1000, 1000, 9 * 10**12, 9 * 10**12 - 5)] == [0, 0, 0, -5]
    assert watch.age_clock(1, 2) == 1


def test_by_how_much_a_clock_was_set_is_said_in_seconds():
    assert set_by(-5000 * MS) == "back by 5.0 s"
    assert set_by(120 * MS) == "forward by 0.1 s"
