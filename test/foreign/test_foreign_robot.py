"""A robot that the package has never seen, from its description to planning: docs/your_robot.md as a test.

The short tests run always. The whole walk, of about half an hour, is `make test-foreign`;
WORLD_MODEL_ROS_FOREIGN_SEED gives other movements, weights and goals.
"""

import importlib.util
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from test.foreign.kuka import MOVED, NAMES, Kuka
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.robot import read_robot

pytestmark = pytest.mark.ros
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ROBOT = HERE / "cell2.yaml"
SEED = int(os.environ.get("WORLD_MODEL_ROS_FOREIGN_SEED", "0"))
EPISODES, SECONDS, STEPS = 30, 10, 500  # recorded, of each of them, of training
GOALS, NEAR, APART = 10, 0.04, 0.12  # goal pictures; m from the tool to where it is in the picture
PATIENCE = 20.0  # s for a goal
BAR = 30 * 60  # s from the empty folder to the first plan


class Walk:
    """The commands of a user, one after another, each with the time that it takes."""

    def __init__(self, processes, observer):
        from geometry_msgs.msg import PointStamped

        self.processes, self.observer, self.took = processes, observer, {}
        processes.start(str(HERE / "kuka.py"), str(SEED))
        self.places = observer.collect(PointStamped, "/truth/tool")
        observer.until(lambda: self.places)

    def teleoperate(self, episodes, seconds, seed):
        """Let the person move the robot; with episodes, record that many."""
        return self.processes.start(str(HERE / "teleop.py"), str(episodes), str(seconds), str(seed))

    def wait(self, process, seconds=60.0):
        """Return the output of a process that ends within so many seconds."""

        def ended():
            del self.places[:-1]
            return process.poll() is not None

        self.observer.until(ended, seconds)
        return process.log.read_text()

    def wm(self, *words, seconds=60.0, code=0):
        """Run a verb; return what it printed."""
        began = time.monotonic()
        process = self.processes.start("-m", "world_model_ros", *map(str, words))
        text = self.wait(process, seconds)
        print(f"$ python -m world_model_ros {' '.join(map(str, words))}\n{text}", flush=True)
        assert process.returncode == code, text
        self.took[words[0]] = self.took.get(words[0], 0.0) + time.monotonic() - began
        return text

    def check(self, *words, times=5):
        """Run robot-check until it finds no fault, as a busy computer makes streams late; return its text."""
        while True:
            process = self.processes.start(
                "-m", "world_model_ros", "robot-check", "--use-sim-time", "--robot", str(ROBOT), *words
            )
            text, times = self.wait(process), times - 1
            print(text, flush=True)
            if process.returncode == 0:
                return text
            assert times, text

    def record(self, out, episodes, seconds, seed, limit=60.0):
        """Record episodes of the person at the joystick; return what the recorder printed."""
        began = time.monotonic()
        recorder = self.processes.start(
            "-m", "world_model_ros", "record", "--use-sim-time", "--robot", str(ROBOT), "--out", out
        )
        person = self.teleoperate(episodes, seconds, seed)
        said = self.wait(person, limit)
        assert person.returncode == 0, said
        recorder.send_signal(signal.SIGINT)
        text = self.wait(recorder)
        print(f"$ python -m world_model_ros record --robot {ROBOT} --out {out}\n{text}", flush=True)
        self.took["record"] = self.took.get("record", 0.0) + time.monotonic() - began
        return text

    def tool(self):
        """Return where the tool really is now, (3,) in m."""
        seen = len(self.places)
        self.observer.until(lambda: len(self.places) > seen)
        point = self.places[-1].point
        return np.array([point.x, point.y, point.z])

    def deploy(self, checkpoint):
        """Start the nodes: by robot.launch.py where launch_ros is here, else by the verb deploy."""
        words = f"robot:={ROBOT}", f"checkpoint:={checkpoint}", "imagination:=false", "use_sim_time:=true"
        if importlib.util.find_spec("launch_ros"):
            from test.launch.test_robot_launch import RUN

            return [self.processes.start("-c", RUN, str(ROOT / "launch" / "robot.launch.py"), *words)]
        words = "--robot", str(ROBOT), "--checkpoint", str(checkpoint), "--no-imagination", "--use-sim-time"
        return [self.processes.start("-m", "world_model_ros", "deploy", *words)]


@pytest.fixture
def walk(processes, observer):
    pytest.importorskip("pybullet")
    return Walk(processes, observer)


def test_its_description_fits_the_running_robot_and_is_recorded(walk, tmp_path):
    person = walk.teleoperate(0, 60, SEED)
    text = walk.check("--seconds", "2")
    assert "yuv422_yuy2" in text
    assert "found cell2_lbr_iiwa_joint_1, " in text
    assert "all streams are as the robot file says" in text
    assert "/robot_check" not in text  # it listens to the commands, which are the recorded actions
    person.terminate()
    walk.wait(person)
    walk.record(str(tmp_path / "a.h5"), 1, 4, SEED)
    with EpisodeFile(tmp_path / "a.h5") as file:
        assert len(file) == 1
        assert file.attributes["action_names"] == [NAMES[i] for i in MOVED]
        joints, actions = file.proprio(0), file.actions(0)
        assert joints.shape[1] == len(NAMES)
    moved = np.ptp(joints, axis=0)
    assert moved[list(MOVED)].max() > 0.05 > np.delete(moved, MOVED).max()
    assert np.nanmax(np.abs(actions)) <= 0.8


