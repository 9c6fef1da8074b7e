"""recorder_node and the verb on real processes: bag against live, faults while recording, the keyboard.

WORLD_MODEL_ROS_RECORDER_ROUNDS is the number of rounds of each fault; the bar is 20. With
WORLD_MODEL_ROS_RECORDER_SECONDS=600, frames of 640x480 at 30 Hz and joints at 1 kHz are recorded for as long.
"""

import os
import pty
import resource
import shutil
import subprocess
import sys
import termios
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from world_model_ros import cli
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.robot import SOURCES
from world_model_ros.data.words import plural
from world_model_ros.nodes.deploy import RESPAWN

pytestmark = pytest.mark.ros
ROUNDS = int(os.environ.get("WORLD_MODEL_ROS_RECORDER_ROUNDS", "1"))
SECONDS = float(os.environ.get("WORLD_MODEL_ROS_RECORDER_SECONDS", "0"))
SHIFT = 100 * 10**9  # ns by which the stamps jump where what is compared begins
SIDE = 48
ROBOT = {
    "name": "arm",
    "period": 0.05,
    "block": 2,
    "cameras": {
        "front": {"topic": "/front/image_raw", "rate": 4, "size": 32},
        "wrist": {"topic": "/wrist/image_raw", "rate": 2},
    },
    "model_camera": "front",
    "joints": {"names": ["j1", "j2"], "topics": ["/joint_states"], "rate": 4},
    "actions": {
        "names": ["j1", "j2"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-1, -1],
        "high": [1, 1],
        "source": {"topic": "/command/executed"},
    },
}
TWIST = {
    "cameras": {"front": {"topic": "/front/image_raw", "rate": 4}},
    "actions": ROBOT["actions"] | {"names": ["linear_x", "angular_z"], "kind": "twist", "unit": "m/s, rad/s"},
}


class Rig:
    """Publishes a robot's messages, all of them at once; keeps what it has published.

    They are stamped 50 ms apart from ``origin`` on, with the time where that is None.
    """

    def __init__(self, observer, actions="JointState", best_effort=False):
        from geometry_msgs.msg import Twist
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CompressedImage, Image, JointState

        self.observer, node = observer, observer.node
        self.kinds = {
            "/front/image_raw": Image,
            "/wrist/image_raw/compressed": CompressedImage,
            "/joint_states": JointState,
            "/command/executed": {"JointState": JointState, "Twist": Twist}[actions],
        }
        self.publishers = {
            topic: node.create_publisher(
                kind, topic, qos_profile_sensor_data if best_effort and "image" in topic else 50
            )
            for topic, kind in self.kinds.items()
        }
        self.step, self.origin, self.without = 0, None, set()
        self.clients = {}
        self.jitter = 0  # ns by which a stamp may be early or late
        self.sent = []  # (topic, message, when)

    def messages(self):
        """Return topic -> message of this step."""
        import cv2

        at = time.time_ns() if self.origin is None else self.origin + self.step * 50_000_000
        random = np.random.default_rng(self.step)
        pixels = random.integers(0, 256, (SIDE, SIDE + 16, 3), np.uint8)
        made = {topic: kind() for topic, kind in self.kinds.items()}
        for message in made.values():
            if hasattr(message, "header"):
                stamp = at + int(random.integers(-self.jitter, self.jitter + 1))
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
        front = made["/front/image_raw"]
        front.height, front.width, front.step, front.encoding = *pixels.shape[:2], 3 * (SIDE + 16), "bgr8"
        front.data.frombytes(pixels.tobytes())
        wrist = made["/wrist/image_raw/compressed"]
        wrist.format, wrist.data = "jpeg", cv2.imencode(".jpg", pixels)[1].tobytes()
        joints, action = made["/joint_states"], made["/command/executed"]
        joints.name, joints.position = ["x", "j2", "j1"], [9.0, -float(self.step), float(self.step)]
        if hasattr(action, "linear"):
            action.linear.x, action.angular.z = random.uniform(-1, 1, 2)
        else:
            action.name, action.velocity = ["j1", "j2"], random.uniform(-1, 1, 2).tolist()
        return made

    def publish(self):
        """Publish the messages of a step."""
        for topic, message in self.messages().items():
            if topic not in self.without:
                self.publishers[topic].publish(message)
                self.sent.append((topic, message, time.time_ns()))
        self.step += 1

    def until(self, condition):
        self.observer.until(condition, again=self.publish)

    def steps(self, count):
        """Let as many steps pass."""
        end = self.step + count
        self.until(lambda: self.step >= end)

    def command(self, name):
        """Call a service while messages go on; return (success, sentence)."""
        from std_srvs.srv import Trigger

        if name not in self.clients:
            self.clients[name] = self.observer.node.create_client(Trigger, f"recorder/{name}")
            self.until(self.clients[name].service_is_ready)
            self.steps(4)  # the first answer of a server may go before it knows who asks
        client = self.clients[name]
        self.until(client.service_is_ready)
        futures, asked = [], 0.0

        def answered():
            nonlocal asked
            # A killed server is among the known ones for a while.
            if not futures or (name == "start" and time.monotonic() > asked + 5.0):
                futures.append(client.call_async(Trigger.Request()))
                asked = time.monotonic()
            return any(future.done() for future in futures)

        self.until(answered)
        answer = next(future.result() for future in futures if future.done())
        return answer.success, answer.message

    def start(self):
        """Begin an episode as soon as that is possible."""
        answers = []
        for _ in range(30):
            answers.append(self.command("start"))
            if answers[-1][0] or "already" in answers[-1][1]:
                return
            self.steps(5)
        raise AssertionError(answers[-1])

    def record(self, steps=10, end="stop"):
        """Record an episode; return what the recorder says of it."""
        self.start()
        self.steps(steps)
        success, sentence = self.command(end)
        assert success, sentence
        return sentence


