"""A recorder on the messages of a robot, without ROS."""

from types import SimpleNamespace as Message

import numpy as np
import pytest
import yaml

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.ingest import Rules
from world_model_ros.data.recording import Recorder
from world_model_ros.data.robot import read_robot
from world_model_ros.errors import UserError

MS = 1_000_000
START = 1_700_000_000_000 * MS
ROBOT = {
    "name": "arm",
    "period": 0.05,
    "block": 2,
    "cameras": {"front": {"topic": "/front", "rate": 20}, "wrist": {"topic": "/wrist", "rate": 10}},
    "model_camera": "front",
    "joints": {"names": ["a", "b"], "topics": ["/joints"], "rate": 100},
    "actions": {
        "names": ["a", "b"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-1, -1],
        "high": [1, 1],
        "source": {"topic": "/command"},
    },
}
RATES = {"front": 20, "wrist": 10, "joints /joints": 100, "actions": 20}


def stamped(at, **fields):
    stamp = Message(sec=(START + at) // 10**9, nanosec=(START + at) % 10**9)
    return Message(header=Message(stamp=stamp, frame_id=""), **fields)


def image(at, seed, side=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    fields = {"width": side, "height": side, "encoding": "rgb8", "step": 3 * side, "is_bigendian": 0}
    return stamped(at, **fields, data=pixels.reshape(-1))


def states(at, value, names=("a", "b")):
    return stamped(at, name=list(names), position=[value, -value], velocity=[value, 0.1], effort=[])


class Live:
    """A robot whose messages a recorder takes as they come, on a clock of its own."""

    def __init__(self, folder, robot=None, rules=None, keep_last=0.0, path="out.h5", **changes):
        (folder / "robot.yaml").write_text(yaml.safe_dump((robot or ROBOT) | changes))
        self.robot = read_robot(folder / "robot.yaml")
        self.rules = rules or Rules()
        self.path = folder / path
        self.recorder = Recorder(self.robot, self.rules, self.path, keep_last)
        self.now = 0
        self.messages = []  # that were taken while it recorded
        self.make = {
            "front": ("Image", image),
            "wrist": ("Image", image),
            "joints /joints": ("JointState", lambda at, i: states(at, i / 1000)),
            "actions": ("JointState", lambda at, i: states(at, np.sin(i))),
        }

    def run(self, seconds, without=(), rates=RATES, senders=(b"p",)):
        """Let messages come, of each stream from ``senders`` in turns."""
        for at in range(self.now, self.now + round(seconds * 1000)):
            for stream in self.robot.streams:
                step = round(1000 / rates[stream.name])
                if at % step == 0 and stream.name not in without:
                    kind, make = self.make[stream.name]
                    item = (stream, kind, make(at * MS, at // step), START + at * MS)
                    self.recorder.take(*item, senders[at // step % len(senders)])
                    if self.recorder.recording:
                        self.messages.append(item)
            self.now = at + 1
        return self

    @property
    def clock(self):
        return START + self.now * MS

    def start(self):
        return self.recorder.start(self.clock)

    def record(self, seconds, end="stop"):
        """Record an episode; return what is said of it."""
        self.start()
        self.run(seconds)
        return getattr(self.recorder, end)().result(30)

    def refused(self, match):
        with pytest.raises(UserError, match=match) as error:
            self.start()
        assert str(error.value).startswith("not started: ")
        assert not self.recorder.recording


@pytest.fixture
def live(tmp_path):
    made = []

    def function(**options):
        made.append(Live(tmp_path, **options))
        return made[-1]

    yield function
    for one in made:
        if one.recorder.writer._thread.is_alive():
            one.recorder.close()


def lengths(path):
    with EpisodeFile(path) as file:
        return file.lengths.tolist()
