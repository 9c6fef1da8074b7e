"""Bags become episodes: the same, byte for byte, as their messages fed through the ingest directly."""

import random
import shutil
import sqlite3
import struct
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags")

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore

from world_model_ros import cli
from world_model_ros.data import convert
from world_model_ros.data.bags import deserialized
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.ingest import Ingest, Rules
from world_model_ros.data.records import make_record
from world_model_ros.data.robot import read_robot

MS = 1_000_000
START = 1_700_000_000_000 * MS
STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
ROBOT = {
    "name": "arm",
    "period": 0.05,
    "block": 2,
    "cameras": {
        "front": {"topic": "/front/image_raw", "rate": 30, "size": 16},
        "wrist": {"topic": "/wrist/image_raw", "rate": 15},
    },
    "model_camera": "front",
    "joints": {
        "names": ["j1", "j2"],
        "topics": ["/arm/joint_states", "/gripper/joint_states"],
        "prefix": "left_",
        "fields": ["position", "velocity"],
    },
    "actions": {
        "names": ["j1", "j2"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-1, -1],
        "high": [1, 1],
        "source": {"topic": "/command/executed"},
    },
}


def header(at, frame=""):
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=at // 10**9, nanosec=at % 10**9)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def image(at, seed, height=24, width=32):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return TYPES["sensor_msgs/msg/Image"](
        header=header(at),
        height=height,
        width=width,
        encoding="bgr8",
        is_bigendian=0,
        step=3 * width,
        data=pixels.reshape(-1),
    )


def compressed(at, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    data = np.frombuffer(cv2.imencode(".jpg", pixels)[1].tobytes(), np.uint8)
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(at), format="jpeg", data=data)


def joint_state(at, names, positions, velocities):
    return TYPES["sensor_msgs/msg/JointState"](
        header=header(at),
        name=list(names),
        position=np.array(positions, np.float64),
        velocity=np.array(velocities, np.float64),
        effort=np.zeros(0),
    )


def recording(seconds=4.0, seed=0, gap=None):
    """Return (topic, type, message, received): jittered, out of order, with a gap from..to ms."""
    generator, found = random.Random(seed), []

    def add(topic, kind, rate, make):
        for i in range(int(seconds * rate)):
            at = START + round(i * 1000 / rate * MS) + generator.randrange(-8 * MS, 8 * MS)
            if gap is None or not gap[0] * MS <= at - START < gap[1] * MS:
                found.append((topic, kind, make(at, i), at + generator.randrange(1 * MS, 60 * MS)))

    add("/front/image_raw", "sensor_msgs/msg/Image", 30, lambda at, i: image(at, i))
    add("/wrist/image_raw/compressed", "sensor_msgs/msg/CompressedImage", 15, compressed)
    kind = "sensor_msgs/msg/JointState"
    add(
        "/arm/joint_states",
        kind,
        100,
        lambda at, i: joint_state(at, ["x", "left_j1"], [9, i], [9, generator.random()]),
    )
    add(
        "/gripper/joint_states",
        kind,
        20,
        lambda at, i: joint_state(at, ["left_j2"], [-i], [generator.random()]),
    )
    add(
        "/command/executed",
        kind,
        20,
        lambda at, i: joint_state(at, ["j1", "j2"], [], [generator.random(), -generator.random()]),
    )
    add("/rosout_like", "std_msgs/msg/String", 5, lambda at, i: TYPES["std_msgs/msg/String"](data=str(i)))
    return sorted(found, key=lambda item: item[3])


def write_bag(path, messages, plugin):
    with Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, kind, message, received in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], received, STORE.serialize_cdr(message, kind))
    return path


