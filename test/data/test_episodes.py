import os
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from world_model_ros.data import atomic
from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.normalisation import action_spec, denormalise, normalise
from world_model_ros.errors import UserError

ATTRIBUTES = {
    "action_names": ["x", "y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "period": 0.1,
    "block": 2,
    "steps_per_row": 2,
}


def episode(seed, length=6, width=4):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (length, 8, 8, 3), dtype=np.uint8)
    action = rng.uniform(-1, 1, (length, width)).astype(np.float32)
    action[-1] = np.nan
    return pixels, action, rng.normal(size=(length, 3)).astype(np.float32)


def write(path, seeds, attributes=ATTRIBUTES, **kwargs):
    with EpisodeWriter(path, attributes) as writer:
        for seed in seeds:
            writer.append(*episode(seed, **kwargs))


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / "a.h5", [0, 1])
    file = EpisodeFile(tmp_path / "a.h5")
    for e in (0, 1):
        pixels, action, state = episode(e)
        np.testing.assert_array_equal(file.pixels(e), pixels)
        np.testing.assert_array_equal(file.actions(e), action)
        np.testing.assert_array_equal(file.states(e), state)
    assert {k: file.attributes[k] for k in ATTRIBUTES} == ATTRIBUTES
    assert not (tmp_path / "a.h5.parts").exists()


def test_layout_is_the_published_one(tmp_path):
    write(tmp_path / "a.h5", [0, 1, 2])
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["pixels"].shape == (18, 8, 8, 3)
        assert file["pixels"].dtype == np.uint8
        assert file["ep_len"][:].tolist() == [6, 6, 6]
        assert file["ep_len"].dtype == np.int32
        assert file["ep_offset"][:].tolist() == [0, 6, 12]
        assert file["ep_offset"].dtype == np.int64
        assert file["episode_idx"][:].tolist() == [0] * 6 + [1] * 6 + [2] * 6
        assert file["step_idx"][:].tolist() == [*range(6)] * 3


def test_episodes_are_ordered_by_index_and_appended_later(tmp_path):
    with EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES) as writer:
        for seed in (1, 0):
            writer.append(*episode(seed), index=seed)
    write(tmp_path / "a.h5", [2])
    file = EpisodeFile(tmp_path / "a.h5")
    assert len(file) == 3
    for e in range(3):
        np.testing.assert_array_equal(file.pixels(e), episode(e)[0])


def test_a_killed_writer_keeps_every_finished_episode(tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        import numpy as np
        from world_model_ros.data.episodes import EpisodeWriter
        writer = EpisodeWriter(sys.argv[1], {"action_names": ["x"]})
        for i in range(3):
            writer.append(np.full((2, 4, 4, 3), i, np.uint8), np.zeros((2, 1)))
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    path = tmp_path / "a.h5"
    process = subprocess.run([sys.executable, "-c", script, str(path)], env=os.environ)
    assert process.returncode == -signal.SIGKILL
    writer = EpisodeWriter(path, {"action_names": ["x"]})
    assert writer.done == {0, 1, 2}
    writer.finish()
    assert EpisodeFile(path).pixels(2)[0, 0, 0, 0] == 2


FULL_DISK = """
import resource, signal, sys
import h5py
import numpy as np
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.errors import UserError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk: the write fails, nobody is killed


def episode(seed, length):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (length, 24, 24, 3), np.uint8), np.zeros((length, 1), np.float32)


def full(limit, work):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        work()
    except UserError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    return ""


path = sys.argv[1]
writer = EpisodeWriter(path, {"action_names": ["x"]})
writer.append(*episode(0, 4))
writer.append(*episode(1, 4))
for limit in (0, 1, 100, 1000, 2048, 5000, 20_000, 60_000):
    said = full(limit, lambda: writer.append(*episode(2, 40)))
    assert "this episode is lost, the 2 before it are safe" in said, (limit, said)
    assert writer.done == {0, 1}
    assert not list(writer.parts.glob("*.tmp")), limit
for limit in (0, 100, 1000, 2048, 3000, 4096, 6000, 8000, 10_000, 12_000, 14_000):
    said = full(limit, writer.finish)
    assert "all 2 episodes are safe" in said, (limit, said)
    assert sorted(EpisodeWriter(path, {"action_names": ["x"]}).done) == [0, 1]
assert writer.append(*episode(2, 40)) == 2
writer.finish()
file = EpisodeFile(path)
for seed, length in enumerate((4, 4, 40)):
    np.testing.assert_array_equal(file.pixels(seed), episode(seed, length)[0])
file.close()

again = EpisodeWriter(path, {"action_names": ["x"]})
again.append(*episode(3, 4))
assert "all 4 episodes are safe" in full(50_000, again.finish)
assert len(EpisodeFile(path)) == 3
print("all is well")
"""


@pytest.mark.fault
def test_fault_34_on_a_full_disk_the_episode_at_hand_is_dropped_whole_and_the_others_stay(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "a.h5")], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "all is well\n"
    assert process.stderr == ""


