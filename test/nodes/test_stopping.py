"""Stop means stop: on every interface, whoever asks for it, again and again, and after a restart."""

import contextlib
import itertools
import signal
import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.fault]
# A process whose node clock is set by the seconds in a file, without touching the machine's clock.
LEAPING = """
import pathlib, sys
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import command_node, running
leap = pathlib.Path(sys.argv.pop(1))
clocks = command_node.CommandNode.clocks
def set_clocks(self):
    now, steady = clocks(self)
    return now + int(leap.read_text() or 0), steady
command_node.CommandNode.clocks = set_clocks
running.run(command_node.make_node)
"""
# One whose executor is busy for as long as a file is there; another file says so.
BUSY = """
import pathlib, sys, time
from world_model_ros.nodes import environment
environment.prepare()
from world_model_ros.nodes import command_node, running
busy, said = map(pathlib.Path, (sys.argv.pop(1), sys.argv.pop(1)))
take = command_node.CommandNode.take_joints
def take_late(self):
    while busy.exists():
        said.touch()
        time.sleep(0.01)
    take(self)
command_node.CommandNode.take_joints = take_late
running.run(command_node.make_node)
"""


def quality(reliable, latched):
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def press(robot, profile, value=True):
    """What ``ros2 topic pub --once`` does: a publisher of its own, one message, and gone."""
    from std_msgs.msg import Bool

    observer = robot.observer
    button = observer.node.create_publisher(Bool, "command/emergency_stop", profile)
    observer.until(lambda: button.get_subscription_count() > 0, again=robot.drive)
    button.publish(Bool(data=value))
    return button


def stopped(robot, words="emergency stop"):
    robot.observer.until(lambda: robot.state() == "FAULT" and words in robot.reason(), again=robot.drive)
    robot.stands(again=robot.drive)


@pytest.mark.parametrize(
    "qualities", [((True, False),) * 3, tuple(itertools.product((False, True), (False, True)))]
)
def test_fault_41_and_42_every_stop_stops_in_any_quality_of_service(
    any_robot, observer, start_command, ask, qualities
):
    from std_msgs.msg import Bool

    start_command(any_robot)
    for reliable, latched in qualities:
        any_robot.get_moving()
        button = press(any_robot, quality(reliable, latched))
        if not reliable:  # one message may be lost, which is no fault of the reader
            observer.until(
                lambda: any_robot.state() == "FAULT",
                again=lambda b=button: any_robot.drive() or b.publish(Bool(data=True)),
            )
        stopped(any_robot)
        observer.node.destroy_publisher(button)
        if len(set(qualities)) > 1:  # elsewhere nothing comes between one stop and the next
            press(any_robot, quality(True, False), value=False)  # no reset
            any_robot.stands(again=any_robot.drive)
        assert ask.trigger("command/reset").success
    for _ in range(2):
        any_robot.get_moving()
        assert ask.trigger("command/emergency_stop").success
        stopped(any_robot)
        assert ask.trigger("command/reset").success
    any_robot.get_moving()


def test_fault_41_a_stop_before_the_node_is_configured_holds(robot, observer, start_command, ask):
    start_command(robot, autostart="false")
    press(robot, quality(True, False))
    for transition in ("configure", "activate"):
        assert ask.change_state("command_node", transition)
    stopped(robot)
    for transition in ("deactivate", "cleanup", "configure", "activate"):
        assert ask.change_state("command_node", transition)
    stopped(robot)
    assert ask.trigger("command/reset").success
    robot.get_moving()


@pytest.fixture
def busy(robot, observer, processes, checkpoint, tmp_path):
    """Return a context in which the command_node of a moving robot hears messages and takes none of them."""
    script, held, said = (tmp_path / name for name in ("busy.py", "busy", "said"))
    script.write_text(BUSY)
    words = ["command_node", "--ros-args", "-p", f"checkpoint:={checkpoint}"]
    processes.start(str(script), str(held), str(said), *words)

    @contextlib.contextmanager
    def context():
        robot.get_moving()
        held.touch()
        observer.until(said.exists)
        yield
        held.unlink()

    return context


def test_fault_41_a_stop_is_not_lost_among_messages_that_come_while_the_node_is_busy(robot, observer, busy):
    from rclpy.duration import Duration
    from std_msgs.msg import Bool

    buttons = [observer.node.create_publisher(Bool, "command/emergency_stop", 1000) for _ in range(3)]
    observer.until(lambda: all(b.get_subscription_count() > 1 for b in buttons), again=robot.drive)
    with busy():
        buttons[0].publish(Bool(data=True))
        for _ in range(30):
            for button in buttons:
                button.publish(Bool(data=False))
        assert all(button.wait_for_all_acked(Duration(seconds=30)) for button in buttons)
    stopped(robot, "emergency stop: call command/reset")


