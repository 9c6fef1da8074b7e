import pytest

from world_model_ros.safety.release import Ramp, Release

MS = 1_000_000


def health(enabled, calls, instance="a"):
    return {"enabled": str(enabled).lower(), "enable_calls": str(calls), "instance": instance}


@pytest.fixture
def release():
    return Release()


def test_a_person_releases_until_somebody_enables_planning_or_takes_back(release):
    release.planner(health(True, 3))
    release.ask()
    assert "command/release" in release.reason
    release.planner(health(True, 3))
    assert release.reason
    release.planner(health(True, 4))
    assert not release.reason
    release.ask()
    release.take_back()
    assert not release.reason


def test_an_enable_from_before_the_release_that_is_heard_after_it_takes_nothing_back(release):
    release.planner(health(True, 3))
    release.ask()
    release.planner(health(True, 4))
    assert release.reason
    release.planner(health(True, 5))
    assert not release.reason


def test_disabling_planning_releases_and_enabling_takes_back(release):
    release.planner(health(False, 0))  # never enabled: nothing has moved
    assert not release.reason
    release.planner(health(True, 1))
    release.planner(health(False, 1))
    assert "planning is disabled" in release.reason
    release.planner(health(True, 2))
    assert not release.reason


def test_planning_that_was_disabled_before_it_was_heard_of_releases_a_robot_that_was_moved(release):
    release.planner(health(False, 1), played=True)
    assert "planning is disabled" in release.reason


def test_a_release_by_disabling_that_was_taken_back_does_not_come_again_by_itself(release):
    release.planner(health(True, 1))
    release.planner(health(False, 1))
    release.take_back()
    release.planner(health(False, 1))
    assert not release.reason


def test_a_planner_that_was_started_again_does_not_end_a_persons_release(release):
    release.planner(health(True, 5))
    release.ask()
    release.planner(health(True, 0, instance="b"))
    assert release.reason
    release.planner(health(True, 1, instance="b"))
    assert not release.reason


def test_a_planner_that_was_started_again_enabled_does_not_end_a_release_by_disabling(release):
    release.planner(health(True, 5))
    release.planner(health(False, 5))
    release.planner(health(True, 0, instance="b"))
    assert "planning is disabled" in release.reason
    release.planner(health(True, 1, instance="b"))
    assert not release.reason


@pytest.mark.parametrize("values", [{}, {"enabled": "perhaps"}, {"enabled": "true", "enable_calls": "x"}])
def test_another_planners_health_changes_nothing(release, values):
    release.ask()
    release.planner(values)
    assert release.reason


def test_the_first_motion_after_a_take_over_grows_to_its_planned_size():
    ramp = Ramp(0.5)
    assert ramp.share(0, 50 * MS) == 1.0
    ramp.arm()
    shares = [ramp.share(1000 * MS + i * 50 * MS, 50 * MS) for i in range(12)]
    assert shares == pytest.approx([0.1 * (i + 1) for i in range(9)] + [1.0] * 3)
    ramp = Ramp(0.0)
    ramp.arm()
    assert ramp.share(0, 50 * MS) == 1.0