@pytest.fixture
def robot_file(tmp_path):
    def write(**changes):
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(ROBOT | changes))
        return path

    return write


@pytest.fixture
def start_recorder(processes, tmp_path):
    def start(robot, **parameters):
        values = {"split_gap": 4.0} | parameters
        return processes.node("recorder_node", config=False, robot=robot, out=tmp_path / "a.h5", **values)

    return start


def ended(process):
    process.terminate()
    process.wait(60)
    return process.log.read_text()


def columns(path, episode):
    with h5py.File(path) as file:
        start, length = int(file["ep_offset"][episode]), int(file["ep_len"][episode])
        names = {"pixels", "pixels_wrist", "proprio", "action"}
        values = {name: file[name][start : start + length] for name in names}
        attributes = {k: str(v) for k, v in file.attrs.items() if k != "source"}
    return {name: (v.dtype, v.shape, v.tobytes()) for name, v in values.items()}, attributes


def test_a_bag_and_a_recording_of_the_same_messages_are_the_same_episode(
    robot_file, start_recorder, observer, ask, tmp_path
):
    pytest.importorskip("rosbags")
    from rclpy.serialization import serialize_message
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    robot = robot_file()
    recorder, rig = start_recorder(robot, split_gap=10.0), Rig(observer)
    rig.start()
    # Stamps jump: what follows is an episode of its own, and in the bag.
    rig.origin, rig.jitter = time.time_ns() + SHIFT - 50_000_000 * rig.step, 15_000_000
    first = len(rig.sent)
    rig.steps(60)
    sent, seen = rig.sent[first:], []
    names = ("front", "wrist", "joints /joint_states", "actions")

    def all_arrived():
        values = ask.diagnosis("recorder_node")[2]
        if len(ask.reports) > len(looked) + reports:
            looked.append(ask.reports[-1])
            seen.append([values.get(f"{name} received") for name in names])
        return len(seen) >= 4 and seen[-1] == seen[-2]

    reports, looked = len(ask.reports), []
    observer.until(all_arrived)
    answer = ask.trigger("recorder/success")
    assert answer.success, answer.message
    assert ", success, " in answer.message
    assert f"{tmp_path / 'a.h5'}: " in ended(recorder)
    with EpisodeFile(tmp_path / "a.h5") as file:
        last = len(file) - 1
        assert file.labels[-1] == 1
        assert file.lengths[-1] >= 58
    live = columns(tmp_path / "a.h5", last)
    store = get_typestore(Stores.ROS2_HUMBLE)
    for plugin in (StoragePlugin.MCAP, StoragePlugin.SQLITE3):
        bag = tmp_path / plugin.name.lower()
        with Writer(bag, version=9, storage_plugin=plugin) as writer:
            names = {topic: f"sensor_msgs/msg/{kind.__name__}" for topic, kind in rig.kinds.items()}
            connections = {t: writer.add_connection(t, name, typestore=store) for t, name in names.items()}
            for topic, message, when in sent:
                writer.write(connections[topic], when, serialize_message(message))
        out = tmp_path / f"{plugin.name}.h5"
        words = ["--robot", str(robot), "--out", str(out), "--split-gap", "10"]
        assert cli.main(["convert", str(bag), *words]) == 0
        assert columns(out, 0) == live


