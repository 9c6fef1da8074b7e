"""Episode files of other writers, and paths that are none."""

import json
import sqlite3
import sys

import h5py
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.inspect import describe_file
from world_model_ros.data.normalisation import interface_of
from world_model_ros.data.recognise import layout_of
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionInterface

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 10, 3), dtype=np.uint8)
ACTION = RNG.normal(size=(6, 2)).astype(np.float32)


def published(path, pixels=PIXELS, action=ACTION, ep_len=(4, 2), attributes=None, **columns):
    """Write an episode file as stable-worldmodel does, two episodes, no attributes."""
    with h5py.File(path, "w") as file:
        file["pixels"], file["action"] = pixels, action
        file["ep_len"], file["ep_offset"] = np.array(ep_len, np.int32), np.array([0, 4])
        for name, values in columns.items():
            file[name] = values
        file.attrs.update(attributes or {})
    return path


def test_case_42_hdf5plugin_is_used_where_it_is_there(tmp_path, monkeypatch):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    path = published(tmp_path / "a.h5", PIXELS)
    with h5py.File(path, "r+") as file:
        del file["pixels"]
        file.create_dataset("pixels", data=PIXELS, chunks=(1, 8, 10, 3), **hdf5plugin.Blosc())
    np.testing.assert_array_equal(EpisodeFile(path).pixels(0), PIXELS[:4])
    monkeypatch.setattr("h5py.h5z.filter_avail", lambda number: number < 1000)
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(UserError, match=r"pixels is compressed with Blosc: run `pip install hdf5plugin`"):
        EpisodeFile(path)


def test_case_44_what_a_file_does_not_say_is_assumed_and_shown_so(tmp_path):
    path = published(tmp_path / "a.h5")
    file = EpisodeFile(path)
    assert set(file.assumed) == {"action_names", "action_kind", "action_unit", "period", "block"}
    shown = describe_file(path)
    assert "period: 0.05 (assumed: the file does not say it)" in shown
    assert "block: 5 (assumed: the file does not say it)" in shown
    assert "steps_per_row: 1\n" in shown + "\n"


def test_case_44_what_is_given_is_no_longer_assumed_and_never_contradicts_the_file(tmp_path):
    path = published(tmp_path / "a.h5", attributes={"period": 0.1})
    file = EpisodeFile(path, {"block": 3, "period": 0.1})
    assert set(file.assumed) == {"action_names", "action_kind", "action_unit"}
    empty = published(tmp_path / "b.h5", attributes={"action_unit": ""})
    assert EpisodeFile(empty, {"action_unit": "m/s"}).attributes["action_unit"] == "m/s"
    assert (file.attributes["block"], file.attributes["period"]) == (3, 0.1)
    with pytest.raises(UserError, match=r"says control period 0.1, --period says 0.2: leave out --period"):
        EpisodeFile(path, {"period": 0.2})


def test_case_44_a_checkpoint_fills_in_what_its_file_does_not_say(tmp_path):
    theirs = ActionInterface(("x", "y"), "twist", "m/s", "base", (), (), 0.1, 3)
    file = EpisodeFile(published(tmp_path / "a.h5", attributes={"block": 4}))
    file.assume(theirs)
    assert interface_of(file) == theirs._replace(block=4)
    wider = EpisodeFile(published(tmp_path / "b.h5", action=np.zeros((6, 3))))
    wider.assume(theirs)
    assert interface_of(wider).names == ("action_0", "action_1", "action_2")


@pytest.mark.parametrize("ep_len", [(4, 2), ((4,), (2,))])
def test_case_53_a_column_of_numbers_is_a_column_of_width_one(tmp_path, ep_len):
    values = np.arange(6, dtype=np.float32)
    path = published(tmp_path / "a.h5", action=values, ep_len=ep_len, state=values, proprio=values)
    file = EpisodeFile(path)
    assert file.lengths.tolist() == [4, 2]
    assert file.actions(1).tolist() == [[4.0], [5.0]]
    assert file.states(0).tolist() == [[0.0], [1.0], [2.0], [3.0]]
    assert file.coordinate_names == ["state_0"]
    assert file.attributes["action_names"] == ["action_0"]


def test_case_53_columns_that_do_differ_in_length_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"differ in length \(6 frames, state has the shape \(5,\)\)"):
        EpisodeFile(published(tmp_path / "a.h5", state=np.zeros(5)))
    with pytest.raises(UserError, match=r"ep_len \(1, 2\)"):
        EpisodeFile(published(tmp_path / "b.h5", ep_len=((4, 2),)))


