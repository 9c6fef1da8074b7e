"""What a recorder makes of live messages: when it begins, what it keeps, and what a fault costs."""

import resource
import shutil
import time
from types import SimpleNamespace as Message

import h5py
import numpy as np
import pytest
import yaml

from test.data.conftest import MS, RATES, ROBOT, START, image, lengths, states
from world_model_ros import cli
from world_model_ros.data.arrivals import Arrivals
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.ingest import Ingest
from world_model_ros.data.records import make_record
from world_model_ros.errors import UserError


def test_what_came_between_start_and_stop_is_what_the_ingest_makes_of_it(live):
    robot = live().run(2)
    assert robot.start() == "recording"
    robot.run(3)
    said = robot.recorder.stop().result(30)
    assert robot.recorder.close() == f"{robot.path}: 1 episode"
    ingest, rows = Ingest(robot.robot, robot.rules), []
    for stream, kind, message, received in robot.messages:
        rows += ingest.add(make_record(robot.robot, stream, kind, message, received))
    rows += ingest.finish()
    with h5py.File(robot.path) as file:
        assert set(file) >= {"pixels", "pixels_wrist", "proprio", "action"}
        for name in ("pixels", "pixels_wrist", "proprio", "action"):
            expected = np.stack([row.columns[name] for row in rows])
            assert file[name][:].tobytes() == expected.tobytes()
        attributes = dict(file.attrs)
        assert attributes.pop("source") == "recorded, robot arm"
        assert set(attributes) == set(ingest.attributes)
    assert ingest.report() in said
    assert "pixels 8 x 8, pixels_wrist 8 x 8, 2 action values from" in said
    assert "2 joint values, no label" in said
    assert said.endswith("read back, as recorded")


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (
            lambda r: r,
            r"front \(/front\) does not arrive, 20 Hz are declared: no message has come yet; wrist",
        ),
        (
            lambda r: r.run(2, without={"wrist"}),
            r"started: wrist \(/wrist\) does not arrive, 10 Hz are declared: no message has come yet\.$",
        ),
        (
            lambda r: r.run(0.5),
            r"front \(/front\) has arrived for 0\.\d s only: its rate is known after 1\.0 s",
        ),
        (
            lambda r: r.run(3, rates=RATES | {"front": 10}),
            r"front \(/front\) arrives at 10\.0 Hz, 20 Hz are declared: correct the rate of the publisher or",
        ),
        (
            lambda r: r.run(2).run(0.5, without={"joints /joints"}),
            r"joints /joints has not arrived for 0\.5 s, 100 Hz are declared",
        ),
        (lambda r: r.run(2, without={"actions"}), r"actions \(/command\) does not arrive: no message has"),
    ],
)
def test_a_stream_that_is_missing_or_slow_is_named_with_rate_seen_and_needed(live, run, sentence):
    run(live()).refused(sentence)


def test_why_nothing_comes_is_part_of_the_sentence(live):
    robot = live()
    assert "; disk: room known with the frames; not ready: front" in robot.recorder.state(robot.clock)
    robot.recorder.arrivals["front"].absent = "nobody publishes /front"
    robot.refused("20 Hz are declared: nobody publishes /front;")


def test_messages_that_cannot_be_used_are_no_arrivals(live):
    robot = live()
    kind, make = robot.make["front"]
    robot.make["front"] = kind, lambda at, i: Message(**(vars(make(at, i)) | {"encoding": "strange"}))
    robot.run(2).refused(r"no message of front \(/front\) can be used: its encoding is 'strange'")
    robot.make["front"] = kind, make
    assert robot.run(2).start() == "recording"