def test_a_start_is_refused_with_the_streams_and_their_rates(robot_file, start_recorder, observer):
    cameras = ROBOT["cameras"] | {"front": ROBOT["cameras"]["front"] | {"rate": 500}}
    recorder, rig = start_recorder(robot_file(cameras=cameras)), Rig(observer, best_effort=True)
    rig.without = {"/wrist/image_raw/compressed"}
    observer.node.destroy_publisher(rig.publishers["/wrist/image_raw/compressed"])
    answers, sentences = [], (" Hz, 500 Hz are declared", "nobody publishes")

    def told():
        answers.append(rig.command("start")[1])
        # On a busy machine the joints come late, too, for a moment.
        return all(words in answers[-1] for words in sentences) and "joints" not in answers[-1]

    rig.until(told)
    assert "front (/front/image_raw) arrives at " in answers[-1]
    assert "wrist (/wrist/image_raw) does not arrive, 2 Hz are declared: nobody publishes" in answers[-1]
    assert "of its type there are /front/image_raw" in answers[-1]
    assert "joints" not in answers[-1]
    assert rig.command("stop") == (False, "no episode is being recorded: start one first.")
    assert "no episode was recorded, so it was not written" in ended(recorder)


def test_a_start_is_refused_while_two_nodes_send_the_actions(robot_file, start_recorder, observer):
    start_recorder(robot_file())
    rig, answers = Rig(observer), []
    second = observer.node.create_publisher(rig.kinds["/command/executed"], "/command/executed", 50)

    def both():
        second.publish(rig.messages()["/command/executed"])
        rig.publish()

    def refused():
        answers.append(rig.command("start"))
        if answers[-1][0]:
            rig.command("discard")
        return "nodes at once (" in answers[-1][1]

    def told():
        for _ in range(20):
            observer.until(lambda end=rig.step + 5: rig.step >= end, again=both)
            if refused():
                return True
        return False

    assert told(), answers[-1]
    assert (
        "actions (/command/executed) comes from 2 nodes at once (/observer, /observer): end all but one"
        in answers[-1][1]
    )
    rig.start()  # the other one is silent again


def test_nobody_takes_the_episodes_of_a_running_recorder(
    robot_file, start_recorder, observer, processes, tmp_path
):
    recorder, rig = start_recorder(robot_file()), Rig(observer)
    rig.record()
    out, parts = tmp_path / "a.h5", tmp_path / "a.h5.parts"
    finish = processes.start("-m", "world_model_ros", "record", "--finish", "--out", str(out))
    rig.until(lambda: finish.poll() is not None)
    assert finish.returncode == 2
    told = f"{out} is being written by a recorder (process {recorder.pid}): end that first"
    assert told in finish.log.read_text()
    rig.record()
    rig.start()
    rig.until(lambda: part_grows(parts))
    shutil.rmtree(parts)
    assert f"cannot be written: {parts} was removed or moved, with all in it" in rig.command("success")[1]
    assert rig.command("start") == (
        False,
        f"not started: {parts}, where the episodes are until the end, was removed or moved: put it back, or "
        "end the recorder and start it again.",
    )
    log = ended(recorder)
    assert recorder.returncode == 2
    assert f"2 episodes of {parts} are gone, somebody removed or moved them meanwhile: {out} was not" in log
    assert "Traceback" not in log


def part_grows(folder):
    return any(file.stat().st_size > 50_000 for file in folder.glob("*.tmp"))


def kill_it(rig, recorder, folder, again):
    recorder.kill()
    recorder.wait()
    # As long as launch waits: docs/deploy.md says why, for a node that receives by shared memory.
    end = time.monotonic() + RESPAWN
    rig.until(lambda: time.monotonic() > end)
    return again()


def fill_the_disk(rig, recorder, folder, again):
    def limit(size):
        hard = resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(recorder.pid, resource.RLIMIT_FSIZE, (size or hard, hard))

    before = recorder.log.read_text().count("free some space there; this episode is lost")
    limit(40_000)
    rig.until(lambda: recorder.log.read_text().count("free some space there; this episode is lost") > before)
    limit(0)
    return recorder


