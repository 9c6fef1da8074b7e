"""The emergency stop outlives the process that heard it."""

import pytest

from world_model_ros.control.emergency import EmergencyStop, stop_file


@pytest.mark.fault
def test_fault_56_a_stop_is_there_for_the_next_process_until_it_is_reset(tmp_path):
    path = stop_file("/left/command_node", {"ROS_HOME": str(tmp_path), "ROS_DOMAIN_ID": "7"})
    stop = EmergencyStop(path)
    assert not stop.reason
    assert stop.press() == ""
    assert stop.reason == "emergency stop"
    assert "before this process was started" in EmergencyStop(path).reason
    other = stop_file("/right/command_node", {"ROS_HOME": str(tmp_path), "ROS_DOMAIN_ID": "7"})
    assert not EmergencyStop(other).reason
    again = EmergencyStop(path)
    assert again.reset() == ""
    assert not again.reason
    assert not EmergencyStop(path).reason
    assert again.reset() == ""
    assert [p.name for p in path.parent.iterdir()] == []


def test_the_file_is_under_the_home_of_ros_by_domain_and_name(tmp_path):
    path = stop_file("/left/command_node", {"ROS_HOME": str(tmp_path)})
    assert path == tmp_path / "world_model_ros" / "0.left.command_node.stopped"
    assert ".ros" in stop_file("/command_node", {}).parts


def test_a_stop_that_cannot_be_kept_is_one_all_the_same_and_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    stop = EmergencyStop(tmp_path / "file" / "folder" / "stopped")
    assert "forgotten when command_node ends" in stop.press()
    assert stop.reason
    assert EmergencyStop().press() == ""
