import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.data import assembly
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter


def contents(path):
    """Return everything of each episode, by its old names."""
    with EpisodeFile(path) as file:
        raw = file._file
        per_row, per_episode, _ = assembly.sort_datasets(raw, len(raw["pixels"]), len(file))
        found = []
        for e in range(len(file)):
            rows = slice(file.offsets[e], file.offsets[e] + file.lengths[e])
            columns = {n: d[rows] for n, d in per_row.items()} | {n: d[e] for n, d in per_episode.items()}
            found.append({**columns, "label": int(file.labels[e])})
        return found


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def run(*words):
    return main(["episodes", *map(str, words)])


def test_drop_keeps_the_others_with_all_their_datasets(more, capsys):
    before, content = contents(more), more.read_bytes()
    assert run("drop", more, "1", "3-4") == 0
    assert "3 dropped, 3 episodes left" in capsys.readouterr().out
    after = contents(more)
    assert [e["label"] for e in after] == [1, -1, 0]
    for old, new in zip((0, 2, 5), after, strict=True):
        assert_same(before[old], new)
    assert {"pixels_wrist", "extra/current", "weight", "words"} <= after[0].keys()
    with h5py.File(more) as file:
        np.testing.assert_array_equal(file["calibration"], np.eye(3))
    assert run("drop", more, "0") == 0  # there are as many episodes as the calibration has rows
    with h5py.File(more) as file:
        np.testing.assert_array_equal(file["calibration"], np.eye(3))
    assert_same(before[2], contents(more)[0])
    more.with_name("more.h5.1.bak").rename(more)
    with h5py.File(more) as file:
        assert file["extra/current"].attrs["unit"] == "A"
        assert file["episode_idx"][:].tolist() == [0] * 20 + [1] * 20 + [2] * 20
        assert file["step_idx"][:].tolist() == [*range(20)] * 3
        assert file["pixels"].compression == "gzip"
        assert file.attrs["period"] == 0.1
        # the command that collected the file does not make this one
        assert not {"seed", "length"} & set(file.attrs)
    assert more.with_name("more.h5.bak").read_bytes() == content


def test_each_change_leaves_a_backup_of_its_own(more):
    contents_then = []
    for words in (("drop", more, "5"), ("label", more, "0", "failure"), ("trim", more, "1", "--first", "2")):
        contents_then.append(more.read_bytes())
        assert run(*words) == 0
    names = ("more.h5.bak", "more.h5.1.bak", "more.h5.2.bak")
    assert [more.with_name(name).read_bytes() for name in names] == contents_then
    assert sorted(p.name for p in more.parent.iterdir()) == sorted(["more.h5", *names])