def unplug_the_camera(rig, recorder, folder, again):
    words = "front (/front/image_raw) has not arrived for"
    before = recorder.log.read_text().count("read back, as recorded")
    rig.without = {"/front/image_raw"}
    rig.until(lambda: recorder.log.read_text().count("read back, as recorded") > before)
    assert words in recorder.log.read_text()
    rig.without = set()
    return recorder


@pytest.mark.fault
@pytest.mark.timeout(120 + 60 * ROUNDS)
@pytest.mark.parametrize("happens", [kill_it, fill_the_disk, unplug_the_camera])
def test_fault_while_recording_costs_the_open_episode_only(
    robot_file, start_recorder, observer, tmp_path, happens
):
    robot, folder = (
        robot_file(
            **TWIST
            | {
                "actions": TWIST["actions"]
                | {"source": {"topic": "/command/executed", "type": "Twist", "rate": 4}}
            }
        ),
        tmp_path / "a.h5.parts",
    )

    def start():
        return start_recorder(robot, split_gap=2.0)

    recorder, rig = start(), Rig(observer, actions="Twist", best_effort=True)
    finished = []  # length of each
    for number in range(ROUNDS):
        said = rig.record(steps=12 + number % 5).splitlines()[-1]
        assert said.startswith(f"episode {len(finished)}: "), said
        finished.append(int(said.split()[2]))
        rig.start()
        rig.until(lambda: part_grows(folder))
        recorder = happens(rig, recorder, folder, start)
        if happens is unplug_the_camera:
            said = [line for line in recorder.log.read_text().splitlines() if "read back" in line][-1]
            finished.append(int(said.split()[2]))
        parts = sorted(folder.glob("episode-????????.h5"))
        assert [int(part.stem[-8:]) for part in parts] == list(range(len(finished)))
        for part, length in zip(parts, finished, strict=True):
            with h5py.File(part) as file:
                assert len(file["pixels"][:]) == len(file["action"][:]) == length
    rig.start()  # it is there: one that has just begun would end at once
    assert rig.command("discard")[0]
    log = ended(recorder)
    assert f"{tmp_path / 'a.h5'}: {plural(len(finished), 'episode')}" in log
    with EpisodeFile(tmp_path / "a.h5") as file:
        assert file.lengths.tolist() == finished
        assert all(len(file.pixels(e)) == n for e, n in enumerate(finished))
        assert all(np.isfinite(file.actions(e)[:-1]).all() for e in range(len(finished)))
    assert not folder.exists()
    print(f"{happens.__name__}: {ROUNDS} of {ROUNDS} rounds, {len(finished)} episodes readable, no gap")


def test_the_keys_of_the_verb(robot_file, observer, processes, tmp_path):
    rig = Rig(observer)
    theirs, ours = pty.openpty()
    before = termios.tcgetattr(theirs)
    words = ["record", "--robot", str(robot_file()), "--out", str(tmp_path / "a.h5"), "--keep-last", "5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "world_model_ros", *words, "--split-gap", "4"],
        stdin=ours,
        stdout=ours,
        stderr=ours,
        env=processes.environment | {"COLUMNS": "120"},
        start_new_session=True,
    )
    os.close(ours)
    os.set_blocking(theirs, False)
    shown = bytearray()

    def look():
        try:
            shown.extend(os.read(theirs, 1 << 16))
        except (BlockingIOError, OSError):
            return

    def until(text, key=""):
        begin = len(shown)
        last = 0.0

        def there():
            nonlocal last
            look()
            if key and time.monotonic() > last + 2.0:
                os.write(theirs, key.encode())
                last = time.monotonic()
            return text in shown[begin:].decode(errors="ignore")

        rig.until(there)

    try:
        until("r start, s stop, y success, n failure, d discard, x delete_last, k keep_last, q quit")
        until("; ready")
        until("joints /joint_states")
        until("recording, ", "r")
        os.write(theirs, b"y")
        until("success, ")
        until("; ready")
        os.write(theirs, b"k")
        until("episode 1: ")
        os.write(theirs, b"x")
        until("episode 1 is deleted, 1 is stored")
        os.write(theirs, b"q")
        until(f"{tmp_path / 'a.h5'}: 1 episode")
        rig.until(lambda: look() or process.poll() is not None)
        assert process.returncode == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
    with EpisodeFile(tmp_path / "a.h5") as file:
        assert file.labels.tolist() == [1]


