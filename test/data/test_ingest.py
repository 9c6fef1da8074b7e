"""Records become rows: policies, clocks, gaps, stamps out of order, and a stream that is missing."""

import itertools
import random

import numpy as np
import pytest
import yaml

from world_model_ros.data.ingest import Ingest, Rules
from world_model_ros.data.records import Record
from world_model_ros.data.robot import Policy, read_robot
from world_model_ros.errors import UserError

MS = 1_000_000
START = 1_700_000_000_000 * MS
FILE = {
    "period": 0.05,
    "block": 2,
    "cameras": {"front": {"topic": "/camera", "rate": 20}},
    "joints": {"names": ["a", "b"], "topics": ["/arm", "/gripper"]},
    "actions": {
        "names": ["a", "b"],
        "kind": "joint_velocity",
        "unit": "rad/s",
        "low": [-100, -100],
        "high": [100, 100],
        "source": {"topic": "/command"},
    },
}


@pytest.fixture
def robot(tmp_path):
    def function(**changes):
        path = tmp_path / "robot.yaml"
        path.write_text(yaml.safe_dump(FILE | changes))
        return read_robot(path)

    return function


def frame(at, value=0, stream="front"):
    return Record(stream, START + at * MS, START + at * MS, {"": np.full((4, 4, 3), value % 256, np.uint8)})


def joints(at, topic="/arm", **values):
    content = {name: (value,) for name, value in values.items()}
    return Record(f"joints {topic}", START + at * MS, START + at * MS, content)


def command(at, a, b=0.0):
    return Record("actions", START + at * MS, START + at * MS, {"a": (a,), "b": (b,)})