def write_humble(path, messages):
    """Write a bag as Humble does: SQLite without type definitions and without a table that says so."""
    path.mkdir()
    database = sqlite3.connect(path / "bag_0.db3")
    database.executescript(
        "CREATE TABLE topics(id INTEGER PRIMARY KEY,name TEXT NOT NULL,type TEXT NOT NULL,"
        "serialization_format TEXT NOT NULL,offered_qos_profiles TEXT NOT NULL);"
        "CREATE TABLE messages(id INTEGER PRIMARY KEY,topic_id INTEGER NOT NULL,timestamp INTEGER NOT NULL, "
        "data BLOB NOT NULL);"
    )
    topics = {topic: (i + 1, kind) for i, (topic, kind) in enumerate({m[0]: m[1] for m in messages}.items())}
    for topic, (number, kind) in topics.items():
        database.execute("INSERT INTO topics VALUES(?, ?, ?, 'cdr', '')", (number, topic, kind))
    for topic, kind, message, received in messages:
        row = (topics[topic][0], received, bytes(STORE.serialize_cdr(message, kind)))
        database.execute("INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", row)
    database.commit()
    database.close()
    counts = [
        {
            "topic_metadata": {
                "name": topic,
                "type": kind,
                "serialization_format": "cdr",
                "offered_qos_profiles": "",
            },
            "message_count": sum(m[0] == topic for m in messages),
        }
        for topic, (_, kind) in topics.items()
    ]
    begin, end = messages[0][3], messages[-1][3]
    information = {
        "version": 5,
        "storage_identifier": "sqlite3",
        "relative_file_paths": ["bag_0.db3"],
        "duration": {"nanoseconds": end - begin},
        "starting_time": {"nanoseconds_since_epoch": begin},
        "message_count": len(messages),
        "topics_with_message_count": counts,
        "compression_format": "",
        "compression_mode": "",
    }
    (path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}))
    return path


@pytest.fixture
def robot(tmp_path):
    def function(**changes):
        path = tmp_path / "arm.yaml"
        path.write_text(yaml.safe_dump(ROBOT | changes))
        return path

    return function


def run(*words):
    return cli.main(["convert", *map(str, words)])


def direct(robot, messages, rules=None):
    """Return the episodes of messages that are fed through the ingest as a recorder does."""
    robot = read_robot(robot)
    ingest, rows = Ingest(robot, rules or Rules()), []
    topics = {s.topic: s for s in robot.streams}
    topics |= {f"{s.topic}/compressed": s for s in robot.streams if s.role == "camera"}
    for topic, kind, message, received in messages:
        if topic in topics:
            record = make_record(robot, topics[topic], kind.rsplit("/")[-1], message, received)
            rows += ingest.add(record)
    rows += ingest.finish()
    episodes = []
    for row in rows:
        if row.first:
            episodes.append([])
        episodes[-1].append(row.columns)
    return [{key: np.stack([row[key] for row in episode]) for key in episode[0]} for episode in episodes]


def same(path, episodes):
    """Assert that a file holds these episodes, byte for byte."""
    with h5py.File(path) as file:
        assert file["ep_len"][:].tolist() == [len(episode["pixels"]) for episode in episodes]
        columns = set(file) - {"ep_len", "ep_offset", "episode_idx", "step_idx"}
        assert columns == set(episodes[0])
        for name in columns:
            expected = np.concatenate([episode[name] for episode in episodes])
            stored = file[name][:]
            assert (stored.dtype, stored.shape) == (expected.dtype, expected.shape)
            assert stored.tobytes() == expected.tobytes(), name


def without_metadata(bag):
    (bag / "metadata.yaml").unlink()
    return bag


def bare(bag):
    (file,) = (f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))
    alone = bag.parent / f"alone{file.suffix}"
    shutil.move(file, alone)
    return alone


def without_index(bag):
    """Cut the summary, which has the index, off an MCAP file."""
    file = bare(bag)
    data = file.read_bytes()
    (summary,) = struct.unpack_from("<Q", data, len(data) - 37 + 9)
    assert summary
    file.write_bytes(data[:summary] + b"\x02\x14" + bytes(7) + bytes(20) + data[-8:])
    return file


@pytest.mark.parametrize(
    ("plugin", "change"),
    [
        (StoragePlugin.MCAP, lambda bag: bag),
        (StoragePlugin.SQLITE3, lambda bag: bag),
        (StoragePlugin.MCAP, without_metadata),
        (StoragePlugin.SQLITE3, without_metadata),
        (StoragePlugin.MCAP, bare),
        (StoragePlugin.SQLITE3, bare),
        (StoragePlugin.MCAP, without_index),
    ],
)
def test_a_bag_gives_what_its_messages_give_live(tmp_path, robot, plugin, change, capsys):
    messages = recording(gap=(1500, 2700))
    bag = change(write_bag(tmp_path / "bag", messages, plugin))
    assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    episodes = direct(robot(), messages)
    assert len(episodes) == 2
    assert all(len(episode["pixels"]) > 20 for episode in episodes)
    same(tmp_path / "out.h5", episodes)
    said = capsys.readouterr().out
    assert "2 episodes of" in said
    assert f"{tmp_path / 'out.h5'}: 2 episodes" in said