def test_streams_that_give_no_rows_together_are_refused(live):
    robot = live()
    robot.make["joints /joints"] = "JointState", lambda at, i: states(at, 0.0, ("left_a", "left_b"))
    robot.run(2).refused(r"joints /joints does not arrive")
    robot.make["joints /joints"] = "JointState", lambda at, i: states(at - 3600 * 10**9, 0.0)
    robot.run(2).refused(r"are stamped 3600\.\d s before those of the camera front")
    robot.make["joints /joints"] = "JointState", lambda at, i: states(-START, 0.0)
    robot.run(3).refused(r"the messages on /joints \(joints /joints\) have no stamp \(it is zero\)")


def test_two_nodes_that_send_one_stream_are_refused_joints_may_be_shared(live):
    robot = live()
    robot.recorder.arrivals["actions"].nodes = {b"p": "/operator", b"q": "/operator"}
    robot.run(2)
    robot.run(2).run(1, senders=(b"p", b"q"))
    robot.refused(
        r"front \(/front\) comes from 2 nodes at once: end all but one; .*"
        r"actions \(/command\) comes from 2 nodes at once \(/operator, /operator\): end all but one"
    )
    with pytest.raises(UserError) as error:
        robot.start()
    assert "joints" not in str(error.value)
    robot.run(3)
    robot.run(3, senders=(b"r",))  # it was started again
    robot.start()
    robot.run(1, senders=(b"r",))
    robot.run(1, senders=(b"r", b"q"))
    assert "actions: it came from 2 nodes at once (/operator), and the rows mix what they sent" in (
        robot.recorder.stop().result(30)
    )


def test_a_slow_stream_is_measured_over_a_longer_time(tmp_path):
    stream = Message(where="slow (/slow)", rate=1.0)
    arrivals = Arrivals(stream, 1.0)
    for second in range(4):
        assert arrivals.problem(START + second * 1000 * MS)
        arrivals.arrived(START + second * 1000 * MS)
    assert arrivals.problem(START + 3500 * MS) == ""
    assert arrivals.rate == 1.0
    assert "has not arrived for 3.5 s" in arrivals.problem(START + 6500 * MS)


def test_success_failure_and_no_label(live):
    robot = live().run(2)
    assert ", no label," in robot.record(1)
    assert ", success," in robot.record(1, "success")
    assert ", failure," in robot.record(1, "failure")
    assert ", no label," in robot.record(1)
    assert robot.recorder.success().result(30) == "episode 3: success"
    assert robot.recorder.failure().result(30) == "episode 3: failure"
    robot.recorder.close()
    with EpisodeFile(robot.path) as file:
        assert file.labels.tolist() == [-1, 1, 0, 0]


def test_discarded_and_deleted_episodes_leave_no_gap(live):
    robot = live().run(2)
    for seconds, end in ((1, "stop"), (1.5, "discard"), (2, "stop")):
        robot.record(seconds, end)
    assert robot.recorder.delete_last().result(30) == "episode 1 is deleted, 1 is stored"
    assert robot.record(2.5).splitlines()[-1].startswith("episode 1: ")
    assert robot.record(3, "discard") == "discarded, 2 episodes are stored"
    robot.recorder.close()
    assert [round(n / 20, 1) for n in lengths(robot.path)] == pytest.approx([1.0, 2.5], abs=0.15)


def test_commands_that_make_no_sense_are_refused(live):
    robot = live()
    for command in ("stop", "discard"):
        with pytest.raises(UserError, match="no episode is being recorded"):
            getattr(robot.recorder, command)()
    with pytest.raises(UserError, match="no episode to label"):
        robot.recorder.success().result(30)
    with pytest.raises(UserError, match="no further episode was added"):
        robot.recorder.delete_last().result(30)
    with pytest.raises(UserError, match="--keep-last SECONDS"):
        robot.recorder.keep_last()
    robot.run(2).start()
    for command in (robot.start, robot.recorder.delete_last):
        with pytest.raises(UserError, match="an episode is being recorded"):
            command()


def test_a_recording_without_any_step_is_said(live):
    robot = live().run(2)
    robot.start()
    with pytest.raises(UserError, match="nothing was recorded: no two steps in a row"):
        robot.recorder.stop().result(30)
    assert robot.recorder.close() == f"{robot.path}: no episode was recorded, so it was not written"
    assert not robot.path.exists()
    assert not robot.recorder.writer.writer.parts.exists()