def test_its_nodes_are_started_find_its_streams_and_wait_to_be_enabled(walk, tmp_path):
    from std_msgs.msg import String

    from world_model_ros.model.checkpoint import save_checkpoint
    from world_model_ros.model.config import ActionSpec, CheckpointSpec, ImageSpec, ModelConfig
    from world_model_ros.model.lewm import LeWorldModel
    from world_model_ros.nodes.qos import LATCHED

    robot = read_robot(ROBOT)
    like = robot.action_interface
    model = LeWorldModel(ModelConfig.small(action_dim=2 * like.block))  # that has learned nothing
    action = ActionSpec(like.names, like.kind, like.unit, (0.0,) * 2, (0.2,) * 2, like.low, like.high)
    spec = CheckpointSpec(model.config, ImageSpec(size=64), action, like.period, like.block, robot=robot.spec)
    folder = save_checkpoint(tmp_path / "cell2", model, spec)
    status = walk.observer.collect(String, "status", LATCHED)
    (nodes, *_) = walk.deploy(folder)
    lacking = "planner_node is not enabled: call planner/enable"
    walk.observer.until(lambda: status and status[-1].data.startswith("READY") and lacking in status[-1].data)
    told = walk.wm("call", "planner/enable", "true")
    assert "enabled: waiting for a goal" in told
    walk.observer.until(lambda: lacking not in status[-1].data)
    nodes.send_signal(signal.SIGINT)
    walk.wait(nodes)


def choose_goals(path):
    """Return the longest episode of a file, rows of it whose tool places lie apart, and these (N, 3)."""
    kuka, rows, places = Kuka(), [], []
    with EpisodeFile(path) as file:
        episode = int(np.argmax(file.lengths))
        joints = file.proprio(episode)
    for row, angles in enumerate(joints[20:], start=20):
        kuka.place(angles)
        place = kuka.tool()
        if len(rows) < GOALS and (not places or np.linalg.norm(place - places[-1]) > APART):
            rows.append(row)
            places.append(place)
    kuka.close()
    return episode, rows, np.array(places)


@pytest.mark.foreign_robot
@pytest.mark.timeout(2 * BAR)
def test_from_an_empty_folder_to_planning(walk, tmp_path):
    from std_msgs.msg import String

    from world_model_ros.nodes.qos import LATCHED

    began = time.monotonic()
    data, goals, model = tmp_path / "cell2.h5", tmp_path / "goals.h5", tmp_path / "cell2"
    person = walk.teleoperate(0, 60, SEED)
    walk.check()
    person.terminate()
    walk.record(str(data), EPISODES, SECONDS, SEED, 3 * EPISODES * SECONDS)
    walk.record(str(goals), 1, 60, 1000 + SEED, 200.0)
    walk.wm("episodes", "trim", data)
    walk.wm("episodes", "list", data)
    walk.wm("episodes", "sheet", data, "--out", tmp_path / "sheet.png")
    walk.wm("inspect", data)
    told = walk.wm(
        *("train", "--robot", ROBOT, "--data", data, "--out", model, "--run", tmp_path / "run"),
        *("--steps", STEPS, "--temporal-steps", 1500, "--inverse-steps", 1000, "--seed", SEED),
        seconds=BAR,
    )
    assert "ready to plan with" in told
    assert "not ready to plan with" not in told
    walk.wm("inspect", model)

    status = walk.observer.collect(String, "status", LATCHED)
    nodes = walk.deploy(model)
    walk.observer.until(lambda: status and status[-1].data.startswith("READY"))
    walk.wm("call", "planner/enable", "true")
    walk.took["total"] = time.monotonic() - began
    episode, rows, places = choose_goals(goals)
    assert len(rows) == GOALS
    reached, told = 0, 0
    for row, place in zip(rows, places, strict=True):
        before = np.linalg.norm(walk.tool() - place)
        process = walk.processes.start(
            *("-m", "world_model_ros", "goal", str(goals), "--timeout", str(PATIENCE)),
            *("--episode", str(episode), "--step", str(row)),
        )
        text = walk.wait(process, 6 * PATIENCE)
        after = np.linalg.norm(walk.tool() - place)
        reached, told = reached + (after < NEAR), told + (process.returncode == 0)
        print(f"{text.strip()}\n{1e3 * before:.0f} -> {1e3 * after:.0f} mm", flush=True)
    print(f"{reached} of {GOALS} within {100 * NEAR:.0f} cm, {told} said to be reached")
    print(", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in walk.took.items()), flush=True)
    assert all(node.poll() is None for node in nodes)
    assert reached >= GOALS - 1
    assert walk.took["total"] < BAR