@pytest.mark.parametrize(
    ("stored", "note"),
    [
        (PIXELS, ""),
        (np.moveaxis(PIXELS, -1, 1), "channels first"),
        ((PIXELS / 255).astype(np.float32), "float32 from 0 to 1"),
        (np.moveaxis(PIXELS / 255, -1, 1), "channels first"),
        (PIXELS.astype(np.float32), "float32 from 0 to 255"),
        (PIXELS.astype(np.int64), "int64 from 0 to 255"),
    ],
    ids=["plain", "channels first", "0..1", "both", "float 0..255", "int64"],
)
def test_pixels_that_can_mean_one_thing_only_are_read_as_it(tmp_path, stored, note):
    file = EpisodeFile(published(tmp_path / "a.h5", stored))
    np.testing.assert_array_equal(file.pixels(1), PIXELS[4:])
    assert file.pixels(1).dtype == np.uint8
    assert file.frame_shape == (8, 10, 3)
    assert note in " ".join(file.notes)
    assert bool(file.notes) == bool(note)


@pytest.mark.parametrize("stored", [PIXELS[..., 0], PIXELS[..., :1], PIXELS[:, None, ..., 0]])
def test_gray_pixels_become_three_equal_channels(tmp_path, stored):
    file = EpisodeFile(published(tmp_path / "a.h5", stored))
    np.testing.assert_array_equal(file.pixels(0), np.repeat(PIXELS[:4, ..., :1], 3, -1))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (PIXELS / 127.5 - 1, r"float64 from -[\d.]+ to [\d.]+, which is neither 0 to 1 nor"),
        (PIXELS.astype(np.uint16) * 257, "uint16 from 0 to 65535"),
        (np.repeat(PIXELS, 2, -1), "must have the channels red"),
        (PIXELS.reshape(6, -1), "not that of images"),
        (np.full((6, 8, 10, 3), np.nan), "from nan to nan"),
    ],
)
def test_pixels_that_could_mean_two_things_are_refused(tmp_path, stored, message):
    with pytest.raises(UserError, match=message):
        EpisodeFile(published(tmp_path / "a.h5", stored))


def test_a_frame_outside_the_range_of_the_others_is_refused(tmp_path):
    pixels = np.zeros((40, 2, 2, 3), np.float32) + 0.5
    pixels[1] = 200
    path = published(tmp_path / "a.h5", pixels, np.zeros((40, 2)), ep_len=(4, 36))
    file = EpisodeFile(path)
    file.pixels(1)
    with pytest.raises(UserError, match=r"leave the range of the others \(0 to 1\)"):
        file.pixels(0)


def aloha(path):
    with h5py.File(path, "w") as file:
        file["action"], file["observations/qpos"] = ACTION, ACTION
        file["observations/images/top"] = PIXELS


def robomimic(path):
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = ACTION


def database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table topics (id integer)")


def lerobot(path):
    (path / "meta").mkdir(parents=True)
    (path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v2.1"}))


def folder_with(name):
    def make(path):
        path.mkdir()
        (path / name).touch()

    return make


def lance(path):
    (path / "_versions").mkdir(parents=True)


@pytest.mark.parametrize(
    ("name", "make", "layout"),
    [
        ("episode_0.hdf5", aloha, "an ALOHA file"),
        ("demo.hdf5", robomimic, "a robomimic file"),
        ("pusht", lerobot, "a LeRobot v2.1 folder"),
        ("x.lance", lance, "a Lance folder"),
        ("x.mcap", lambda path: path.write_bytes(b"\x89MCAP0\r\n" + b"\0" * 20), "an mcap recording"),
        ("x.db3", database, r"a rosbag2 recording \(sqlite3\)"),
        ("bag", folder_with("bag_0.mcap"), "a rosbag2 folder"),
        ("old.bag", lambda path: path.write_bytes(b"#ROSBAG V2.0\n" + b"\0" * 20), "a ROS 1 bag"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "train"])
def test_case_54_a_path_of_another_layout_is_named_with_the_converter(
    tmp_path, capsys, name, make, layout, verb
):
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError, match=f"is {layout}, not an episode file: run `python -m .* convert"):
        EpisodeFile(path)
    words = ["inspect", str(path)]
    if verb == "train":
        words = ["train", "--data", str(path), "--out", str(tmp_path / "out"), "--steps", "1"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"convert {path} --out episodes.h5` first." in error
    assert error.count("\n") == 1


def test_case_54_a_parquet_file_names_the_folder_it_belongs_to(tmp_path):
    lerobot(tmp_path / "set")
    inside, alone = tmp_path / "set" / "data" / "a.parquet", tmp_path / "b.parquet"
    inside.parent.mkdir()
    for path in (inside, alone):
        path.write_bytes(b"PAR1" + b"\0" * 20)
    with pytest.raises(UserError, match=rf"LeRobot folder {tmp_path}/set is no .* convert {tmp_path}/set "):
        EpisodeFile(inside)
    with pytest.raises(UserError, match="give the LeRobot folder it belongs to to `convert`"):
        EpisodeFile(alone)


def test_an_episode_file_and_a_checkpoint_folder_are_no_other_layout(tmp_path):
    assert layout_of(published(tmp_path / "a.h5")) is None
    assert layout_of(tmp_path) is None
    assert layout_of(tmp_path / "nothing") is None