def test_recording_goes_on_in_a_file_that_is_there(live):
    for _ in range(3):
        robot = live().run(2)
        robot.record(1)
        robot.recorder.close()
    assert len(lengths(robot.path)) == 3
    with pytest.raises(UserError, match="was made with other settings"):
        live(block=3)


@pytest.mark.parametrize("everything", [False, True])
def test_a_camera_that_stops_ends_the_episode_and_what_came_before_is_kept(live, everything):
    robot = live().run(2)
    robot.record(1)
    robot.start()
    robot.run(2)
    robot.recorder.arrivals["wrist"].absent = "nobody publishes /wrist"
    ended = None
    for _ in range(40):
        if not everything:
            robot.run(0.05, without={"wrist"})
        robot.now += 50 * everything
        if ended := robot.recorder.check(robot.clock):
            break
    why, outcome = ended
    assert "wrist (/wrist) has not arrived for 1." in why
    assert "s: nobody publishes /wrist" in why
    assert ("front (/front)" in why) == everything
    assert "is kept, without a label" in why
    assert "episode 1: " in outcome.result(30)
    assert not robot.recorder.recording
    robot.refused(r"wrist \(/wrist\) has not arrived for")
    assert robot.recorder.check(robot.clock) is None
    robot.run(2).record(1)
    robot.recorder.close()
    found = lengths(robot.path)
    assert len(found) == 3
    assert 36 <= found[1] <= 41, "no step after the last frame"


def test_frames_of_another_size_end_the_episode_with_the_reason(live):
    robot = live().run(2)
    robot.start()
    robot.run(3)
    robot.make["front"] = "Image", lambda at, i: image(at, i, side=9)
    end = robot.now + 6000
    while (ended := robot.recorder.check(robot.clock)) is None and robot.now < end:
        robot.run(0.1)
    why, outcome = ended
    assert "the streams have given no row for 2." in why
    assert "front: it is 9 x 9, the first one was 8 x 8" in why
    assert "episode 0: 60 rows" in outcome.result(30)


def test_policies_that_split_a_recording_make_several_episodes_with_one_label(live):
    cameras = {"front": {"topic": "/front", "rate": 20, "policy": "drop"}}
    robot = live(cameras=cameras).run(2)
    robot.start()
    robot.run(1).run(0.1, without={"front"}).run(1)
    said = robot.recorder.success().result(30)
    assert "episode 0: " in said
    assert "episode 1: " in said
    robot.start()
    robot.run(1).run(0.1, without={"front"}).run(3)
    assert robot.recorder.discard().result(30) == "discarded, 2 episodes are stored"
    robot.recorder.close()
    with EpisodeFile(robot.path) as file:
        assert file.labels.tolist() == [1, 1]


def test_the_last_seconds_are_kept_and_become_an_episode(live):
    robot = live(keep_last=3.0).run(8)
    assert robot.recorder.memory_kept == 3 * (20 + 10) * 8 * 8 * 3
    assert "; the last 3 s are kept in 0 MB; ready" in robot.recorder.state(robot.clock)
    said = robot.recorder.keep_last().result(30)
    assert said.splitlines()[-1].startswith("episode 0: ")
    with pytest.raises(UserError, match="nothing was recorded"):
        robot.recorder.keep_last().result(30)  # nothing twice
    robot.run(2)
    assert "; the last 2.0 s are kept in 0 MB; ready" in robot.recorder.state(robot.clock)
    robot.start()
    with pytest.raises(UserError, match="its last seconds are in it"):
        robot.recorder.keep_last()
    robot.recorder.close()
    (length,) = lengths(robot.path)
    assert 57 <= length <= 61
    with EpisodeFile(robot.path) as file:
        newest = image(0, 159).data.reshape(8, 8, 3)
        np.testing.assert_array_equal(file.pixels(0)[-1], newest)


