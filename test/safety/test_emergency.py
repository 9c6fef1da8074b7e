"""What outlives the process that heard it."""

import pytest

from world_model_ros.safety.emergency import Kept, state_file


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