def recording(steps=10, begin=0, without=()):
    """Messages every 50 ms, whose values are the number of their step."""
    records = []
    for i in range(begin, begin + steps):
        records += [
            frame(50 * i, i),
            joints(50 * i, a=i),
            joints(50 * i, "/gripper", b=-i),
            command(50 * i, i),
        ]
    return [
        record for record in records if (record.stream, (record.stamp - START) // MS // 50) not in without
    ]


def rows_of(ingest, records):
    rows = list(itertools.chain.from_iterable(map(ingest.add, records)))
    return rows + ingest.finish()


def episodes(rows):
    """Return the episodes, each a dict of stacked columns."""
    found, current = [], []
    for row in rows:
        assert row.first == (not current)
        current.append(row.columns)
        if row.last:
            found.append({key: np.stack([c[key] for c in current]) for key in current[0]})
            current = []
    assert not current
    return found


def test_each_control_step_is_a_row(robot):
    ingest = Ingest(robot())
    rows = rows_of(ingest, recording())
    (episode,) = episodes(rows)
    assert episode["pixels"].shape == (10, 4, 4, 3)
    assert episode["pixels"].dtype == np.uint8
    assert episode["pixels"][:, 0, 0, 0].tolist() == list(range(10))
    assert episode["proprio"].tolist() == [[i, -i] for i in range(10)]
    assert episode["action"].dtype == np.float32
    assert episode["action"][:-1].tolist() == [[i, 0] for i in range(9)]
    assert np.isnan(episode["action"][-1]).all()
    assert [row.time for row in rows] == [START + 50 * i * MS for i in range(10)]
    assert ingest.lengths == [10]
    assert ingest.steps == 10
    assert ingest.attributes["steps_per_row"] == 1
    assert ingest.attributes["proprio_names"] == ["a", "b"]
    assert ingest.problem() == ""


def test_rows_come_while_messages_do_and_little_is_kept(robot):
    ingest = Ingest(robot())
    late = 0
    for i, record in enumerate(recording(2000)):
        late += len(ingest.add(record))
        kept = sum(len(group.waiting) for group in ingest._groups.values())
        assert kept <= 4 * (1.5 / 0.05 + 2)
        assert i // 4 - late <= 1.5 / 0.05 + 2
    assert late + len(ingest.finish()) == 2000


def test_velocities_are_averaged_over_the_control_step(robot):
    records = [*recording(4, without={("actions", i) for i in range(4)}), command(0, 1.0), command(60, 2.0)]
    records += [command(75, 4.0), command(100, 0.0), command(149, 50.0)]
    (episode,) = episodes(rows_of(Ingest(robot()), sorted(records, key=lambda r: r.stamp)))
    np.testing.assert_allclose(episode["action"][:3, 0], [1.0, (10 * 1 + 15 * 2 + 25 * 4) / 50, 1.0])


def test_of_positions_the_one_in_force_counts(robot):
    actions = FILE["actions"] | {"kind": "joint_position", "unit": "rad"}
    records = [*recording(4, without={("actions", i) for i in range(4)}), command(0, 1.0), command(60, 2.0)]
    (episode,) = episodes(rows_of(Ingest(robot(actions=actions)), sorted(records, key=lambda r: r.stamp)))
    assert episode["action"][:3, 0].tolist() == [1, 1, 2]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("clock", ["rate", "camera"])
def test_the_order_of_arrival_changes_nothing(robot, seed, clock):
    generator = random.Random(seed)
    records = [
        record._replace(stamp=record.stamp + generator.randrange(-20, 20) * MS)
        for record in recording(200, without={("front", 60), ("front", 61), ("joints /arm", 120)})
    ]
    records = [r for r in records if not START + 5000 * MS < r.stamp < START + 6500 * MS]
    records.sort(key=lambda r: r.stamp)
    shuffled = sorted(records, key=lambda r: r.stamp + generator.randrange(0, 490) * MS)
    assert shuffled != records
    rules = Rules(clock=clock)
    one, other = (rows_of(Ingest(robot(), rules), order) for order in (records, shuffled))
    assert [row.time for row in one] == [row.time for row in other]
    assert len(episodes(one)) == len(episodes(other)) == 2
    for a, b in zip(episodes(one), episodes(other), strict=True):
        assert {k: (v.dtype, v.tobytes()) for k, v in a.items()} == {
            k: (v.dtype, v.tobytes()) for k, v in b.items()
        }


def test_an_episode_ends_before_a_gap_and_the_next_begins_after_it(robot):
    ingest = Ingest(robot())
    found = episodes(rows_of(ingest, recording(20) + recording(15, begin=60)))
    assert [e["pixels"][:, 0, 0, 0].tolist() for e in found] == [list(range(20)), list(range(60, 75))]
    assert ingest.lengths == [20, 15]


@pytest.mark.parametrize(("silent", "count"), [(18, 1), (22, 2)])
def test_a_stream_is_held_through_a_short_silence_only(robot, silent, count):
    gone = {("joints /gripper", i) for i in range(10, 10 + silent)}
    found = episodes(rows_of(Ingest(robot()), recording(50, without=gone)))
    assert len(found) == count
    assert found[0]["proprio"][9:11].tolist() == [[9, -9], [10, -9]][: 1 + (count == 1)]
    assert sum(len(e["pixels"]) for e in found) == (50 if count == 1 else 50 - silent)


@pytest.mark.parametrize(
    ("policy", "lengths", "held"),
    [("hold", [20], 3), ("as-of:0.12", [12, 7], 2), ("as-of:0.16", [20], 3), ("drop", [10, 7], 0)],
)
def test_policies_for_a_camera_that_misses_three_frames(robot, policy, lengths, held):
    file = {"cameras": {"front": FILE["cameras"]["front"] | {"policy": policy}}}
    ingest = Ingest(robot(**file))
    found = episodes(rows_of(ingest, recording(20, without={("front", i) for i in (10, 11, 12)})))
    assert [len(e["pixels"]) for e in found] == lengths
    assert ingest._clock.held == held
    assert ingest._clock.dropped == 20 - sum(lengths)
    assert ingest._joints.dropped == 0
    shares = [line for line in ingest.report().splitlines() if line.startswith("front")]
    assert f"{held / 20:.1%}" in shares[0]
    assert f"{(20 - sum(lengths)) / 20:.1%}" in shares[0]


def test_policies_are_overridden_by_stream(robot):
    changed = robot().override("receive", {"": Policy("drop"), "joints": Policy("as-of", 0.2)})
    assert [str(s.policy) for s in changed.streams] == ["drop", "as-of:0.2", "as-of:0.2", "drop"]
    assert {s.time for s in changed.streams} == {"receive"}
    with pytest.raises(UserError, match="no stream is called 'frnt': name one of front, joints, actions"):
        robot().override(policies={"frnt": Policy("drop")})


def test_the_camera_as_clock_has_a_row_a_frame_with_several_control_steps_each(robot):
    cameras = {"front": {"topic": "/camera", "rate": 10}}
    records = [*recording(20, without={("front", i) for i in range(1, 20, 2)})]
    moved = [r._replace(stamp=r.stamp + 8 * MS) if r.stream == "front" else r for r in records]
    ingest = Ingest(robot(cameras=cameras), Rules(clock="camera"))
    assert ingest.steps_per_row == 2
    rows = rows_of(ingest, moved)
    (episode,) = episodes(rows)
    assert [row.time - START for row in rows] == [(8 + 100 * i) * MS for i in range(10)]
    assert episode["pixels"][:, 0, 0, 0].tolist() == list(range(0, 20, 2))
    # The control step from 8 to 58 ms: 42 ms of command 0 and 8 ms of command 1.
    np.testing.assert_allclose(episode["action"][0, [0, 2]], [8 / 50, 1 + 8 / 50], rtol=1e-6)
    assert np.isnan(episode["action"][-1]).all()


@pytest.mark.parametrize(("policy", "lengths"), [("hold", [20]), ("drop", [10, 9])])
def test_a_frame_that_the_clock_misses_is_held_or_ends_the_episode(robot, policy, lengths):
    file = {"cameras": {"front": FILE["cameras"]["front"] | {"policy": policy}}}
    rows = rows_of(Ingest(robot(**file), Rules(clock="camera")), recording(20, without={("front", 10)}))
    assert [len(e["pixels"]) for e in episodes(rows)] == lengths


@pytest.mark.parametrize(
    ("rate", "block", "sentence"),
    [
        (
            15,
            2,
            "its frames are 0.06667 s apart, which is no multiple of the period of 0.05 s: use --clock rate",
        ),
        (30, 2, "its frames are 0.03333 s apart"),
        (5, 2, "a block of 2 control steps does not hold whole steps of its frames, 4 control steps apart"),
    ],
)
def test_a_camera_that_cannot_be_the_clock_is_refused(robot, rate, block, sentence):
    file = robot(cameras={"front": {"topic": "/camera", "rate": rate}}, block=block)
    with pytest.raises(UserError, match=sentence):
        Ingest(file, Rules(clock="camera"))
    with pytest.raises(UserError, match="--split-gap 0.04 is shorter than what lies between the frames"):
        Ingest(file, Rules(split_gap=0.04))


def test_more_cameras_are_stored_under_their_names(robot):
    cameras = {"front": {"topic": "/f", "rate": 20}, "wrist": {"topic": "/w", "rate": 10}}
    records = recording(10) + [frame(100 * i, 100 + i, "wrist") for i in range(5)]
    ingest = Ingest(robot(cameras=cameras, model_camera="front"))
    (episode,) = episodes(rows_of(ingest, sorted(records, key=lambda r: r.stamp)))
    assert episode["pixels_wrist"][:, 0, 0, 0].tolist() == [100, 100, 101, 101, 102, 102, 103, 103, 104, 104]
    assert ingest._groups["wrist"].held == 5


def test_a_frame_of_another_size_is_left_out(robot):
    ingest = Ingest(robot())
    records = recording(10)
    records[16] = records[16]._replace(content={"": np.zeros((5, 4, 3), np.uint8)})
    (episode,) = episodes(rows_of(ingest, records))
    assert episode["pixels"][3:6, 0, 0, 0].tolist() == [3, 3, 5]
    assert "front: 1 messages cannot be used: it is 4 x 5, the first one was 4 x 4" in ingest.report()


def test_a_message_far_out_of_order_is_left_out_and_counted(robot):
    records = recording(60)
    records.insert(120, command(0, 1000.0))
    ingest = Ingest(robot())
    (episode,) = episodes(rows_of(ingest, records))
    assert np.nanmax(episode["action"]) < 100
    assert "actions: 1 messages came too late or far out of order" in ingest.report()


def test_a_clock_that_is_set_back_begins_a_new_episode(robot):
    ingest = Ingest(robot())
    found = episodes(rows_of(ingest, recording(100, begin=1000) + recording(60)))
    assert [len(e["pixels"]) for e in found] == [100, 59]  # the first step tells that the clock was set
    assert found[1]["pixels"][0, 0, 0, 0] == 1
    assert ingest.counts["front"].rate == pytest.approx(20)


def test_receive_times_and_messages_without_a_stamp(robot):
    late = [r._replace(stamp=0) for r in recording(10)]
    ingest = Ingest(robot())
    assert rows_of(ingest, late) == []
    assert (
        "the messages on /camera (front) have no stamp (it is zero): write `time: receive` in cameras.front "
        "of the robot file" in ingest.problem()
    )
    for records in (late, [r._replace(stamp=None) for r in recording(10)]):
        taken = robot().override("receive") if records is late else robot()
        assert len(rows_of(Ingest(taken), records)) == 10


def test_what_is_missing_is_said_in_one_sentence(robot):
    def problem(records):
        ingest = Ingest(robot())
        assert rows_of(ingest, records) == []
        return ingest.problem()

    everything = recording(10)
    without = [r for r in everything if r.stream != "joints /gripper"]
    assert problem(without) == (
        "there is no message on /gripper (joints /gripper): record it, or correct the robot file"
    )
    renamed = [
        r._replace(content={}, names=("left_a", "left_b")) if r.stream.startswith("joints") else r
        for r in everything
    ]
    assert problem(renamed) == (
        "no message has the joints a, b, they have left_a, left_b: set joints.prefix to 'left_'"
    )
    apart = [r._replace(stamp=r.stamp + 3600_000 * MS) if r.stream == "actions" else r for r in everything]
    assert problem(apart) == (
        "the messages on /command (actions) are stamped 3600.0 s after those of the camera front, at no time "
        "with them: synchronise the clocks, or write `time: receive` in actions.source of the robot file"
    )
    received = [r._replace(stamp=None) if r.stream == "actions" else r for r in apart]
    received = [r._replace(received=r.received + 3600_000 * MS) if r.stamp is None else r for r in received]
    assert problem(received) == (
        "the messages on /command (actions) came 3600.0 s after the stamps of the camera front, at no time "
        "with them: synchronise the clocks, or write `time: receive` in cameras.front of the robot file"
    )
    ingest = Ingest(robot())
    ingest.reject("front", "its encoding is 'x'")
    rows_of(ingest, [r for r in everything if r.stream != "front"])
    assert ingest.problem() == "no message on /camera (front) can be used: its encoding is 'x'"


def test_actions_outside_the_limits_are_counted(robot):
    ingest = Ingest(robot(actions=FILE["actions"] | {"low": [-1, -1], "high": [6, 1]}))
    rows_of(ingest, recording(10))
    assert ingest.outside.tolist() == [2, 0]
    assert "a: 2 control steps are outside the limits of the robot file" in ingest.report()


def test_clocks_that_are_apart_are_noted(robot):
    records = [r._replace(stamp=r.stamp - 2000 * MS) if r.stream == "actions" else r for r in recording(100)]
    ingest = Ingest(robot())
    rows_of(ingest, records)
    assert "actions: stamps are 2.00 s older on arrival than those of front" in ingest.report()
    ingest = Ingest(robot())
    rows_of(ingest, recording(100))
    assert "older on arrival" not in ingest.report()
    ingest = Ingest(robot(), time_option=True)
    rows_of(ingest, records)
    remedy = "if the clocks are apart, synchronise them, or use --time receive, or write `time: receive` in "
    assert f"{remedy}actions.source of the robot file" in ingest.report()


@pytest.mark.parametrize(("shift", "word"), [(-2000, "older than"), (2000, "ahead of")])
def test_a_stream_that_takes_the_receive_time_has_no_stamps_that_could_be_apart(robot, shift, word):
    def taken(change):
        ingest = Ingest(robot())
        rows_of(ingest, list(map(change, recording(100))))
        return ingest.report()

    def late(record):  # one message that was read while the machine hung
        at = record.stamp - START
        hung = record.stream != "actions" and at == 2000 * MS
        record = record._replace(received=record.stamp - 1250 * MS) if hung else record
        return record._replace(stamp=None) if record.stream == "actions" else record

    said = taken(late)
    assert "clocks are apart" not in said
    assert "stamps are" not in said
    said = taken(lambda r: r._replace(stamp=None if r.stream == "actions" else r.stamp + shift * MS))
    assert (
        f"front: stamps are 2.00 s {word} the arrival, which actions takes: if the clocks are apart" in said
    )
    assert "or write `time: receive` in cameras.front of the robot file" in said
    assert "--time" not in said


def test_why_a_recording_was_split_is_said(robot):
    silent = {("actions", step) for step in range(40, 68)}
    ingest = Ingest(robot())
    rows_of(ingest, recording(120, without=silent))
    assert len(ingest.lengths) == 2
    assert (
        "actions: silent for 1.45 s, longer than the split gap of 1 s: the episode was split there, after "
        f"{ingest.lengths[0]} rows"
    ) in ingest.report()
    ingest = Ingest(robot())
    rows_of(ingest, recording(120, without={("joints /gripper", step) for _, step in silent}))
    assert "joints (b): silent for 1.45 s, longer than" in ingest.report()
    ingest = Ingest(robot(cameras={"front": FILE["cameras"]["front"] | {"policy": "drop"}}))
    rows_of(ingest, recording(120, without={("front", step) for step in (20, 50, 51, 80, 100)}))
    rows = ", ".join(map(str, ingest.lengths[:3]))
    assert (
        "front: silent 4 times for up to 0.15 s, too long for its policy, drop: the episode was split there, "
        f"after {rows} ... rows"
    ) in ingest.report()
    ingest = Ingest(robot())
    rows_of(ingest, recording(100, without={("actions", step) for step in range(40, 100)}))
    assert "split there" not in ingest.report(), "nothing comes after it"
    ingest = Ingest(robot())
    rows_of(ingest, recording(100, begin=1000) + recording(100))
    assert "the clock was set back 1 time: the episode was split there" in ingest.report()


def test_a_single_episode_is_told_as_one(robot):
    ingest = Ingest(robot())
    rows_of(ingest, recording(10))
    assert ingest.report().splitlines()[-1] == "1 episode of 10 rows, 0.5 s"


def test_a_robot_without_joints_has_no_proprio(robot):
    file = {key: value for key, value in FILE.items() if key != "joints"}
    base = file["actions"] | {"names": ["linear_x", "angular_z"], "kind": "twist", "frame": "base_link"}
    path = robot(actions=base).path
    with open(path, "w") as text:
        yaml.safe_dump(file | {"actions": base}, text)
    records = [
        r._replace(content={"linear_x": r.content["a"], "angular_z": r.content["b"]})
        if r.stream == "actions"
        else r
        for r in recording(10)
        if not r.stream.startswith("joints")
    ]
    ingest = Ingest(read_robot(path))
    (episode,) = episodes(rows_of(ingest, records))
    assert set(episode) == {"pixels", "action"}
    assert episode["action"][:-1, 0].tolist() == list(range(9))
    assert "proprio_names" not in ingest.attributes