def test_a_humble_bag_without_types_gives_the_same(tmp_path, robot):
    messages = recording(2.0)
    for change in (lambda bag: bag, without_metadata):
        bag = change(write_humble(tmp_path / "bag", messages))
        assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5", "--distro", "humble") == 0
        same(tmp_path / "out.h5", direct(robot(), messages))
        shutil.rmtree(bag)
        (tmp_path / "out.h5").unlink()


def test_an_mcap_file_of_a_killed_recorder_is_read_up_to_its_last_complete_record(tmp_path, robot, capsys):
    messages = [
        (topic, kind, image(received, 0, 96, 128) if topic == "/front/image_raw" else message, received)
        for topic, kind, message, received in recording()
    ]
    bag = write_bag(tmp_path / "bag", messages, StoragePlugin.MCAP)
    with Reader(bag / "bag.mcap") as reader:
        ends = [chunk.chunk_start_offset + chunk.chunk_length for chunk in reader.storage.chunks]
        counts = [sum(chunk.channel_count.values()) for chunk in reader.storage.chunks]
    assert len(ends) > 2
    (bag / "metadata.yaml").unlink()
    whole = (bag / "bag.mcap").read_bytes()
    for cut, complete in ((ends[1] + 5, 2), (ends[-1] - 1, len(ends) - 1), (len(whole) - 3, len(ends))):
        (bag / "bag.mcap").write_bytes(whole[:cut])
        assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
        same(tmp_path / "out.h5", direct(robot(), messages[: sum(counts[:complete])]))
        assert (
            "bag.mcap was never closed: it is read up to its last complete record" in capsys.readouterr().out
        )
        (tmp_path / "out.h5").unlink()


def test_messages_of_a_file_without_index_need_no_order(tmp_path, robot):
    messages, generator = recording(), random.Random(3)
    shuffled = sorted(messages, key=lambda m: m[3] + generator.randrange(100 * MS))
    assert shuffled != messages
    bag = without_index(write_bag(tmp_path / "bag", shuffled, StoragePlugin.MCAP))
    assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    same(tmp_path / "out.h5", direct(robot(), messages))


def test_a_database_that_was_not_closed_is_named_with_the_remedy(tmp_path, robot, capsys):
    bag = write_bag(tmp_path / "bag", recording(1.0), StoragePlugin.SQLITE3)
    (bag / "bag.db3-wal").write_bytes(b"x")
    said = refused(capsys, bag, "--robot", robot(), "--out", tmp_path / "out.h5")
    assert "bag.db3 was never closed, its newest messages are in bag.db3-wal: join them with" in said