def test_fault_41_a_reset_that_was_asked_for_before_the_stop_does_not_end_it(robot, observer, busy):
    from rclpy.duration import Duration
    from std_msgs.msg import Bool
    from std_srvs.srv import Trigger

    button = observer.node.create_publisher(Bool, "command/emergency_stop", 10)
    reset = observer.node.create_client(Trigger, "command/reset")
    observer.until(lambda: button.get_subscription_count() > 1, again=robot.drive)
    observer.until(reset.service_is_ready, again=robot.drive)
    with busy():
        answers = [reset.call_async(Trigger.Request()) for _ in range(3)]
        button.publish(Bool(data=True))
        assert button.wait_for_all_acked(Duration(seconds=30))
    stopped(robot, "emergency stop: call command/reset")
    for answer in filter(lambda answer: answer.done(), answers):  # the first one of a server may be lost
        assert not answer.result().success
        assert "at the same time" in answer.result().message
    assert observer.call(Trigger, "command/reset").success
    robot.get_moving()


def test_fault_41_a_reset_and_a_stop_of_a_node_that_was_cleaned_up(robot, observer, start_command, ask):
    node = start_command(robot)
    robot.get_moving()
    for transition in ("deactivate", "cleanup"):
        assert ask.change_state("command_node", transition)
    assert ask.trigger("command/reset").success
    assert not ask.trigger("command/release").success
    assert ask.trigger("command/emergency_stop").success
    for transition in ("configure", "activate"):
        assert ask.change_state("command_node", transition)
    stopped(robot)
    assert node.poll() is None
    for transition in ("deactivate", "cleanup"):
        assert ask.change_state("command_node", transition)
    assert ask.trigger("command/reset").success
    for transition in ("configure", "activate"):
        assert ask.change_state("command_node", transition)
    robot.get_moving()


def executed_between(robot, begin, end):
    return len(robot.since(begin, "executed")) - len(robot.since(end, "executed"))


def test_fault_55_a_cause_that_lasts_is_back_after_a_reset(any_robot, observer, start_command, ask):
    start_command(any_robot)
    any_robot.report("planner_node")
    any_robot.get_moving()
    any_robot.report("planner_node", "fault", "a plan has not ended for 5 s")
    for _ in range(3):
        stopped(any_robot, "a plan has not ended")
        now, statuses = time.time_ns(), len(any_robot.status)
        assert ask.trigger("command/reset").success
        observer.until(lambda c=statuses: len(any_robot.status) > c, again=any_robot.drive)
        any_robot.report("planner_node", "fault", "a plan has not ended for 5 s")
        reported = time.time_ns()
        observer.until(lambda: any_robot.state() == "FAULT", again=any_robot.drive)
        # In control steps: a busy machine may let neither of the two processes run for a second.
        steps = executed_between(any_robot, reported, any_robot.sent["status"][-1])
        assert steps <= 20
        any_robot.stands(again=any_robot.drive)
        assert not any(map(any_robot.moves, any_robot.since(now, "commands")))
    any_robot.report("planner_node")
    observer.until(lambda: any_robot.state() == "FAULT", again=any_robot.drive)
    assert ask.trigger("command/reset").success
    any_robot.get_moving()


def test_fault_29_a_simulated_clock_that_stands_or_is_set_back_stops_the_robot(
    any_robot, observer, start_command
):
    from rosgraph_msgs.msg import Clock

    time = [5_000_000_000]
    any_robot.clock = lambda: time[0]
    clock = observer.node.create_publisher(Clock, "/clock", 10)

    def tell():
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(time[0], 1_000_000_000)
        clock.publish(message)

    def drive_all():
        time[0] += 50_000_000
        any_robot.drive()
        tell()

    node = start_command(any_robot, use_sim_time="true")
    observer.until(lambda: "nobody publishes /clock" in node.log.read_text(), again=any_robot.drive)
    assert any_robot.commands == []
    observer.until(any_robot.moving, again=drive_all)
    observer.until(lambda: not any_robot.moving())
    assert "the clock has stood" in node.log.read_text()
    observer.until(any_robot.moving, again=drive_all)
    time[0] -= 2_000_000_000
    tell()
    observer.until(lambda: not any_robot.moving())
    observer.until(any_robot.moving, again=drive_all)


