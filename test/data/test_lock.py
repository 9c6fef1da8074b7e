"""One process at a time writes an episode file, and readers are told who it is."""

import errno
import re
import shutil
import time

import pytest

from test.data.conftest import lengths
from world_model_ros import cli
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError


def test_two_recorders_never_write_one_file(live):
    live()
    with pytest.raises(UserError, match=r"out.h5 is being written by a recorder \(process \d+\): end that"):
        live()


def test_no_other_verb_writes_a_file_that_a_recorder_has_open(live, tmp_path, capsys):
    one = live().run(2)
    one.record(1)
    one.recorder.close()
    shutil.copy(one.path, tmp_path / "other.h5")
    file, other, new = str(one.path), str(tmp_path / "other.h5"), tmp_path / "new.h5"
    robot = live().run(2)
    robot.record(1)
    live(path="new.h5")
    writer = r"is being written by a recorder \(process \d+\): end that first"
    for words in (
        ["record", "--finish", "--out", file],
        ["record", "--finish", "--out", str(new)],
        ["episodes", "trim", file],
        ["episodes", "drop", file, "0"],
        ["episodes", "label", file, "0", "success"],
        ["episodes", "merge", file, other, "--out", str(new)],
        ["collect", "--task", "reach", "--episodes", "1", "--out", str(new)],
    ):
        assert cli.main(words) == 2
        assert re.search(writer, capsys.readouterr().err), words
    assert not new.exists()
    robot.record(1)
    assert robot.recorder.close() == f"{file}: 3 episodes"
    assert lengths(file) == [20, 20, 20]


def test_a_disk_without_locks_is_written_all_the_same(live, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    robot = live().run(2)
    robot.record(1)
    with pytest.raises(UserError, match="was not finished, its episodes are in"):
        EpisodeFile(robot.path)
    assert robot.recorder.close() == f"{robot.path}: 1 episode"
    assert not robot.path.with_name("out.h5.parts").exists()


def test_who_reads_a_file_is_told_that_a_recorder_has_it_open(live, tmp_path, capsys):
    robot = live().run(2)
    assert cli.main(["inspect", str(robot.path)]) == 2
    assert re.search(
        r"out.h5 is not there yet: a recorder \(process \d+\) makes it when", capsys.readouterr().err
    )
    robot.record(1)
    robot.recorder.close()
    robot = live().run(2)
    (link := tmp_path / "link.h5").symlink_to(robot.path)
    robot.record(1)
    told = r"note: a recorder \(process \d+\) has it open: 1 more episode is in .*, and joined when it ends"
    for words in (
        ["inspect", str(robot.path)],
        ["inspect", str(link)],
        ["episodes", "list", str(robot.path)],
    ):
        assert cli.main(words) == 0
        said = capsys.readouterr()
        assert re.search(told, said.out + said.err)
    robot.recorder.close()
    assert cli.main(["inspect", str(robot.path)]) == 0
    assert "has it open" not in capsys.readouterr().out


def test_what_a_killed_recorder_leaves_is_finished_or_continued(live, tmp_path, capsys):
    robot = live().run(2)
    robot.record(1)
    robot.start()
    robot.run(3)
    end = time.monotonic() + 30
    parts = robot.recorder.writer.writer.parts
    while not list(parts.glob("*.tmp")):
        assert time.monotonic() < end
    killed = tmp_path / "killed.h5"
    shutil.copytree(parts, tmp_path / "killed.h5.parts")
    assert cli.main(["inspect", str(killed)]) == 2
    assert f"join them with `record --finish --out {killed}`" in capsys.readouterr().err
    shutil.copytree(parts, tmp_path / "again.h5.parts")
    assert cli.main(["record", "--finish", "--out", str(killed)]) == 0
    assert lengths(killed) == [20]
    shutil.copytree(parts, tmp_path / "killed.h5.parts")
    with EpisodeFile(killed) as file:
        assert file.notes == [f"1 more episode is in {killed}.parts: `record --finish` joins it"]
    again = live(path="again.h5")
    assert not list(again.recorder.writer.writer.parts.glob("*.tmp"))
    again.run(2).record(2)
    again.recorder.close()
    assert [round(n / 20) for n in lengths(again.path)] == [1, 2]
