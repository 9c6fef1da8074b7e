"""The dead-man switch on a real node: nothing moves while it is not pressed."""

import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
TIMEOUT = 1.0  # s, after which the switch is lost


class Switch:
    """A button of a joystick, or a heartbeat, and the robot that it belongs to."""

    def __init__(self, robot, kind):
        from sensor_msgs.msg import Joy
        from std_msgs.msg import Bool

        self.robot, self.observer = robot, robot.observer
        self.kind = {"Joy": Joy, "Bool": Bool}[kind]
        self.out = self.observer.node.create_publisher(self.kind, "deadman", 10)
        self.pressed = True  # None: no messages
        self.published = 0.0  # when a message was last

    def publish(self, pressed):
        self.published = time.monotonic()
        joystick = self.kind.__name__ == "Joy"
        self.out.publish(self.kind(buttons=[1, 0, int(pressed)]) if joystick else self.kind(data=pressed))

    def drive(self):
        if self.pressed is not None:
            self.publish(self.pressed)
        self.robot.drive()

    def until(self, condition):
        self.observer.until(condition, again=self.drive)

    def stands(self):
        self.robot.stands(again=self.drive)


@pytest.mark.parametrize(("interface", "kind"), [("twist", "Bool"), ("joint_trajectory", "Joy")])
def test_fault_62_the_robot_moves_only_while_the_switch_is_pressed(
    observer, start_command, ask, interface, kind
):
    from test.nodes.conftest import Robot

    robot = Robot(observer, interface)
    switch = Switch(robot, kind)
    parameters = {"topic": "deadman", "button": 2 if kind == "Joy" else -1, "timeout": TIMEOUT}
    start_command(robot, **{f"dead_man.{name}": value for name, value in parameters.items()})
    # Before it was ever heard, and while it is not pressed.
    switch.pressed = None
    switch.until(lambda: "no message on /deadman yet" in robot.reason())
    assert robot.state() == "HOLD"
    switch.pressed = False
    switch.until(lambda: "the dead-man switch on /deadman is not pressed" in robot.reason())
    assert not robot.commands
    # Pressed: slowly at first.
    switch.pressed = True
    robot.executed.clear()
    switch.until(lambda: robot.executed and abs(robot.executed[-1].velocity[0]) == 0.2)
    speeds = [m.velocity[0] for m in robot.executed if m.velocity[0]]
    assert speeds[0] <= 0.2 * 0.2
    # Released: each time, also where it is pressed again at once.
    for _ in range(2):
        switch.until(robot.moving)
        count = len(robot.status)
        switch.publish(False)
        switch.publish(True)
        switch.until(lambda count=count: any("HOLD" in m.data for m in robot.status[count:]))
        switch.until(lambda: robot.state() == "RUNNING")
    switch.until(robot.moving)
    switch.pressed = False
    switch.until(lambda: robot.state() == "HOLD" and "is not pressed" in robot.reason())
    switch.stands()
    # Lost.
    switch.pressed = True
    switch.until(lambda: robot.state() == "RUNNING")
    switch.pressed = None
    switch.until(lambda: "no message on /deadman for 1 s" in robot.reason())
    assert time.monotonic() - switch.published >= TIMEOUT
    switch.stands()
    # An emergency stop is one with the switch pressed, too.
    switch.pressed = True
    switch.until(lambda: robot.state() == "RUNNING")
    assert ask.trigger("command/emergency_stop").success
    switch.until(lambda: robot.state() == "FAULT")
    switch.stands()


def test_fault_62_a_switch_of_another_type_is_named_with_the_parameter(observer, start_command, robot, ask):
    switch = Switch(robot, "Joy")
    start_command(robot, **{"dead_man.topic": "deadman"})
    expected = "/deadman is sensor_msgs/msg/Joy, dead_man.button -1 stands for std_msgs/msg/Bool"
    switch.until(lambda: ask.diagnosed("command_node", expected))
    assert not robot.commands


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"button": 4}, "dead_man.button is 4 and dead_man.topic is empty"),
        ({"topic": "/joy/"}, "dead_man.topic is '/joy/'"),
        ({"topic": "jo-y", "button": 4}, "dead_man.topic is 'jo-y'"),
    ],
)
def test_fault_62_a_switch_that_cannot_be_meant_so_is_refused(
    observer, processes, checkpoint, parameters, reason
):
    values = {f"dead_man.{name}": value for name, value in parameters.items()}
    node = processes.node("command_node", config=False, checkpoint=checkpoint, **values)
    observer.until(lambda: f"cannot configure: {reason}" in node.log.read_text())
    assert "Traceback" not in node.log.read_text()