@pytest.mark.fault
def test_fault_34_a_disk_that_is_full_from_the_start_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)


def test_ctrl_c_at_any_moment_of_writing_is_neither_lost_nor_leaves_half_an_episode(tmp_path, monkeypatch):
    calls, strike = 0, 1

    def counted(name):
        called = getattr(atomic._Sink, name)

        def call(sink, *arguments):
            nonlocal calls
            calls += 1
            if calls == strike:
                signal.raise_signal(signal.SIGINT)
            return called(sink, *arguments)

        return call

    for name in ("write", "seek", "tell", "truncate", "flush"):  # with which HDF5 reaches the file
        monkeypatch.setattr(atomic._Sink, name, counted(name))
    path = tmp_path / "a.h5"
    while True:
        calls = 0
        writer = EpisodeWriter(path, ATTRIBUTES)
        try:
            writer.append(*episode(0))
        except KeyboardInterrupt:
            assert not writer.done
            assert list(writer.parts.glob("episode-*")) == []
            strike += 1
            continue
        break
    assert strike == calls + 1 > 20
    monkeypatch.undo()
    writer.finish()
    with EpisodeFile(path) as file:
        assert len(file) == 1


def test_ctrl_c_ends_a_long_write_at_its_next_piece(tmp_path):
    writer = EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)
    before, pieces = signal.getsignal(signal.SIGINT), 0

    def write_on():
        nonlocal pieces
        with writer.open() as add:
            for _ in range(9):
                pieces += 1
                signal.raise_signal(signal.SIGINT)
                add(dict(zip(("pixels", "action", "state"), episode(0), strict=True)))

    with pytest.raises(KeyboardInterrupt):
        write_on()
    assert pieces == 1
    assert not writer.done
    assert signal.getsignal(signal.SIGINT) is before


def test_other_settings_are_refused(tmp_path):
    write(tmp_path / "a.h5", [0])
    with pytest.raises(UserError, match="period 0.1 there, 0.2 now"):
        EpisodeWriter(tmp_path / "a.h5", {**ATTRIBUTES, "period": 0.2})


def test_a_published_file_without_attributes_is_read(tmp_path):
    pixels, action, _ = episode(0, width=2)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["pixels"], file["action"] = pixels, action
        file["ep_len"], file["ep_offset"] = np.array([6], np.int32), np.array([0])
    file = EpisodeFile(tmp_path / "p.h5")
    assert file.attributes["steps_per_row"] == 1
    assert file.attributes["action_names"] == ["action_0", "action_1"]
    clips = Clips(file, action_spec(file), block=2, frames=3)
    assert len(clips) == 2
    frames, _ = clips.batch([1])
    np.testing.assert_array_equal(frames[0], pixels[[1, 3, 5]])


@pytest.mark.parametrize(
    "content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 64], ids=["empty", "text", "cut"]
)
def test_a_broken_file_is_one_sentence(tmp_path, content):
    (tmp_path / "b.h5").write_bytes(content)
    with pytest.raises(UserError, match=r"b\.h5"):
        EpisodeFile(tmp_path / "b.h5")


