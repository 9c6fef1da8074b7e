"""Other people's data sets, made here by hand as their projects describe them."""

import argparse
import json
import re
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from world_model_ros.data import layouts, unstated
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.data.layouts.source import Options, add_arguments, options_of
from world_model_ros.errors import UserError

LENGTHS = (7, 5, 9)
GIVEN = {"action_kind": "joint_position", "action_unit": "rad", "block": 2}


def recorded(seed=0, lengths=LENGTHS, dim=2):
    """Return episodes (pixels, action, proprio, state) of 12x16 images."""
    rng = np.random.default_rng(seed)
    return [
        (
            rng.integers(0, 256, (n, 12, 16, 3), dtype=np.uint8),
            rng.normal(size=(n, dim)).astype(np.float32),
            rng.normal(size=(n, 3)).astype(np.float32),
            rng.normal(size=(n, 1)).astype(np.float32),
        )
        for n in lengths
    ]


def converted(path, out, options):
    """Write what is read as an episode file and return it, opened."""
    with EpisodeWriter(out, layouts.DataSet(path, options).attributes) as writer:
        for episode in layouts.DataSet(path, options).read():
            writer.append(*episode)
    return EpisodeFile(out)


def same_at_random(file, episodes, proprio=True, state=False):
    """Compare 100 random steps with the source: identical."""
    rng = np.random.default_rng(1)
    assert file.lengths.tolist() == [len(e[0]) for e in episodes]
    for _ in range(100):
        e = int(rng.integers(len(episodes)))
        t = int(rng.integers(len(episodes[e][0])))
        pixels, action, sensed, stated = episodes[e]
        np.testing.assert_array_equal(file.pixels(e)[t], pixels[t])
        last = t == len(action) - 1
        np.testing.assert_array_equal(
            file.actions(e)[t], np.full_like(action[t], np.nan) if last else action[t]
        )
        if proprio:
            np.testing.assert_array_equal(file.recorded("proprio", e)[t], sensed[t])
        if state:
            np.testing.assert_array_equal(file.states(e)[t], stated[t])


def png(frame):
    return cv2.imencode(".png", frame[..., ::-1])[1].tobytes()