@pytest.mark.parametrize("seconds", [-5, 5])
def test_fault_49_a_clock_that_is_set_stops_the_robot_and_is_named(
    any_robot, observer, processes, checkpoint, arm_checkpoint, tmp_path, seconds
):
    leap = tmp_path / "leap"
    leap.write_text("0")
    chosen = checkpoint if any_robot.interface.startswith("twist") else arm_checkpoint
    words = [f"checkpoint:={chosen}", f"command.interface:={any_robot.interface}"]
    if any_robot.interface == "joint_trajectory":
        words += ["limits.position_low:=[-50.0, -50.0]", "limits.position_high:=[50.0, 50.0]"]
    options = ["command_node", "--ros-args", *itertools.chain.from_iterable(("-p", w) for w in words)]
    script = tmp_path / "leaping.py"
    script.write_text(LEAPING)
    processes.start(str(script), str(leap), *options)
    real, offset = any_robot.clock, [0]
    any_robot.clock = lambda: real() + offset[0]
    any_robot.get_moving()
    # Without plans: the HOLD ends after a second, and on a busy machine later than this looks.
    offset[0] = seconds * 1_000_000_000
    any_robot.publish_plan(steps=20)  # of the old time, on its way
    leap.write_text(str(offset[0]))
    observer.until(
        lambda: any("the clock was set" in s.data and "HOLD" in s.data for s in any_robot.status),
        again=any_robot.supply,
    )
    expected = f"the clock was set {'back' if seconds < 0 else 'forward'} by 5.0 s"
    assert any(expected in s.data for s in any_robot.status)
    any_robot.stands(again=any_robot.supply)

    def stamp(message):
        return message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec

    # Within two control steps: the executed actions that are stamped by the set clock, not by that of DDS.
    pairs = zip(any_robot.executed, any_robot.sent["executed"], strict=True)
    by_set_clock = [m for m, sent in pairs if abs(stamp(m) - 1e-9 * sent) > 2.5][:15]
    assert by_set_clock
    assert sum(any(m.velocity) for m in by_set_clock) <= 1
    any_robot.get_moving()


def test_fault_56_a_stop_outlives_the_process(any_robot, observer, start_command, ask):
    node = start_command(any_robot)
    any_robot.get_moving()
    assert ask.trigger("command/emergency_stop").success
    killed = None
    for _ in range(2):
        node.send_signal(signal.SIGKILL)
        node.wait()
        killed = killed or time.time_ns()
        any_robot.status.clear()
        node = start_command(any_robot)
        stopped(any_robot, "before this process was started")
    # Rclpy of Jazzy does not say who sent a command; what was sent before may be heard late.
    assert any_robot.since(killed, "commands")
    assert not any(map(any_robot.moves, any_robot.since(killed, "commands")))
    assert ask.trigger("command/reset").success
    any_robot.get_moving()
    node.send_signal(signal.SIGKILL)
    node.wait()
    any_robot.status.clear()
    start_command(any_robot)
    any_robot.get_moving()


def test_a_stop_before_the_node_is_configured_counts_and_is_this_process(robot, observer, start_command, ask):
    start_command(robot, autostart="false")
    assert ask.trigger("command/emergency_stop").success
    assert ask.change_state("command_node", "configure")
    assert ask.change_state("command_node", "activate")
    stopped(robot, "emergency stop: call command/reset")
    assert not any("before this process" in message.data for message in robot.status)


@pytest.mark.parametrize("cause", ["frames", "joints", "plans"])
def test_faults_02_11_and_16_what_is_missing_stops_the_robot(any_robot, observer, start_command, cause):
    start_command(any_robot)
    any_robot.get_moving()
    publishers = {
        "frames": any_robot.publish_latent,
        "joints": any_robot.publish_joints,
        "plans": any_robot.publish_plan,
    }

    def without():
        for kind, publish in publishers.items():
            if kind != cause:
                publish()

    words = {"frames": "camera/image_raw", "joints": "joint_states", "plans": "no plan"}[cause]
    any_robot.be_read(again=without)
    observer.until(lambda: any_robot.state() == "HOLD" and words in any_robot.reason(), again=without)
    any_robot.stands(again=without)
    any_robot.get_moving()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fault_22_the_safe_command_is_the_last_on_every_interface(any_robot, observer, start_command, number):
    node = start_command(any_robot)
    any_robot.get_moving()
    node.send_signal(number)
    observer.until(lambda: node.poll() is not None)
    assert node.returncode == 0
    observer.until(lambda: not any_robot.moving())


def test_an_inactive_node_publishes_nothing_so_that_a_gap_is_a_gap(any_robot, observer, start_command, ask):
    start_command(any_robot)
    any_robot.get_moving()
    assert ask.change_state("command_node", "deactivate")
    now = time.time_ns()
    observer.until(lambda: not any_robot.moving())
    observer.repeat(any_robot.drive, 20)
    assert not any_robot.since(now, "commands")
    assert not any_robot.since(now, "executed")
    assert ask.change_state("command_node", "activate")
    any_robot.get_moving()
