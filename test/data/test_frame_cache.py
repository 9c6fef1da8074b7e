import numpy as np
import pytest

from world_model_ros.data import frame_cache
from world_model_ros.data.clips import Clips
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.frame_cache import cache_where_needed
from world_model_ros.data.normalisation import action_spec
from world_model_ros.errors import UserError
from world_model_ros.model.frames import resize_frame

NEEDED = 18 * 4 * 4 * 3 / 1e9  # GB


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / "a.h5", {"action_names": ["x"], "block": 2}) as writer:
        for length in (5, 6, 7):
            pixels = rng.integers(0, 256, (length, 8, 10, 3), np.uint8)
            writer.append(pixels, rng.normal(size=(length, 1)))
    return tmp_path / "a.h5"


def test_what_fits_is_held_in_memory_without_a_file(path):
    with EpisodeFile(path) as file:
        assert cache_where_needed(file, 4, memory=NEEDED * 1.01) is None
        assert cache_where_needed(file, 4) is None
    assert [p.name for p in path.parent.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("episodes", [[0, 1, 2], [2, 0], [1]])
def test_clips_of_a_cache_are_those_of_memory(path, capsys, monkeypatch, episodes):
    monkeypatch.setattr(frame_cache, "_SLICE", 500)  # two frames
    with EpisodeFile(path) as file:
        action = action_spec(file)
        cache = cache_where_needed(file, 4, memory=NEEDED * 0.99)
        assert "they are written to" in capsys.readouterr().err
        assert cache.path.stat().st_size == round(NEEDED * 1e9)
        held, mapped = (Clips(file, action, 2, 2, episodes, 4, c) for c in (None, cache))
        assert len(held) == len(mapped) > 0
        for a, b in zip(held.batch(range(len(held))), mapped.batch(range(len(held))), strict=True):
            assert type(b) is np.ndarray
            np.testing.assert_array_equal(a, b)
        rows, _ = held.model_steps()
        np.testing.assert_array_equal(held.pixels[rows], mapped.pixels[rows])
        frames = [resize_frame(frame, 4) for e in episodes for frame in file.pixels(e)]
        np.testing.assert_array_equal(held.pixels, frames)
        np.testing.assert_array_equal(mapped.pixels[np.arange(len(mapped.pixels))], frames)


def test_a_cache_is_used_again_until_the_data_changes(path, capsys):
    with EpisodeFile(path) as file:
        first = cache_where_needed(file, 4, memory=0)
        made = first.path.stat().st_mtime_ns
        capsys.readouterr()
        assert cache_where_needed(file, 4, memory=0).path.stat().st_mtime_ns == made
        assert capsys.readouterr().err == ""
    with EpisodeWriter(path, {"action_names": ["x"], "block": 2}) as writer:
        writer.append(np.full((5, 8, 10, 3), 7, np.uint8), np.ones((5, 1)))
    with EpisodeFile(path) as file:
        second = cache_where_needed(file, 4, memory=0)
        assert (second.frames_of([3])[np.arange(5)] == 7).all()
    assert not first.path.exists()


def test_a_cache_goes_where_it_is_told(path, tmp_path):
    (tmp_path / "fast").mkdir()
    with EpisodeFile(path) as file:
        cache = cache_where_needed(file, 4, memory=0, folder=tmp_path / "fast")
    assert cache.path.parent == tmp_path / "fast"


@pytest.mark.fault
def test_a_disk_with_too_little_space_is_one_sentence(path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("", (), {"free": 100}))
    with EpisodeFile(path) as file, pytest.raises(UserError, match="choose another folder with --cache"):
        cache_where_needed(file, 4, memory=0)
    assert [p.name for p in path.parent.iterdir()] == ["a.h5"]


@pytest.mark.fault
def test_a_failing_disk_leaves_no_half_cache(path, monkeypatch):
    def full(*_):
        yield np.zeros((2, 4, 4, 3), np.uint8)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_cache, "_read", full)
    with EpisodeFile(path) as file, pytest.raises(UserError, match="No space left on device"):
        cache_where_needed(file, 4, memory=0)
    assert [p.name for p in path.parent.iterdir()] == ["a.h5"]


def test_available_memory_is_some_of_this_machine():
    assert 1e7 < frame_cache.available_memory() < 1e14
