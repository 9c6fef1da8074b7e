import pytest

from world_model_ros.safety.release import Kept, Ramp, Release, state_file

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


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"enabled": "perhaps"},
        {"enabled": "true", "enable_calls": "x"},
        {"enabled": "true", "enable_calls": "9" * 5000},
    ],
)
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


@pytest.mark.fault
def test_fault_56_a_stop_is_there_for_the_next_process_until_it_is_reset(tmp_path):
    home = {"ROS_HOME": str(tmp_path), "ROS_DOMAIN_ID": "7"}
    path = state_file("/left/command_node", "stopped", home)
    stop = Kept(path)
    assert not stop.there
    assert stop.begin() == ""
    assert stop.begin() == ""
    assert stop.there
    assert Kept(path).there
    assert not Kept(state_file("/right/command_node", "stopped", home)).there
    assert not Kept(state_file("/left/command_node", "released", home)).there
    again = Kept(path)
    assert again.end() == ""
    assert not again.there
    assert not Kept(path).there
    assert again.end() == ""
    assert [p.name for p in path.parent.iterdir()] == []
    assert again.begin() == ""
    assert Kept(path).there


def test_fault_62_the_reason_is_there_for_the_next_process(tmp_path):
    path = tmp_path / "stopped"
    assert Kept(path).reason() == Kept().reason() == ""
    Kept(path).begin()
    assert Kept(path).reason() == ""
    Kept(path).end()
    Kept(path).begin("it was deaf")
    assert Kept(path).reason() == "it was deaf"
    path.write_bytes(b"\n\x1b[2J\xff" + 10_000_000 * b"a" + b"\nmore")
    assert Kept(path).reason().startswith("[2J\ufffdaaa")
    assert len(Kept(path).reason()) < 500
    path.unlink()
    path.mkdir()
    assert Kept(path).there
    assert Kept(path).reason() == ""


def test_the_file_is_under_the_home_of_ros_by_domain_and_name(tmp_path):
    path = state_file("/left/command_node", "stopped", {"ROS_HOME": str(tmp_path)})
    assert path == tmp_path / "world_model_ros" / "0.left.command_node.stopped"
    assert ".ros" in state_file("/command_node", "stopped", {}).parts


def test_a_stop_that_cannot_be_kept_is_one_all_the_same_with_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    stop = Kept(tmp_path / "file" / "folder" / "stopped")
    assert "lost when command_node ends" in stop.begin()
    assert stop.there
    assert Kept().begin() == ""