def test_a_missing_column_is_named(tmp_path):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["pixels"] = np.zeros((1, 2, 2, 3), np.uint8)
    with pytest.raises(UserError, match="action"):
        EpisodeFile(tmp_path / "c.h5")


def test_clips_pair_frames_with_the_blocks_that_leave_them(tmp_path):
    write(tmp_path / "a.h5", [0, 1])
    file = EpisodeFile(tmp_path / "a.h5")
    spec = action_spec(file)
    clips = Clips(file, spec, block=4, frames=2)  # two rows a model step
    assert len(clips) == 2 * 4
    pixels, blocks = clips.batch([5])
    expected, action, _ = episode(1)
    np.testing.assert_array_equal(pixels[0], expected[[1, 3]])
    np.testing.assert_allclose(denormalise(blocks[0, 0], spec), action[1:3].reshape(-1), atol=1e-6)


def test_normalisation_is_per_dimension_and_reversible(tmp_path):
    write(tmp_path / "a.h5", [0, 1])
    file = EpisodeFile(tmp_path / "a.h5")
    spec = action_spec(file)
    steps = np.concatenate([file.actions(e)[:-1].reshape(-1, 2) for e in (0, 1)])
    scores = normalise(steps, spec)
    np.testing.assert_allclose(scores.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scores.std(0), 1, atol=1e-5)
    np.testing.assert_allclose(denormalise(scores, spec), steps, atol=1e-6)
    assert normalise(np.full((1, 4), np.nan), spec).tolist() == [[0, 0, 0, 0]]


def test_an_action_that_never_moves_is_refused(tmp_path):
    with EpisodeWriter(tmp_path / "a.h5", {"action_names": ["still"]}) as writer:
        writer.append(np.zeros((3, 4, 4, 3), np.uint8), np.ones((3, 1)))
    with pytest.raises(UserError, match="still"):
        action_spec(EpisodeFile(tmp_path / "a.h5"))


def test_an_episode_that_comes_row_by_row_is_the_same(tmp_path):
    pixels, action, state = episode(0, length=150)
    with EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES) as writer:
        writer.append(pixels, action, state)
        with writer.open() as add:
            for i in range(0, 150, 7):
                add({"pixels": pixels[i : i + 7], "action": action[i : i + 7], "state": state[i : i + 7]})
        with pytest.raises(ValueError, match="episode 1 is stored already"), writer.open(1):
            pass
    with EpisodeFile(tmp_path / "a.h5") as file:
        for read, written in ((file.pixels, pixels), (file.actions, action), (file.states, state)):
            np.testing.assert_array_equal(read(0), written)
            np.testing.assert_array_equal(read(1), written)


def test_an_episode_that_is_given_up_leaves_nothing(tmp_path):
    writer = EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)
    block = writer.open()
    block.__enter__()(dict(zip(("pixels", "action", "state"), episode(0), strict=True)))
    given_up = KeyboardInterrupt()
    assert not block.__exit__(KeyboardInterrupt, given_up, None)
    assert writer.done == set()
    assert [file.name for file in writer.parts.iterdir()] == ["attributes.json"]
    writer.append(*episode(1))
    assert writer.done == {0}


def test_further_cameras_are_kept_and_do_not_disturb(tmp_path):
    pixels, action, _ = episode(0)
    wrist = np.random.default_rng(9).integers(0, 256, (6, 5, 7, 3), np.uint8)
    for _ in range(2):  # the second time behind what is there
        with EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES) as writer, writer.open() as add:
            add({"pixels": pixels, "pixels_wrist": wrist, "action": action})
    with EpisodeFile(tmp_path / "a.h5") as file, h5py.File(tmp_path / "a.h5") as raw:
        assert len(file) == 2
        np.testing.assert_array_equal(raw["pixels_wrist"][:], np.concatenate([wrist, wrist]))
        np.testing.assert_array_equal(file.pixels(1), pixels)
        assert Clips(file, action_spec(file), block=2, frames=3).pixels.shape == (12, 8, 8, 3)
    writer = EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)
    with pytest.raises(UserError, match=r"those before it of .*'pixels_wrist'"):
        writer.append(pixels, action)
