"""The verb call, and a node that does not answer."""

import pytest

pytestmark = pytest.mark.ros

HANGS = """
import pathlib, sys, time
import rclpy
from std_srvs.srv import SetBool, Trigger

rclpy.init()
node = rclpy.create_node("command_node")
free, done = map(pathlib.Path, sys.argv[1:])

def serve(kind, name):
    def answer(request, response):
        with done.open("a") as file:
            print(name, getattr(request, "data", ""), file=file)
        response.success = True
        return response
    return node.create_service(kind, name, answer)

made = [serve(Trigger, "command/reset"), serve(Trigger, "command/release"),
        serve(Trigger, "command/emergency_stop"), serve(SetBool, "planner/enable")]
while not free.exists():
    time.sleep(0.05)
rclpy.spin(node)
"""


@pytest.mark.parametrize(
    ("words", "later"),
    [
        (("command/reset",), False),
        (("planner/enable", "true"), False),
        (("planner/enable", "false"), True),
        (("command/emergency_stop",), True),
        (("command/release",), True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_node_that_hangs_does_later_what_stops_and_nothing_else(
    processes, observer, tmp_path, words, later
):
    from std_srvs.srv import SetBool

    free, done = tmp_path / "free", tmp_path / "done"
    processes.start("-c", HANGS, str(free), str(done))
    process = processes.start("-m", "world_model_ros", "call", *words)
    observer.until(lambda: process.poll() is not None)
    assert process.returncode == 2
    told = process.log.read_text()
    free.touch()
    observer.call(SetBool, "planner/enable", SetBool.Request(data=True))  # after all that came before
    lines = done.read_text().splitlines()
    asked = " ".join((words[0], *(word.capitalize() for word in words[1:])))
    if later:
        assert f"/{words[0]} has not answered for 10 s, and may have done it all the same" in told
        assert asked in [line.strip() for line in lines[:-1]]
    else:
        assert f"/command_node has not answered for 10 s, so /{words[0]} was not called" in told
        assert set(lines) == {"planner/enable True"}
        assert len(lines) <= len(observer.asked)