def limited(bytes_):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_ if bytes_ else hard, hard))


def test_a_full_disk_costs_the_open_episode_only(live):
    robot = live().run(2)
    robot.record(1)
    robot.start()
    robot.run(3)
    limited(60_000)
    try:
        end = time.monotonic() + 30
        while (ended := robot.recorder.check(robot.clock)) is None and time.monotonic() < end:
            robot.run(0.5)
        _, outcome = ended
        with pytest.raises(
            UserError, match=r"free some space there; this episode is lost, the 1 before it are safe"
        ):
            outcome.result(30)
    finally:
        limited(None)
    assert not list(robot.recorder.writer.writer.parts.glob("*.tmp"))
    robot.run(1).record(2)
    robot.recorder.close()
    assert [round(n / 20) for n in lengths(robot.path)] == [1, 2]


def test_discarding_what_a_full_disk_has_cut_leaves_nothing_of_it(live, monkeypatch):
    cameras = {"front": {"topic": "/front", "rate": 20, "policy": "drop"}}
    robot = live(cameras=cameras).run(2)
    robot.record(1)
    robot.start()
    robot.run(1).run(0.1, without={"front"}).run(3)  # two episodes, the first one is stored
    writer = robot.recorder.writer
    writer.label(0).exception(30)  # all before it is written
    monkeypatch.setattr("world_model_ros.data.writer_thread._Part.add", lambda *_: 1 / 0)
    robot.run(3)
    end = time.monotonic() + 30
    while not writer.error and time.monotonic() < end:
        time.sleep(0.01)
    assert "ZeroDivisionError" in writer.error
    assert writer.episodes == 2
    assert robot.recorder.discard().result(30) == "discarded, 1 episode is stored"


def test_a_disk_that_is_gone_does_not_end_the_recorder(live):
    robot = live().run(2)
    shutil.rmtree(robot.recorder.writer.writer.parts)
    gone = f"{robot.path}.parts, where the episodes are until the end, was removed or moved: put it back"
    assert robot.recorder.state(robot.clock).startswith(f"not ready: {gone}")
    robot.refused(gone)


@pytest.mark.parametrize("before", [0, 1])
def test_episodes_that_somebody_removed_are_not_counted(live, before):
    robot = live().run(2)
    if before:
        robot.record(1)
        robot.recorder.close()
        robot = live().run(2)
    robot.record(1)
    robot.record(1)
    robot.start()
    robot.run(3)
    robot.recorder.writer.label(0).exception(30)  # the open episode is being written
    parts = robot.recorder.writer.writer.parts
    shutil.rmtree(parts)
    with pytest.raises(UserError, match=f"cannot be written: {parts} was removed or moved, with all in it"):
        robot.recorder.stop().result(30)
    held = f"holds {before} episode" if before else "was not written"
    with pytest.raises(UserError, match=f"2 episodes of {parts} are gone, .* {robot.path} {held}"):
        robot.recorder.close()
    assert robot.path.exists() == bool(before)


def test_a_disk_without_room_refuses_a_start(live, monkeypatch):
    robot = live().run(2)
    rate = (2 * 8 * 8 * 3 + 4 * 4) / 0.05
    assert robot.recorder.bytes_per_second == pytest.approx(rate)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Message(free=2 * 5 * rate))
    robot.refused("the disk has room for 5 s: free some space in")
    assert "disk: 0 minutes" in robot.recorder.state(robot.clock)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Message(free=2 * 600 * rate))
    assert "disk: 10 minutes; ready" in robot.recorder.state(robot.clock)


def test_a_disk_that_is_too_slow_ends_the_episode_before_memory_does(live, monkeypatch):
    robot = live().run(2)
    robot.start()
    robot.run(3)
    monkeypatch.setattr("world_model_ros.data.recording.MOST_WAITING", -1)
    why, outcome = robot.recorder.check(robot.clock)
    assert why.startswith("the disk is too slow: 0 MiB wait for it")
    assert "episode 0" in outcome.result(30)