def test_bytes_that_fast_dds_leaves_behind_a_message_do_no_harm(tmp_path, robot):
    messages, state = recording(1.0), "sensor_msgs/msg/JointState"
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {topic: kind for topic, kind, *_ in messages}
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE) for topic, kind in kinds.items()
        }
        for topic, kind, message, received in messages:
            behind = b"\0\1y\0" * 3 if kind == state else b""
            writer.write(connections[topic], received, bytes(STORE.serialize_cdr(message, kind)) + behind)
    assert run(tmp_path / "bag", "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    same(tmp_path / "out.h5", direct(robot(), messages))
    cut = bytes(STORE.serialize_cdr(next(m[2] for m in messages if m[1] == state), state))[:-8]
    with pytest.raises(SerdeError):
        deserialized(STORE.deserialize_cdr, cut, state)


def test_what_is_converted_is_an_episode_file(tmp_path, robot):
    bag = write_bag(tmp_path / "bag", recording(2.0), StoragePlugin.MCAP)
    assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    with EpisodeFile(tmp_path / "out.h5") as file:
        assert file.frame_shape == (16, 16, 3)
        assert file.coordinate_names == ["j1", "j2", "j1_velocity", "j2_velocity"]
        assert file.coordinates(0)[:, 1].tolist() == sorted(file.coordinates(0)[:, 1].tolist(), reverse=True)
        assert file.attributes["action_names"] == ["j1", "j2"]
        assert (file.attributes["period"], file.attributes["block"]) == (0.05, 2)
        assert file.attributes["source"] == "bag"
        assert file.attributes["robot"] == "arm"
        assert np.isnan(file.actions(0)[-1]).all()
        assert np.isfinite(file.actions(0)[:-1]).all()
    assert not (tmp_path / "out.h5.parts").exists()


def test_several_bags_are_episodes_in_their_order_and_never_joined(tmp_path, robot):
    one, two = recording(1.0, 1), recording(1.5, 2)
    bags = [
        write_bag(tmp_path / "a", one, StoragePlugin.MCAP),
        write_bag(tmp_path / "b", two, StoragePlugin.SQLITE3),
    ]
    assert run(*bags, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    same(tmp_path / "out.h5", direct(robot(), one) + direct(robot(), two))


def test_a_bag_in_several_files_without_metadata_is_one_recording(tmp_path, robot):
    messages = recording(3.0)
    folder = tmp_path / "bag"
    folder.mkdir()
    for number, part in ((2, messages[:300]), (10, messages[300:])):  # in numerical order
        bag = write_bag(tmp_path / "part", part, StoragePlugin.MCAP)
        shutil.move(bag / "part.mcap", folder / f"bag_{number}.mcap")
        shutil.rmtree(bag)
    assert run(folder, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    same(tmp_path / "out.h5", direct(robot(), messages))


def test_a_dry_run_reports_and_writes_nothing(tmp_path, robot, capsys):
    bag = write_bag(tmp_path / "bag", recording(2.0), StoragePlugin.MCAP)
    before = sorted(tmp_path.rglob("*"))
    options = ("--robot", robot(), "--dry-run", "--policy", "as-of:0.08", "--policy", "wrist=hold")
    before.append(tmp_path / "arm.yaml")
    assert run(bag, *options) == 0
    assert set(tmp_path.rglob("*")) == set(before)
    lines = capsys.readouterr().out.splitlines()
    front = next(line for line in lines if line.startswith("front ")).split()
    assert front[1] == "60"
    assert 28 < float(front[2]) < 32
    assert front[3] == "30"
    assert 0.033 < float(front[4]) < 0.06
    assert next(line for line in lines if line.startswith("front ")).endswith(
        "header, as-of:0.08, /front/image_raw"
    )
    assert next(line for line in lines if line.startswith("wrist ")).endswith(
        "header, hold, /wrist/image_raw"
    )
    assert lines[-1] == "nothing is written (--dry-run)"


def test_the_options_reach_the_ingest(tmp_path, robot):
    messages = recording(2.0)
    bag = write_bag(tmp_path / "bag", messages, StoragePlugin.MCAP)
    cameras = {name: camera | {"rate": 20} for name, camera in ROBOT["cameras"].items()}
    path = robot(cameras=cameras)
    assert (
        run(bag, "--robot", path, "--out", tmp_path / "c.h5", "--clock", "camera", "--split-gap", "0.7") == 0
    )
    same(tmp_path / "c.h5", direct(path, messages, Rules("camera", 0.7)))
    received = [(topic, kind, message, at) for topic, kind, message, at in messages]
    assert run(bag, "--robot", robot(), "--out", tmp_path / "r.h5", "--time", "receive") == 0
    late = {name: camera | {"time": "receive"} for name, camera in ROBOT["cameras"].items()}
    source = ROBOT["actions"]["source"] | {"time": "receive"}
    path = robot(
        cameras=late,
        joints=ROBOT["joints"] | {"time": "receive"},
        actions=ROBOT["actions"] | {"source": source},
    )
    same(tmp_path / "r.h5", direct(path, received))


def test_an_interrupted_conversion_goes_on_with_the_same_result(tmp_path, robot, monkeypatch):
    messages = recording(6.0, gap=(2000, 4000))
    bag = write_bag(tmp_path / "bag", messages, StoragePlugin.MCAP)
    words = (bag, "--robot", robot(), "--out", tmp_path / "out.h5")
    opened = []
    true_open = convert.EpisodeWriter.open

    def interrupted(self, index=None):
        opened.append(index)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return true_open(self, index)

    monkeypatch.setattr(convert.EpisodeWriter, "open", interrupted)
    assert run(*words) == 130
    assert not (tmp_path / "out.h5").exists()
    assert run(*words) == 0
    assert opened == [0, 1, 1]
    same(tmp_path / "out.h5", direct(robot(), messages))


def test_a_message_that_cannot_be_used_is_counted_and_the_others_are_used(tmp_path, robot, capsys):
    messages = recording(2.0)
    place = next(i for i, m in enumerate(messages) if i > 200 and m[0] == "/front/image_raw")
    messages[place][2].encoding = "strange"
    bag = write_bag(tmp_path / "bag", messages, StoragePlugin.MCAP)
    assert run(bag, "--robot", robot(), "--out", tmp_path / "out.h5") == 0
    assert "front: 1 messages cannot be used: its encoding is 'strange'" in capsys.readouterr().out
    del messages[place]
    same(tmp_path / "out.h5", direct(robot(), messages))


def refused(capsys, *words):
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_what_is_missing_is_said_in_one_sentence(tmp_path, robot, capsys):
    messages = recording(1.0)
    bag = write_bag(
        tmp_path / "bag", [m for m in messages if m[0] != "/gripper/joint_states"], StoragePlugin.MCAP
    )
    out = ("--out", tmp_path / "out.h5")
    said = refused(capsys, bag, "--robot", robot(), *out)
    assert f"{bag} has no topic /gripper/joint_states (did you mean /arm/joint_states?)" in said
    assert "its topics are /arm/joint_states, /command/executed," in said
    joints = ROBOT["joints"] | {"topics": ["/arm/joint_states"]}
    said = refused(capsys, bag, "--robot", robot(joints=joints), *out)
    assert f"{bag}: no message has the joints j2" in said
    source = ROBOT["actions"] | {"source": {"topic": "/rosout_like"}}
    said = refused(capsys, bag, "--robot", robot(joints=joints, actions=source), *out)
    assert "has std_msgs/msg/String on /rosout_like, which the robot file names for actions" in said
    assert "JointState is needed" in said
    assert not (tmp_path / "out.h5").exists()
    assert not (tmp_path / "out.h5.parts").exists()


def test_a_topic_is_found_in_a_namespace(tmp_path, robot):
    messages = [
        (f"/left{topic}" if topic == "/command/executed" else topic, *rest) for topic, *rest in recording(1.0)
    ]
    bag = write_bag(tmp_path / "bag", messages, StoragePlugin.MCAP)
    actions = ROBOT["actions"] | {"source": {}}  # the default is relative: command/executed
    assert run(bag, "--robot", robot(actions=actions), "--out", tmp_path / "out.h5") == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("bag", "--out", "x.h5"), "--robot is missing: name the robot file"),
        (
            ("bag", "--robot", "arm.yaml"),
            "--out is missing: name the episode file to write, or add --dry-run",
        ),
        (("none", "--robot", "arm.yaml", "--out", "x.h5"), "there is no none: check the path"),
        (("arm.yaml", "--robot", "arm.yaml", "--out", "x.h5"), "arm.yaml has none of the formats"),
        (("bag", "--robot", "arm.yaml", "--out", "arm.yaml"), "--out arm.yaml is there already"),
        (("bag", "--robot", "arm.yaml", "--out", "no/x.h5"), "--out no/x.h5: there is no folder no"),
        (
            ("bag", "--robot", "arm.yaml", "--out", "x.h5", "--policy", "zero"),
            "--policy zero: 'zero' is no policy",
        ),
        (
            ("bag", "--robot", "arm.yaml", "--out", "x.h5", "--policy", "left=hold"),
            "no stream is called 'left'",
        ),
        (("bag", "--robot", "arm.yaml", "--out", "x.h5", "--split-gap", "0"), "--split-gap 0 is no time"),
        (("bag", "--robot", "arm.yaml", "--out", "x.h5", "--clock", "camera"), "front cannot be the clock"),
        (
            ("cut.mcap", "--robot", "arm.yaml", "--out", "x.h5"),
            "cut.mcap holds no complete message (it was never closed): record",
        ),
        (
            ("bad.db3", "--robot", "arm.yaml", "--out", "x.h5"),
            "bad.db3 is not a rosbag2 recording that can be",
        ),
    ],
)
def test_what_cannot_be_converted_is_refused(tmp_path, robot, capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    robot()
    write_bag(Path("bag"), recording(0.5), StoragePlugin.MCAP)
    Path("cut.mcap").write_bytes(Path("bag/bag.mcap").read_bytes()[:2000])
    Path("bad.db3").write_bytes(b"nonsense" * 1000)
    assert sentence in refused(capsys, *words)
    assert not Path("x.h5").exists()