def test_every_type_of_recorded_actions_can_be_subscribed():
    pytest.importorskip("rclpy")
    from world_model_ros.nodes.messages import STREAMED

    assert set(SOURCES) <= set(STREAMED)


PUBLISHER = """
import array, sys, time
import numpy as np
import rclpy
from sensor_msgs.msg import Image, JointState
rclpy.init()
node = rclpy.create_node("publisher")
camera = node.create_publisher(Image, "/front/image_raw", 10)
joints = node.create_publisher(JointState, "/joint_states", 10)
actions = node.create_publisher(JointState, "/command/executed", 10)
pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
counts, rates, begin = [0, 0, 0], (30, 1000, 20), time.monotonic()
origin = time.time_ns()
def stamped(i, message):
    # As a camera's own clock does: this process may be late.
    stamp = message.header.stamp
    stamp.sec, stamp.nanosec = divmod(origin + counts[i] * 10**9 // rates[i], 10**9)
    return message
def take():
    pixels[0, 0] = counts[0] & 255, counts[0] >> 8 & 255, counts[0] >> 16
    image = Image(height=480, width=640, encoding="rgb8", step=1920)
    image._data = array.array("B", pixels.tobytes())
    camera.publish(stamped(0, image))
def state():
    joints.publish(stamped(1, JointState(name=["j1", "j2"], position=[float(counts[1]), 0.0])))
def act():
    actions.publish(stamped(2, JointState(name=["j1", "j2"], velocity=[counts[2] % 7 / 7, 0.1])))
while time.monotonic() - begin < float(sys.argv[-1]):
    for i, publish in enumerate((take, state, act)):
        while time.monotonic() - begin >= counts[i] / rates[i]:
            publish()
            counts[i] += 1
    time.sleep(max(0.0, min(n / r for n, r in zip(counts, rates)) + begin - time.monotonic()))
"""


def used(process):
    """Return the seconds of processor time and the resident MB of a process."""
    proc = Path(f"/proc/{process.pid}")
    ticks = (proc / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
    pages = int((proc / "statm").read_text().split()[1])
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), pages * resource.getpagesize() / 1e6


@pytest.mark.skipif(not SECONDS, reason="long: WORLD_MODEL_ROS_RECORDER_SECONDS=600 runs it")
@pytest.mark.timeout(300 + 3 * SECONDS)
def test_no_frame_of_30_hz_is_lost_beside_joints_of_1_khz(
    robot_file, start_recorder, observer, ask, processes, tmp_path
):
    cameras = {"front": {"topic": "/front/image_raw", "rate": 30}}
    robot = robot_file(period=1 / 30, block=5, cameras=cameras, joints=ROBOT["joints"] | {"rate": 1000})
    recorder = start_recorder(robot, clock="camera", split_gap=1.0)
    processes.start("-c", PUBLISHER, str(SECONDS + 60))
    observer.until(lambda: ask.trigger("recorder/start").success)
    began, (cpu, _) = time.monotonic(), used(recorder)
    most, end = 0.0, began + SECONDS

    def passed():
        nonlocal most
        most = max(most, used(recorder)[1])
        return time.monotonic() > end

    observer.until(passed, SECONDS + 60)
    share = (used(recorder)[0] - cpu) / (time.monotonic() - began)
    values = ask.diagnosis("recorder_node")[2]
    answer = ask.trigger("recorder/stop")
    print(recorder.log.read_text())
    assert answer.success, answer.message
    with h5py.File(tmp_path / "a.h5.parts" / "episode-00000000.h5") as file:
        rows = len(file["pixels"])
        corners = np.concatenate([file["pixels"][i : i + 64, 0, 0] for i in range(0, rows, 64)])
    numbers = corners.astype(int) @ [1, 1 << 8, 1 << 16]
    steps = np.diff(numbers)
    print(
        f"{SECONDS:.0f} s: {rows} rows, frames {numbers[0]} to {numbers[-1]}, {int((steps - 1).sum())} lost, "
        f"{int((steps < 1).sum())} repeated, {values['front lost']} lost on the way, of the joint states "
        f"{values['joints /joint_states lost']}; {share:.1%} of a core, {most:.0f} MB at most"
    )
    assert ask.trigger("recorder/delete_last").success
    assert (steps == 1).all()
    assert rows >= 29 * SECONDS
    assert values["front lost"] == "0"