def test_what_was_damaged_on_the_way_to_the_disk_is_said(live, monkeypatch):
    robot = live().run(2)
    monkeypatch.setattr(
        "world_model_ros.data.writer_thread.zlib.crc32", lambda data, calls=[0]: calls.append(0) or len(calls)
    )
    robot.start()
    robot.run(1)
    with pytest.raises(UserError, match="episode 0 is not on the disk as it was recorded"):
        robot.recorder.stop().result(30)


def test_of_a_long_episode_a_part_is_read_back(live, monkeypatch):
    robot = live().run(2)
    reads, row = [], 8 * 8 * 3
    monkeypatch.setattr("world_model_ros.data.writer_thread.READ_BACK", 8 * row)
    true_read = h5py.Dataset.__getitem__

    def read(data, part, **more):
        if data.name == "/pixels":
            reads.append((part.start, part.stop))
        return true_read(data, part, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", read)
    assert "read back, as recorded" in robot.record(2)
    assert reads == [(i, i + 2) for i in range(0, 39, 12)]


def test_what_never_changes_is_noted(live):
    robot = live()
    robot.make["front"] = "Image", lambda at, i: image(at, 0)
    robot.make["actions"] = "JointState", lambda at, i: states(at, 0.0)
    said = robot.run(2).record(1)
    assert "\n  pixels never changes: is the camera frozen" in said
    assert "pixels_wrist never" not in said
    assert "the actions never change: was the robot moved?" in said


def test_the_table_has_a_line_for_each_stream(live):
    robot = live().run(2)
    robot.start()
    robot.run(4)
    robot.recorder.arrivals["front"].lost = 3
    lines = {line.split("  ")[0]: line.split() for line in robot.recorder.table(robot.clock)}
    assert lines["stream"][1:] == ["received", "lost", "written", "Hz", "declared", "gap", "s"]
    assert lines["front"][1:] == ["80", "3", "50", "20.0", "20", "0.050"]
    assert lines["joints /joints"][2:] == ["400", "0", "50", "100.0", "100", "0.010"]
    assert lines["wrist"][1] == "40"
    assert lines["actions"][5] == "-"
    assert robot.recorder.state(robot.clock).startswith("recording, 4.0 s; disk: ")


def test_long_topics_push_no_number_off_a_terminal_of_80_columns(live):
    topics = [f"/cell2/{part}/joint_states" for part in ("lower", "upper")]
    robot = live(joints=ROBOT["joints"] | {"topics": topics})
    names = [f"joints {topic}" for topic in topics]
    robot.make |= dict.fromkeys(names, robot.make["joints /joints"])
    robot.run(2, rates=RATES | dict.fromkeys(names, 100)).start()
    head, *lines = robot.recorder.table(robot.clock)
    assert {len(line) for line in lines} == {len(head)}
    assert len(head) < 80
    shown = ["joints …l2/lower/joint_states", "joints …l2/upper/joint_states"]
    assert [line[:29].rstrip() for line in lines] == ["front", "wrist", *shown, "actions"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "x.h5"], "--robot is missing"),
        (["--robot", "none.yaml", "--out", "x.h5"], "there is no robot file none.yaml"),
        (["--robot", "robot.yaml", "--out", "no/x.h5"], "--out no/x.h5: there is no folder no"),
        (["--robot", "robot.yaml", "--out", "x.h5", "--keep-last", "-1"], "--keep-last -1 is no time"),
        (["--robot", "robot.yaml", "--out", "x.h5", "--split-gap", "0.01"], "--split-gap 0.01 is shorter"),
        (["--finish", "--out", "x.h5"], "x.h5.parts has no episodes of an interrupted recording"),
    ],
)
def test_the_verb_refuses_what_cannot_be(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(ROBOT))
    assert cli.main(["record", *words]) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["robot.yaml"]
