"""The parameter ``robot``: a node takes what the robot file says, and refuses another robot's checkpoint."""

import pytest
import yaml

pytestmark = pytest.mark.ros
ARM = {
    "name": "arm",
    "period": 0.05,
    "block": 5,
    "cameras": {"front": {"topic": "/front/compressed", "rate": 30, "time": "receive"}},
    "joints": {"names": ["joint1", "joint2"], "prefix": "left_", "topics": ["joint_states", "/other"]},
    "actions": {
        "names": ["joint1", "joint2"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-0.2, -0.2],
        "high": [0.2, 0.3],
    },
    "command": {
        "interface": "joint_trajectory",
        "max_step": [0.1, 0.1],
        "position_low": [-1.0, -1.0],
        "position_high": [1.0, 1.0],
    },
}
NODES = ("encoder_node", "planner_node", "command_node", "monitor_node")


def write(tmp_path, **changes):
    path = tmp_path / "arm.yaml"
    path.write_text(yaml.safe_dump(ARM | changes))
    return str(path)


@pytest.fixture
def parameters(observer):
    """Return a function that returns {name: value} of all parameters of a node, as `ros2 param dump` does."""
    from rcl_interfaces.srv import GetParameters, ListParameters
    from rclpy.parameter import parameter_value_to_python

    def read(node):
        names = observer.call(ListParameters, f"{node}/list_parameters").result.names
        request = GetParameters.Request(names=names)
        values = observer.call(GetParameters, f"{node}/get_parameters", request).values
        assert len(values) == len(names) > 1, f"{node} cannot be read"
        assert all(value.type for value in values), f"{node} has values without a type"
        return dict(zip(names, map(parameter_value_to_python, values), strict=True))

    return read


def test_every_parameter_can_be_read_also_lists_that_nobody_has_set(processes, checkpoint, parameters):
    for node in NODES:
        processes.node(node, config=False, checkpoint=checkpoint, autostart="false")
    for node in NODES:
        values = parameters(node)
        for name in ("limits.low", "limits.max_step", "limits.position_high"):
            assert list(values.get(name, [])) == []
    assert "limits.max_step" in values or "limits.max_step" in parameters("command_node")


def test_a_list_that_is_not_set_stays_read_only(processes, checkpoint, ask):
    processes.node("command_node", config=False, checkpoint=checkpoint)
    result, value = ask.set_parameter("command_node", "limits.low", [-0.1, -0.1])
    assert not result.successful
    assert "read-only" in result.reason
    assert list(value) == []


def test_the_nodes_take_what_the_robot_file_says_and_parameters_win(
    processes, arm_checkpoint, tmp_path, observer, parameters
):
    from sensor_msgs.msg import JointState

    robot = write(tmp_path)
    command = processes.node(
        "command_node", config=False, checkpoint=arm_checkpoint, robot=robot, **{"limits.high": "[0.1, 0.1]"}
    )
    processes.node("planner_node", config=False, checkpoint=arm_checkpoint, robot=robot, autostart="false")
    processes.node("encoder_node", config=False, checkpoint=arm_checkpoint, robot=robot, autostart="false")
    values = parameters("command_node")
    assert values["command.interface"] == "joint_trajectory"
    assert values["joint_prefix"] == "left_"
    assert list(values["limits.low"]) == [-0.2, -0.2]
    assert list(values["limits.high"]) == [0.1, 0.1]
    assert list(values["limits.max_step"]) == [0.1, 0.1]
    assert list(values["limits.position_low"]) == [-1.0, -1.0]
    planner = parameters("planner_node")
    assert (planner["enabled"], list(planner["limits.high"])) == (False, [0.2, 0.3])
    assert planner["deadline"] == 200.0  # ms, of a model step of 250
    encoder = parameters("encoder_node")
    assert (encoder["compressed"], encoder["image_stamp"], encoder["max_age"]) == (True, "received", 0.5)
    processes.node(
        "imagination_node", config=False, checkpoint=arm_checkpoint, robot=robot, autostart="false"
    )
    assert parameters("imagination_node")["compressed"] is True  # else it shows no camera
    # Joints that two topics share are both heard.
    senders = [observer.node.create_publisher(JointState, topic, 10) for topic in ("joint_states", "/other")]

    def publish():
        for name, sender in zip(("left_joint1", "left_joint2"), senders, strict=True):
            message = JointState(name=[name], position=[0.0])
            sender.publish(message)

    def waits_for_the_camera():
        return "WAITING: no camera" in command.log.read_text()

    observer.until(waits_for_the_camera, again=publish)


@pytest.mark.parametrize("node", NODES)
def test_a_checkpoint_of_another_robot_is_refused_with_both_sides(
    processes, arm_checkpoint, tmp_path, observer, node
):
    robot = write(tmp_path, block=4)
    process = processes.node(node, config=False, checkpoint=arm_checkpoint, robot=robot)
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    log = process.log.read_text()
    assert f"was not made for the robot of {robot}: block 5 in the checkpoint and 4 in {robot}" in log
    assert "Traceback" not in log