def write_lerobot(folder, episodes, version="v3.0", video=False, per_file=2, **action):
    """Write a LeRobot folder of version 2.1 or 3.0, with pictures in the rows or in mp4 files."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    camera, fps = "observation.images.top", 10
    notes, first, groups = [], 0, {}
    for index, (pixels, moved, sensed, stated) in enumerate(episodes):
        n = len(pixels)
        columns = {
            "action": pa.array(list(moved), pa.list_(pa.float32(), moved.shape[1])),
            "observation.state": pa.array(list(sensed), pa.list_(pa.float32())),
            "observation.environment_state": pa.array(stated[:, 0]),
            "timestamp": pa.array(np.arange(n, dtype=np.float32) / fps),
            "frame_index": pa.array(np.arange(n)),
            "episode_index": pa.array(np.full(n, index)),
            "index": pa.array(first + np.arange(n)),
            "task_index": pa.array(np.zeros(n, int)),
        }
        if not video:
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            columns[camera] = pa.array([{"bytes": png(p), "path": "x.png"} for p in pixels], kind)
        part = index // per_file if version == "v3.0" else index
        inside = sum(len(e[0]) for e in groups.get(part, []))
        groups.setdefault(part, []).append((pixels, pa.table(columns)))
        note = {"episode_index": index, "tasks": ["t"], "length": n}
        if version == "v3.0":
            note |= {"data/chunk_index": 0, "data/file_index": part, "stats/action/min": [0.0]}
        if version == "v3.0" and video:
            key = f"videos/{camera}"
            note |= {
                f"{key}/chunk_index": 0,
                f"{key}/file_index": part,
                f"{key}/from_timestamp": inside / fps,
            }
        notes.append(note)
        first += n
    three = version == "v3.0"
    data = "data/chunk-000/file-{:03d}.parquet" if three else "data/chunk-000/episode_{:06d}.parquet"
    films = "videos/{0}/chunk-000/file-{1:03d}.mp4" if three else "videos/chunk-000/{0}/episode_{1:06d}.mp4"
    for part, group in groups.items():
        path = folder / data.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables([table for _, table in group]), path)
        if video:
            path = folder / films.format(camera, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            film(path, np.concatenate([pixels for pixels, _ in group]), fps)
    info = {
        "codebase_version": version,
        "fps": fps,
        "chunks_size": 1000,
        "features": {
            "action": {"dtype": "float32", "shape": [episodes[0][1].shape[1]], "names": None} | action,
            "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["a", "b", "c"]}},
            "observation.environment_state": {"dtype": "float32", "shape": [1], "names": ["door"]},
            camera: {
                "dtype": "video" if video else "image",
                "shape": [3, 12, 16],
                "names": ["channels", "height", "width"],
            },
            "observation.images.depth": {
                "dtype": "image",
                "shape": [12, 16, 1],
                "names": ["height", "width", "channels"],
                "info": {"is_depth_map": True},
            },
        },
        "data_path": data.replace("000/", "{chunk_index:03d}/").replace("{:03d}", "{file_index:03d}"),
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if three
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (folder / "meta").mkdir(exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    if three:
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(notes), path)
    else:
        (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, notes)) + "\n")
    return folder


def film(path, frames, fps):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, frames.shape[2:0:-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_lerobot_folder_with_pictures_in_its_rows_is_read_identically(tmp_path, version):
    episodes = recorded()
    path = write_lerobot(tmp_path / "set", episodes, version, names=["main_x", "main_y"])
    file = converted(path, tmp_path / "a.h5", Options(given=GIVEN))
    same_at_random(file, episodes, state=True)
    said = file.attributes
    assert (said["period"], said["block"], said["action_names"]) == (0.1, 2, ["main_x", "main_y"])
    assert said["proprio_names"] == ["a", "b", "c"]
    assert said["state_names"] == ["door"]
    assert said["source"] == f"LeRobot {version}: set"
    assert not file.assumed


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_lerobot_folder_with_videos_gives_the_frames_of_its_videos(tmp_path, version, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    episodes = recorded()
    path = write_lerobot(tmp_path / "set", episodes, version, video=True)
    read = list(layouts.DataSet(path, Options(given=GIVEN | {"action_names": ["x", "y"]})).read())
    stored = np.concatenate([decoded(video) for video in sorted((path / "videos").rglob("*.mp4"))])
    np.testing.assert_array_equal(np.concatenate([episode.pixels for episode in read]), stored)
    assert [len(episode.pixels) for episode in read] == list(LENGTHS)
    for (_, action, *_), episode in zip(episodes, read, strict=True):
        np.testing.assert_array_equal(episode.action[:-1], action[:-1])


def decoded(video):
    capture = cv2.VideoCapture(str(video))
    frames = [capture.read()[1] for _ in range(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))]
    return np.stack(frames)[..., ::-1]


def test_a_video_that_cannot_be_decoded_or_is_too_short_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    path = write_lerobot(tmp_path / "set", recorded(), "v2.1", video=True)
    options = Options(given=GIVEN | {"action_names": ["x", "y"]})
    video = next((path / "videos").rglob("*000000.mp4"))
    film(video, recorded()[0][0][:3], 10)
    with pytest.raises(UserError, match=r"has 3 frames, its rows ask for frame 3"):
        list(layouts.DataSet(path, options).read())
    video.write_bytes(b"\0\0\0\x08ftypno film")
    with pytest.raises(UserError, match=r"cannot be decoded by OpenCV .*pip install av"):
        list(layouts.DataSet(path, options).read())
    video.unlink()
    with pytest.raises(UserError, match=r"000000\.mp4 is missing: copy the whole folder"):
        list(layouts.DataSet(path, options).read())


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("../x.mp4", "names the file ../x.mp4, which is outside of it"),
        ("/etc/x.mp4", "names the file /etc/x.mp4, which is outside of it"),
        ("{episode_index:999999999d}.mp4", "which names no files"),
        ("{episode_index.__class__}.mp4", "which names no files"),
    ],
)
def test_a_data_set_names_no_video_elsewhere(tmp_path, pattern, sentence):
    path = write_lerobot(tmp_path / "set", recorded(), "v2.1", video=True)
    note = path / "meta" / "info.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"video_path": pattern}))
    with pytest.raises(UserError, match=re.escape(sentence)):
        list(layouts.DataSet(path).read())


def test_nor_does_one_that_is_the_present_folder(tmp_path, monkeypatch):
    path = write_lerobot(tmp_path / "set", recorded(), "v2.1", video=True)
    note = path / "meta" / "info.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"video_path": "../x.mp4"}))
    monkeypatch.chdir(path)
    with pytest.raises(UserError, match="which is outside of it"):
        list(layouts.DataSet(Path(".")).read())


def test_a_playlist_that_is_called_a_video_is_not_followed(tmp_path):
    path = write_lerobot(tmp_path / "set", recorded(), "v2.1", video=True)
    other = next((path / "videos").rglob("*000000.mp4"))
    secret = other.rename(tmp_path / "secret.mp4")
    other.write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(UserError, match="000000.mp4 is no MP4 file"):
        list(layouts.DataSet(path).read())


@pytest.mark.parametrize("linked", [False, True])
def test_a_data_set_names_no_picture_elsewhere(tmp_path, linked):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = write_lerobot(tmp_path / "set", recorded())
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(recorded()[0][0][0]))
    if linked:  # as the hub's cache has all its files
        (path / "x.png").symlink_to(secret)
    for file in (path / "data").rglob("*.parquet"):
        table, camera = pq.read_table(file), "observation.images.top"
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        named = pa.array([{"bytes": None, "path": "x.png" if linked else str(secret)}] * len(table), kind)
        table = table.set_column(table.column_names.index(camera), camera, named)
        pq.write_table(table, file)
    read = layouts.DataSet(path).read()
    if linked:
        assert len(list(read)) == len(recorded())
    else:
        with pytest.raises(UserError, match="secret.png, which is outside of it"):
            list(read)


def test_pyav_decodes_what_opencv_cannot(tmp_path):
    av = pytest.importorskip("av")
    path = write_lerobot(tmp_path / "set", recorded(), "v2.1", video=True)
    for video in (path / "videos").rglob("*.mp4"):
        with av.open(str(video), "w") as container:
            stream = container.add_stream("libsvtav1", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for t in range(9):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * t, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    episode = next(layouts.DataSet(path, Options(given=GIVEN | {"action_names": ["x", "y"]})).read())
    np.testing.assert_allclose(episode.pixels.mean((1, 2, 3)), 20 * np.arange(7), atol=3)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["x", "y"], "x, y"),
        ({"motors": ["x", "y"]}, "x, y"),
        ({"y": 1, "x": 0}, "x, y"),
        (None, "not named"),
        (["x", "x"], "not named"),
        (["x"], "not named"),
    ],
)
def test_what_is_found_and_what_is_missing_is_said(tmp_path, names, found):
    path = write_lerobot(tmp_path / "set", recorded(), names=names)
    shown = layouts.DataSet(path).report()
    assert "LeRobot v3.0, 3 episodes of 5 to 9 frames, 21 in all" in shown
    assert "cameras: observation.images.top (12x16)" in shown
    assert f"actions: 2 numbers, {found}" in shown
    assert "rate: 10 Hz" in shown
    missing = "--action-kind, --action-unit, --block"
    missing = f"--action-names, {missing}" if found == "not named" else missing
    assert f"to be given: {missing}\n" in shown + "\n"
    with pytest.raises(UserError, match=r"kind, unit and action block of its actions: give .*and --block"):
        dict(layouts.DataSet(path).attributes)


def test_names_can_be_replaced_but_the_rate_cannot(tmp_path):
    path = write_lerobot(tmp_path / "set", recorded(), names=["x", "y"])
    given = GIVEN | {"action_names": ["joint1", "joint2"], "period": 0.1}
    assert layouts.DataSet(path, Options(given=given)).attributes["action_names"] == ["joint1", "joint2"]
    with pytest.raises(UserError, match=r"says control period 0.1, --period says 0.05"):
        dict(layouts.DataSet(path, Options(given=given | {"period": 0.05})).attributes)
    with pytest.raises(UserError, match=r"1 action names \(x\) do not fit its actions, which have 2"):
        dict(layouts.DataSet(path, Options(given=given | {"action_names": ["x"]})).attributes)


def test_a_lerobot_folder_that_was_copied_in_part_is_refused(tmp_path):
    path = write_lerobot(tmp_path / "set", recorded(), names=["x", "y"])
    (path / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(UserError, match=r"data/ and meta/ disagree from episode 2 on"):
        list(layouts.DataSet(path, Options(given=GIVEN)).read())
    (path / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"cannot be read .*copy it again"):
        list(layouts.DataSet(path, Options(given=GIVEN)).read())


def test_an_old_lerobot_folder_and_one_without_pyarrow_are_one_sentence(tmp_path, monkeypatch):
    path = write_lerobot(tmp_path / "set", recorded())
    with monkeypatch.context() as context:
        context.setitem(sys.modules, "pyarrow.parquet", None)
        with pytest.raises(UserError, match="a LeRobot folder needs pyarrow: run `pip install pyarrow`"):
            layouts.DataSet(path).report()
    info = json.loads((path / "meta/info.json").read_text()) | {"codebase_version": "v1.6"}
    (path / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"LeRobot v1.6 folder: convert it with LeRobot to v2.1 or v3.0"):
        layouts.DataSet(path).report()


def write_robomimic(path, episodes, frequency=20, images=True):
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        if frequency:
            data.attrs["env_args"] = json.dumps(
                {"env_name": "Lift", "env_kwargs": {"control_freq": frequency}}
            )
        for i, (pixels, action, sensed, stated) in reversed(list(enumerate(episodes))):
            demo = data.create_group(f"demo_{i}")
            demo["actions"], demo["states"] = action.astype(np.float64), stated
            demo["obs/robot0_eef_pos"], demo["obs/robot0_gripper"] = sensed[:, :2], sensed[:, 2]
            demo["obs/object"] = sensed
            if images:
                demo["obs/agentview_image"] = pixels
                demo["obs/robot0_eye_in_hand_image"] = pixels[::-1]
    return path


def test_a_robomimic_file_is_read_identically(tmp_path):
    episodes = recorded(lengths=(4,) * 12)
    path = write_robomimic(tmp_path / "demo.hdf5", episodes)
    options = Options("agentview_image", given=GIVEN | {"action_names": ["x", "y"]})
    file = converted(path, tmp_path / "a.h5", options)
    same_at_random(file, episodes, state=True)
    assert file.attributes["period"] == 0.05
    assert file.attributes["proprio_names"] == ["robot0_eef_pos_0", "robot0_eef_pos_1", "robot0_gripper"]
    other = next(layouts.DataSet(path, Options("robot0_eye_in_hand_image", given=options.given)).read())
    np.testing.assert_array_equal(other.pixels, episodes[0][0][::-1])


def test_of_several_cameras_one_is_chosen(tmp_path):
    path = write_robomimic(tmp_path / "demo.hdf5", recorded())
    with pytest.raises(
        UserError, match="agentview_image, robot0_eye_in_hand_image: choose one with --camera"
    ):
        next(layouts.DataSet(path, Options(given=GIVEN)).read())
    with pytest.raises(UserError, match="has no camera 'front': --camera is one of agentview_image"):
        next(layouts.DataSet(path, Options("front", given=GIVEN)).read())


def test_a_robomimic_file_without_images_or_rate_says_so(tmp_path):
    path = write_robomimic(tmp_path / "demo.hdf5", recorded(), frequency=None)
    assert "rate: not stated" in layouts.DataSet(path).report()
    with pytest.raises(UserError, match="has no images in obs/"):
        layouts.DataSet(write_robomimic(tmp_path / "bare.hdf5", recorded(), images=False)).report()


def write_aloha(folder, episodes, encode=None):
    folder.mkdir()
    for i, (pixels, action, sensed, _) in enumerate(episodes):
        with h5py.File(folder / f"episode_{i}.hdf5", "w") as file:
            file.attrs["sim"] = False
            file["action"], file["observations/qpos"], file["observations/qvel"] = action, sensed, sensed
            if encode is None:
                file["observations/images/cam_high"] = pixels
                continue
            codes = [np.frombuffer(encode(frame), np.uint8) for frame in pixels]
            rows = np.zeros((len(codes), max(map(len, codes)) + 40), np.uint8)
            for row, code in zip(rows, codes, strict=True):
                row[: len(code)] = code
            file["observations/images/cam_high"] = rows
    return folder


def jpeg(frame):
    return cv2.imencode(".jpg", frame)[1].tobytes()


ALOHA = GIVEN | {"action_names": ["waist", "shoulder"], "period": 0.02}


@pytest.mark.parametrize("one", [False, True], ids=["folder", "file"])
def test_aloha_files_are_read_identically(tmp_path, one):
    episodes = recorded(lengths=(3,) * 11)
    path = write_aloha(tmp_path / "aloha", episodes)
    if one:
        path, episodes = path / "episode_10.hdf5", episodes[10:]
    file = converted(path, tmp_path / "a.h5", Options(given=ALOHA))
    same_at_random(file, episodes)
    assert file.attributes["action_names"] == ["waist", "shoulder"]


def test_aloha_asks_for_all_that_its_files_do_not_say(tmp_path):
    path = write_aloha(tmp_path / "aloha", recorded())
    with pytest.raises(UserError, match="--action-names, --action-kind, --action-unit, --period and --block"):
        dict(layouts.DataSet(path).attributes)


@pytest.mark.parametrize("colors", ["rgb", "bgr"])
def test_compressed_and_padded_aloha_images_are_decoded_in_the_colours_that_are_given(tmp_path, colors):
    """``bgr``: ALOHA's own recorder, which gives RGB to OpenCV's encoder."""
    episodes = recorded()
    path = write_aloha(tmp_path / "a", episodes, jpeg if colors == "bgr" else lambda f: jpeg(f[..., ::-1]))
    with pytest.raises(UserError, match="does not say whether they were made from RGB: give --jpeg-colors"):
        next(layouts.DataSet(path, Options(given=ALOHA)).read())
    file = converted(path, tmp_path / "a.h5", Options(jpeg_colors=colors, given=ALOHA))
    pixels = []
    for frames, *_ in episodes:
        codes = [jpeg(f if colors == "bgr" else f[..., ::-1]) for f in frames]
        decoded = np.stack([cv2.imdecode(np.frombuffer(code, np.uint8), 1) for code in codes])
        pixels.append(decoded if colors == "bgr" else decoded[..., ::-1])
    same_at_random(file, [(p, *rest) for p, (_, *rest) in zip(pixels, episodes, strict=True)])


def test_aloha_images_in_strings_are_decoded_too(tmp_path):
    episodes = recorded()
    path = write_aloha(tmp_path / "a", episodes)
    for i, (pixels, *_) in enumerate(episodes):
        with h5py.File(path / f"episode_{i}.hdf5", "r+") as file:
            del file["observations/images/cam_high"]
            file["observations/images/cam_high"] = np.array([png(frame) for frame in pixels], "S")
    same_at_random(converted(path, tmp_path / "a.h5", Options(jpeg_colors="rgb", given=ALOHA)), episodes)


def test_a_damaged_aloha_image_is_one_sentence(tmp_path):
    path = write_aloha(tmp_path / "a", recorded(), lambda frame: b"nothing")
    with pytest.raises(UserError, match="an image cannot be decoded"):
        layouts.DataSet(path).report()


def test_stable_worldmodels_file_is_read_identically(tmp_path):
    episodes = recorded()
    columns = [np.concatenate(column) for column in zip(*episodes, strict=True)]
    path = tmp_path / "tworooms.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for name, values in zip(("pixels", "action", "proprio", "state"), columns, strict=True):
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]))
        file["ep_len"], file["ep_offset"] = np.array(LENGTHS, np.int32), np.array([0, 7, 12])
    assert "not stated, to be given: --action-names, --action-kind" in layouts.DataSet(path).report()
    file = converted(path, tmp_path / "a.h5", Options(given=ALOHA))
    assert not file.assumed
    with EpisodeFile(path) as source:
        for e in range(3):
            for ours, theirs in (("pixels", "pixels"), ("actions", "actions"), ("states", "states")):
                np.testing.assert_array_equal(getattr(file, ours)(e), getattr(source, theirs)(e))
            np.testing.assert_array_equal(file.recorded("proprio", e), episodes[e][2])


@pytest.mark.parametrize("inside", [False, True])
def test_a_lance_table_is_read_identically(tmp_path, inside):
    lance = pytest.importorskip("lance")
    pa = pytest.importorskip("pyarrow")
    episodes = recorded()
    path = tmp_path / "data" / "pusht.lance"
    path.parent.mkdir()
    tables = []
    for i, (pixels, action, sensed, _) in enumerate(episodes):
        columns = {
            "episode_idx": pa.array([i] * len(pixels), pa.int32()),
            "step_idx": pa.array(range(len(pixels)), pa.int32()),
            "pixels": pa.array([png(frame) for frame in pixels], pa.binary()),
            "action": pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 2),
            "proprio": pa.FixedSizeListArray.from_arrays(pa.array(sensed.ravel()), 3),
        }
        tables.append(pa.table(columns))
    lance.write_dataset(pa.concat_tables(tables), str(path))
    path = path.parent if inside else path
    same_at_random(converted(path, tmp_path / "a.h5", Options(given=ALOHA)), episodes)
    mixed = tmp_path / "mixed.lance"
    lance.write_dataset(pa.concat_tables([*tables, tables[0]]), str(mixed))
    with pytest.raises(UserError, match="its rows are not ordered by episode"):
        layouts.DataSet(mixed).report()


def test_the_options_of_a_conversion(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = "--camera top --jpeg-colors bgr --period 0.1 --block 3 --action-names x,y --action-frame base"
    options = options_of(parser.parse_args(words.split()))
    given = {"period": 0.1, "block": 3, "action_names": ["x", "y"], "action_frame": "base"}
    assert options == Options("top", "bgr", given)
    assert set(unstated.NEEDED) - set(given) == {"action_kind", "action_unit"}
    with pytest.raises(UserError, match="is no data set of LeRobot, robomimic, ALOHA, Lance"):
        layouts.DataSet(tmp_path).report()
