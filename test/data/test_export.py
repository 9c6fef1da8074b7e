import json
from pathlib import Path

import numpy as np
import pytest

from world_model_ros.data import layouts
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.export import export_lerobot
from world_model_ros.errors import UserError

pq = pytest.importorskip("pyarrow.parquet")
ATTRIBUTES = {
    "action_names": ["linear_x", "linear_y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "action_frame": "base",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "period": 0.05,
    "block": 5,
    "task": "push",
    "source": "by hand",
    "state_names": ["x", "y", "angle"],
}


@pytest.fixture
def episodes():
    """Return a function that writes an episode file and opens it."""
    files = []

    def write(path, steps_per_row=1, state=True, proprio=True, attributes=ATTRIBUTES):
        rng = np.random.default_rng(0)
        with EpisodeWriter(path, attributes | {"steps_per_row": steps_per_row}) as writer:
            for length in (7, 1, 9):
                action = rng.normal(size=(length, 2 * steps_per_row)).astype(np.float32)
                action[-1] = np.nan
                writer.append(
                    rng.integers(0, 256, (length, 12, 16, 3), dtype=np.uint8),
                    action,
                    rng.normal(size=(length, 3)) if state else None,
                    rng.normal(size=(length, 1)) if proprio else None,
                )
        files.append(EpisodeFile(path))
        return files[-1]

    yield write
    for file in files:
        file.close()


@pytest.mark.parametrize(("steps", "state", "proprio"), [(1, True, True), (5, True, False), (1, False, True)])
def test_what_is_exported_is_read_back_identically(tmp_path, episodes, steps, state, proprio):
    file = episodes(tmp_path / "a.h5", steps, state, proprio)
    folder = export_lerobot(file, tmp_path / "out")
    back = tmp_path / "back.h5"
    with EpisodeWriter(back, layouts.DataSet(folder).attributes) as writer:
        for episode in layouts.DataSet(folder).read():
            writer.append(*episode)
    with EpisodeFile(back) as again:
        assert again.attributes == file.attributes
        assert again.lengths.tolist() == [7, 1, 9]
        for e in range(3):
            np.testing.assert_array_equal(again.pixels(e), file.pixels(e))
            np.testing.assert_array_equal(again.actions(e), file.actions(e))
            for column in ("state", "proprio"):
                np.testing.assert_array_equal(again.recorded(column, e), file.recorded(column, e))


def test_the_folder_holds_what_lerobot_looks_for(tmp_path, episodes):
    file = episodes(tmp_path / "a.h5", 5)
    folder = export_lerobot(file, tmp_path / "out", "push the ball")
    info = json.loads((folder / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_frames"]) == ("v3.0", 4, 17)
    assert info["features"]["action"]["names"][:3] == ["linear_x.0", "linear_y.0", "linear_x.1"]
    assert info["features"]["observation.environment_state"]["names"] == ["x", "y", "angle"]
    data = pq.ParquetFile(folder / "data/chunk-000/file-000.parquet")
    assert data.num_row_groups == 3
    table = data.read()
    assert set(table.column_names) == set(info["features"])
    assert table.column("index").to_pylist() == list(range(17))
    assert table.column("timestamp").to_pylist()[:3] == [0.0, 0.25, 0.5]
    actions = np.array(table.column("action").to_pylist(), np.float32)
    assert np.isfinite(actions).all()  # LeRobot's training takes no NaN
    np.testing.assert_array_equal(actions[6], actions[5])
    notes = pq.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(n["dataset_from_index"], n["dataset_to_index"], n["length"]) for n in notes] == [
        (0, 7, 7),
        (7, 8, 1),
        (8, 17, 9),
    ]
    assert notes[0]["tasks"] == ["push the ball"]
    assert pq.read_table(folder / "meta/tasks.parquet").to_pylist() == [
        {"task_index": 0, "task": "push the ball"}
    ]


def test_the_statistics_are_those_of_the_numbers(tmp_path, episodes):
    file = episodes(tmp_path / "a.h5")
    folder = export_lerobot(file, tmp_path / "out")
    statistics = json.loads((folder / "meta/stats.json").read_text())
    states = np.concatenate([file.states(e) for e in range(3)])
    seen = statistics["observation.environment_state"]
    np.testing.assert_allclose(seen["mean"], states.mean(0), rtol=1e-5)
    np.testing.assert_allclose(seen["std"], states.std(0), rtol=1e-5)
    np.testing.assert_allclose(seen["q90"], np.quantile(states, 0.9, axis=0), rtol=1e-5)
    pixels = np.concatenate([file.pixels(e) for e in range(3)]).reshape(-1, 3) / 255
    picture = {k: np.array(v) for k, v in statistics["observation.images.camera"].items()}
    assert picture["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(picture["mean"].ravel(), pixels.mean(0))
    np.testing.assert_allclose(picture["std"].ravel(), pixels.std(0))
    np.testing.assert_allclose(picture["min"].ravel(), pixels.min(0))
    np.testing.assert_allclose(picture["q50"].ravel(), np.median(pixels, axis=0), atol=1 / 255)
    assert picture["count"].tolist() == [17]


def test_large_sets_become_several_files(tmp_path, episodes, monkeypatch):
    monkeypatch.setattr("world_model_ros.data.export._LARGEST_FILE", 0)
    file = episodes(tmp_path / "a.h5")
    folder = export_lerobot(file, tmp_path / "out")
    assert len(list((folder / "data").glob("*/*.parquet"))) == 3
    read = list(layouts.DataSet(folder).read())
    np.testing.assert_array_equal(read[2].pixels, file.pixels(2))


def full_disk(_):
    raise OSError(28, "No space left on device")


def test_an_export_that_cannot_be_is_one_sentence(tmp_path, episodes):
    file = episodes(tmp_path / "a.h5")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists: choose another folder"):
        export_lerobot(file, tmp_path / "there")
    with pytest.raises(UserError, match="cannot be written"):
        export_lerobot(file, Path("/proc/nothing"))
    attributes = {k: v for k, v in ATTRIBUTES.items() if k != "period"}
    untimed = episodes(tmp_path / "b.h5", attributes=attributes)
    with pytest.raises(UserError, match="does not say its control period: give --period"):
        export_lerobot(untimed, tmp_path / "out")


def test_on_a_full_disk_no_part_of_an_export_stays(tmp_path, episodes, monkeypatch):
    file = episodes(tmp_path / "a.h5")
    monkeypatch.setattr("world_model_ros.data.export._png", full_disk)
    with pytest.raises(UserError, match="No space left"):
        export_lerobot(file, tmp_path / "full")
    assert not list(tmp_path.glob("*full*"))
