"""The verb convert on data sets that are not bags; those are in test_bags.py."""

import h5py
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.data import convert
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.lock import WriteLock
from world_model_ros.errors import UserError

ATTRIBUTES = {
    "action_names": ["linear_x", "linear_y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "period": 0.1,
    "block": 4,
}
GIVEN = ["--period", "0.1", "--block", "4", "--action-names", "linear_x,linear_y"]
GIVEN += ["--action-kind", "twist", "--action-unit", "m/s"]


@pytest.fixture
def robomimic(tmp_path):
    """Two episodes of a robomimic file, and what they hold."""
    rng = np.random.default_rng(0)
    path, held = tmp_path / "demo.hdf5", []
    with h5py.File(path, "w") as file:
        for number, length in enumerate((6, 9)):
            pixels = rng.integers(0, 256, (length, 12, 12, 3), dtype=np.uint8)
            actions = rng.normal(size=(length, 2)).astype(np.float32)
            group = file.create_group(f"data/demo_{number}")
            group["obs/agentview_image"], group["actions"] = pixels, actions
            held.append((pixels, actions))
    return path, held


def test_a_data_set_becomes_an_episode_file(tmp_path, robomimic, capsys):
    path, held = robomimic
    out = tmp_path / "out.h5"
    assert main(["convert", str(path), "--dry-run", *GIVEN]) == 0
    assert not out.exists()
    assert main(["convert", str(path), "--out", str(out), *GIVEN]) == 0
    assert "2 episodes" in capsys.readouterr().out
    with EpisodeFile(out) as file:
        assert file.attributes["period"] == 0.1
        for episode, (pixels, actions) in enumerate(held):
            np.testing.assert_array_equal(file.pixels(episode), pixels)
            np.testing.assert_array_equal(file.actions(episode)[:-1], actions[:-1])


def test_a_file_that_a_recorder_has_open_is_not_written(tmp_path, robomimic, capsys):
    out = tmp_path / "out.h5"
    with WriteLock(out, "a recorder"):
        assert main(["convert", str(robomimic[0]), "--out", str(out), *GIVEN]) == 2
    assert f"{out} is being written by a recorder (process " in capsys.readouterr().err
    assert not out.exists()
    assert main(["convert", str(robomimic[0]), "--out", str(out), *GIVEN]) == 0


def test_what_it_does_not_say_is_asked_for(tmp_path, robomimic, capsys):
    assert main(["convert", str(robomimic[0]), "--out", str(tmp_path / "out.h5")]) == 2
    error = capsys.readouterr().err
    assert "does not say the" in error
    assert "--period" in error
    assert not (tmp_path / "out.h5").exists()


def test_an_unknown_format_is_named_as_that(tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text("nothing")
    assert main(["convert", str(path), "--out", str(tmp_path / "out.h5")]) == 2
    assert "has none of the formats that can be converted: rosbag2, LeRobot" in capsys.readouterr().err


def test_an_episode_file_becomes_a_lerobot_folder_and_comes_back(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    rng, path = np.random.default_rng(0), tmp_path / "a.h5"
    with EpisodeWriter(path, ATTRIBUTES) as writer:
        for length in (5, 7):
            actions = rng.normal(size=(length, 2)).astype(np.float32)
            actions[-1] = np.nan
            writer.append(rng.integers(0, 256, (length, 12, 12, 3), dtype=np.uint8), actions)
    folder, back = tmp_path / "set", tmp_path / "back.h5"
    assert main(["convert", str(path), "--to", "lerobot", "--out", str(folder)]) == 0
    assert main(["convert", str(folder), "--out", str(back)]) == 0
    with EpisodeFile(path) as first, EpisodeFile(back) as second:
        assert len(first) == len(second) == 2
        for episode in range(2):
            np.testing.assert_array_equal(first.pixels(episode), second.pixels(episode))
            np.testing.assert_array_equal(first.actions(episode), second.actions(episode))
    capsys.readouterr()
    assert main(["convert", str(path), str(path), "--to", "lerobot", "--out", str(tmp_path / "b")]) == 2
    assert "--to lerobot takes one episode file and --out" in capsys.readouterr().err


def test_a_reader_is_found_by_what_the_path_is(tmp_path, monkeypatch):
    (tmp_path / "meta").mkdir()
    with pytest.raises(UserError, match="has none of the formats that can be converted: rosbag2"):
        convert.detect(tmp_path)
    monkeypatch.setitem(convert.READERS, "other", (lambda path: (path / "meta").is_dir(), "some.module"))
    assert convert.detect(tmp_path) == "other"