def test_a_disk_without_hard_links_has_backups_too(more, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    content = more.read_bytes()
    monkeypatch.setattr(os, "link", no_links)
    assert run("drop", more, "0") == 0
    assert more.with_name("more.h5.bak").read_bytes() == content
    assert len(contents(more)) == 5


def test_the_file_behind_a_link_is_changed(more, tmp_path):
    link = tmp_path / "folder" / "link.h5"
    link.parent.mkdir()
    link.symlink_to(more)
    assert run("drop", link, "0") == 0
    assert link.is_symlink()
    assert len(contents(more)) == 5


def test_long_episodes_are_copied_in_slices(more, monkeypatch):
    monkeypatch.setattr(assembly, "SLICE", 100)
    before = contents(more)
    with h5py.File(more, "r+") as file:  # contiguous, without chunks
        pixels = file["pixels"][:]
        del file["pixels"]
        file["pixels"] = pixels
    assert run("drop", more, "0") == 0
    for old, new in zip(before[1:], contents(more), strict=True):
        assert_same(old, new)


def test_copying_takes_little_memory(tmp_path, write):
    """64 MB of frames in one episode, with a limit on the copy's own memory."""
    path = tmp_path / "big.h5"
    with h5py.File(path, "w") as file:
        pixels = file.create_dataset("pixels", (600, 200, 200, 3), "u1", chunks=(1, 200, 200, 3))
        for row in range(600):
            pixels[row] = row % 251
        file["action"] = np.zeros((600, 2), np.float32)
        file["ep_len"], file["ep_offset"] = [2, 598], [0, 2]
    script = textwrap.dedent("""
        import resource, sys
        import cv2, h5py, numpy, tqdm
        from world_model_ros.data.curate import command
        from world_model_ros.cli import main
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert main(["episodes", "drop", sys.argv[1], "0"]) == 0
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 40  # MB, of 72
    with EpisodeFile(path) as file:
        assert file.pixels(0, slice(0, 3))[:, 0, 0, 0].tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("drop", "6"), "has episodes 0 to 5, there is no episode 6"),
        (("drop", "-3"), ""),
        (("drop", "3-1"), "write numbers and ranges, such as 3 5 7-9"),
        (("drop", "a"), "write numbers and ranges"),
        (("drop", "0-5"), "delete the file instead"),
        (("trim", "--first", "3"), "episodes that you name"),
        (("trim", "1", "--first", "3", "--idle-speed", "1"), "use one"),
        (("trim", "1", "--first", "-3"), "must not be negative"),
        (("trim", "1", "--first", "10", "--last", "9"), "episode 1 has 20 frames, after cutting 19"),
        (("label", "7", "success"), "there is no episode 7"),
        (("sheet", "--out", "a.txt"), "a .png or an .html file"),
        (("sheet", "--out", "no/such/a.png"), "make it first"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(more, capsys, words, message):
    content = more.read_bytes()
    try:
        code = run(words[0], more, *words[1:])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert more.read_bytes() == content
    assert [p.name for p in more.parent.iterdir()] == ["more.h5"]


def test_a_recording_that_is_not_finished_is_left_alone(more, capsys):
    with EpisodeFile(more) as file:
        columns = file.pixels(0), file.actions(0), file.states(0)
        attributes = {k: v for k, v in file.attributes.items() if k != "steps_per_row"}
    plain = more.with_name("plain.h5")
    with EpisodeWriter(plain, attributes) as writer:
        writer.append(*columns)
        writer.append(*columns)
    writer = EpisodeWriter(plain, attributes)
    writer.append(*columns)
    assert run("drop", plain, "0") == 2
    assert f"or with `record --finish --out {plain}`" in capsys.readouterr().err
    writer.finish()
    assert run("drop", plain, "0") == 0


def test_labels_are_set_and_kept(more, capsys):
    assert run("label", more, "0", "2-3", "failure") == 0
    assert "0 success, 5 failure, 1 none" in capsys.readouterr().out
    assert run("label", more, "0", "success") == 0
    assert run("label", more, "3", "none") == 0
    assert [e["label"] for e in contents(more)] == [1, 0, 0, -1, -1, 0]
    with h5py.File(more) as file:
        assert file["success"].dtype == np.int8
        assert file.attrs["seed"] == 3  # a label does not change what was recorded


def test_a_file_without_labels_has_none(tmp_path, write):
    path = write(tmp_path / "plain.h5", episodes=2)
    with EpisodeFile(path) as file:
        assert "success" not in file._file
        assert file.labels.tolist() == [-1, -1]


def idle(episode, pixels, actions, places):
    """Nothing moves in the first ``episode`` rows and in the last 3."""
    actions[:episode] = 0.001
    actions[-4:-1] = 0
    return pixels, actions, places


def test_trim_cuts_idle_ends(tmp_path, write, capsys):
    path = write(tmp_path / "idle.h5", change=idle)
    before = contents(path)
    assert run("trim", path) == 0
    assert "33 frames (3.3 s) cut off 6 of 6 episodes" in capsys.readouterr().out
    for episode, (old, new) in enumerate(zip(before, contents(path), strict=True)):
        # the last frame shows what the last action did, and no action leaves it
        np.testing.assert_array_equal(old["pixels"][episode:17], new["pixels"])
        np.testing.assert_array_equal(old["action"][episode:16], new["action"][:-1])
        assert np.isnan(new["action"][-1]).all()
    assert run("trim", path) == 0
    assert "nothing to cut off" in capsys.readouterr().out


def test_trim_by_speed_and_by_number(tmp_path, write, capsys):
    path = write(tmp_path / "a.h5")
    before = contents(path)
    assert run("trim", path, "1-2", "--first", "3", "--last", "5") == 0
    after = contents(path)
    assert [len(e["pixels"]) for e in after] == [20, 12, 12, 20, 20, 20]
    np.testing.assert_array_equal(after[1]["pixels"], before[1]["pixels"][3:15])
    assert run("trim", path, "--idle-speed", "2") == 0
    assert "never moving, left as they are: 0 1 2 3 4 5" in capsys.readouterr().out
    assert run("trim", path, "3", "--idle-speed", "0.95") == 0
    moving = np.flatnonzero((np.abs(before[3]["action"][:-1]) > 0.95).any(1))
    np.testing.assert_array_equal(
        contents(path)[3]["pixels"], before[3]["pixels"][moving[0] : moving[-1] + 2]
    )


def test_merge_has_the_episodes_of_both_and_says_whose(more, tmp_path, capsys):
    other = tmp_path / "other.h5"
    other.write_bytes(more.read_bytes())
    assert run("drop", other, "0-1") == 0
    with h5py.File(other, "r+") as file:
        file.attrs["source"] = "the other table"
    out = tmp_path / "c.h5"
    capsys.readouterr()
    assert run("merge", more, other, "--out", out) == 0
    assert capsys.readouterr().out == f"{out}: 6 + 4 = 10 episodes\n"
    merged = contents(out)
    for old, new in zip(contents(more) + contents(other), merged, strict=True):
        source = new.pop("ep_source")
        assert_same(old, new)
    assert source == b"other.h5 3: the other table"
    with EpisodeFile(out) as file:
        assert file.attributes["source"] == "test; the other table"
        assert file.attributes["period"] == 0.1
    assert run("merge", out, other, "--out", tmp_path / "d.h5") == 0
    assert len(contents(tmp_path / "d.h5")) == 14


def shorter(_, pixels, actions, places):
    return pixels[:, :12], actions, places


@pytest.mark.parametrize(
    ("attributes", "change", "both"),
    [
        ({"action_names": ["x", "z"]}, None, ("x, y", "x, z")),
        ({"action_unit": "rad/s"}, None, ("m/s", "rad/s")),
        ({"action_kind": "joint_velocity"}, None, ("twist", "joint_velocity")),
        ({"action_high": [1.0, 2.0]}, None, ("[-1, 1], [-1, 1]", "[-1, 1], [-1, 2]")),
        ({"action_low": [], "action_high": []}, None, ("[-1, 1], [-1, 1]", "not stated")),
        ({"period": 0.05}, None, ("0.1", "0.05")),
        ({"block": 4}, None, ("5", "4")),
        ({"state_names": ["a", "b"]}, None, ("['x', 'y']", "['a', 'b']")),
        ({}, shorter, ("24x32x3", "12x32x3")),
        ({}, lambda e, p, a, s: (p, a), ("float32 (2,)", "missing")),
    ],
)
def test_merge_refuses_what_differs_with_both_sides(tmp_path, write, capsys, attributes, change, both):
    a = write(tmp_path / "a.h5", episodes=2)
    b = write(tmp_path / "b.h5", episodes=2, attributes=attributes, change=change)
    assert run("merge", a, b, "--out", tmp_path / "c.h5") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{both[0]} in {a}" in error.replace("'m/s'", "m/s").replace("'rad/s'", "rad/s").replace(
        "'twist'", "twist"
    )
    assert f"{both[1]} in {b}" in error.replace("'rad/s'", "rad/s").replace(
        "'joint_velocity'", "joint_velocity"
    )
    assert not (tmp_path / "c.h5").exists()


def test_merge_never_writes_over_a_file(more, tmp_path, write, capsys):
    other = write(tmp_path / "other.h5", episodes=2)
    content = other.read_bytes()
    assert run("merge", more, other, "--out", other) == 2
    assert "exists" in capsys.readouterr().err
    assert other.read_bytes() == content
    assert run("merge", more, more, "--out", tmp_path / "c.h5") == 2
    assert "twice" in capsys.readouterr().err


def test_list_says_what_each_episode_is(tmp_path, write, capsys):
    def change(episode, pixels, actions, places):
        if episode == 1:
            actions[:12] = 0
        if episode == 2:
            actions[:-1] = 0
        if episode == 3:
            actions[5] = np.nan
        return pixels, actions, places

    path = write(tmp_path / "a.h5", episodes=4, change=change, labels=[1, 0, -1, -1])
    assert run("list", path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["episode", "frames", "seconds", "label", "source", "warnings"]
    assert lines[1].split() == ["0", "20", "1.9", "success", "test"]
    assert lines[2].split()[3] == "failure"
    assert lines[2].endswith("idle for 1.2 s at the start")
    assert lines[3].endswith("never moves")
    assert lines[4].endswith("1 rows before the last lack actions")


@pytest.mark.fault
@pytest.mark.parametrize("limit", [0, 1000, 20_000])
def test_on_a_full_disk_the_file_stays_as_it_was(more, capsys, limit):
    content, hard = more.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: the write fails
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert run("drop", more, "0") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, handler)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "free some space there" in error
    assert "is as it was" in error
    assert more.read_bytes() == content
    assert [p.name for p in more.parent.iterdir()] == ["more.h5"]


@pytest.mark.fault
@pytest.mark.parametrize("kind", [KeyboardInterrupt, "kill"])
def test_an_interruption_leaves_the_old_file(more, kind):
    content = more.read_bytes()
    script = textwrap.dedent("""
        import os, signal, sys
        from world_model_ros.cli import main
        from world_model_ros.data.assembly import Assembly
        add, calls = Assembly.add, []
        def interrupted(*words, **more):
            calls.append(add(*words, **more))
            if len(calls) == 3:
                os.kill(os.getpid(), int(sys.argv[2]))
        Assembly.add = interrupted
        sys.exit(main(["episodes", "drop", sys.argv[1], "0"]))
    """)
    number = signal.SIGKILL if kind == "kill" else signal.SIGINT
    words = [sys.executable, "-c", script, str(more), str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), done.stderr
    assert more.read_bytes() == content
    assert not more.with_name("more.h5.bak").exists()
    assert run("drop", more, "0") == 0
    assert sorted(p.name for p in more.parent.iterdir()) == ["more.h5", "more.h5.bak"]


def test_a_file_that_cannot_be_read_completely_is_one_sentence(more, capsys):
    with h5py.File(more, "r+") as file:
        place = file["pixels"].id.get_chunk_info(50)
    content = bytearray(more.read_bytes())
    content[place.byte_offset : place.byte_offset + place.size] = b"\0" * place.size
    more.write_bytes(content)
    with h5py.File(more, "r+") as file:  # so that rows are read and not copied as they are
        state = file["state"][:]
        del file["state"]
        file.create_dataset("state", data=state, chunks=(2, 2), fletcher32=True)
        place = file["state"].id.get_chunk_info(20)
    content = bytearray(more.read_bytes())
    content[place.byte_offset : place.byte_offset + 8] = b"\xff" * 8
    more.write_bytes(content)
    assert run("drop", more, "0") == 2
    error = capsys.readouterr().err
    assert "cannot be read completely" in error
    assert "nothing was changed" in error
    assert more.read_bytes() == content
