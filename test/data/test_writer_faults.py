"""Parts of a recording that are deleted, cut or merged already when it is finished; labels."""

import shutil

import h5py
import numpy as np
import pytest

from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.errors import UserError

ATTRIBUTES = {"action_names": ["x"], "period": 0.1}


def episode(number, length=4):
    action = np.full((length, 1), number, np.float32)
    action[-1] = np.nan
    return np.full((length, 6, 6, 3), number, np.uint8), action


def record(path, numbers, **more):
    writer = EpisodeWriter(path, ATTRIBUTES)
    for number in numbers:
        writer.append(*episode(number), index=number, **more)
    return writer


def numbers(path):
    with EpisodeFile(path) as file:
        return [int(file.pixels(e)[0, 0, 0, 0]) for e in range(len(file))]


def part(writer, index):
    return writer.parts / f"episode-{index:08d}.h5"


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


def other_rows(path):
    with h5py.File(path, "r+") as file:
        file["state"] = np.zeros((4, 2))


def unequal(path):
    with h5py.File(path, "r+") as file:
        del file["action"]
        file["action"] = np.zeros((3, 1))


@pytest.mark.parametrize("reopened", [False, True])
def test_a_deleted_part_is_said_and_the_rest_finished(tmp_path, capsys, reopened):
    path = tmp_path / "a.h5"
    writer = record(path, range(20))
    part(writer, 5).unlink()
    if reopened:
        writer = EpisodeWriter(path, ATTRIBUTES)
        assert writer.done == set(range(20)) - {5}
    writer.finish()
    assert numbers(path) == [*range(5), *range(6, 20)]
    assert capsys.readouterr().err == (
        f"note: episode 5 of {path} is missing: the later ones get lower numbers\n"
    )
    assert not writer.parts.exists()


@pytest.mark.parametrize("damage", [cut, empty, other_rows, unequal])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_damaged_part_is_set_aside_and_the_rest_finished(tmp_path, capsys, damage, reopened):
    path = tmp_path / "a.h5"
    writer = record(path, range(20))
    damage(part(writer, 5))
    content = part(writer, 5).read_bytes()
    if reopened:
        writer = EpisodeWriter(path, ATTRIBUTES)
        assert writer.done == set(range(20)) - {5}
    writer.finish()
    assert numbers(path) == [*range(5), *range(6, 20)]
    error = capsys.readouterr().err
    assert "episode 5 of" in error
    assert f"it was moved to {path}.damaged" in error
    assert (tmp_path / "a.h5.damaged" / "episode-00000005.h5").read_bytes() == content


def test_a_damaged_part_is_recorded_again_by_whoever_can(tmp_path):
    path = tmp_path / "a.h5"
    cut(part(record(path, range(4)), 2))
    writer = EpisodeWriter(path, ATTRIBUTES)
    writer.append(*episode(2), index=2)
    writer.finish()
    assert numbers(path) == [0, 1, 2, 3]


def test_two_damaged_parts_of_one_number_are_both_kept(tmp_path):
    for _ in range(2):
        cut(part(record(tmp_path / "a.h5", [0]), 0))
        EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)
    assert len(list((tmp_path / "a.h5.damaged").iterdir())) == 2


def test_nothing_but_damaged_parts_is_a_sentence(tmp_path):
    path = tmp_path / "a.h5"
    writer = record(path, range(2))
    for index in range(2):
        cut(part(writer, index))
    with pytest.raises(UserError, match="no episode was finished"):
        writer.finish()


def test_a_kill_between_merging_and_deleting_merges_nothing_twice(tmp_path):
    path = tmp_path / "a.h5"
    writer = record(path, range(3))
    shutil.copytree(writer.parts, tmp_path / "copy")
    writer.finish()
    shutil.copytree(tmp_path / "copy", writer.parts)
    again = EpisodeWriter(path, ATTRIBUTES)
    assert again.episodes == 3
    again.append(*episode(3))
    again.finish()
    assert numbers(path) == [0, 1, 2, 3]


def test_parts_beside_another_file_are_not_lost(tmp_path):
    path, other = tmp_path / "a.h5", tmp_path / "other.h5"
    record(path, range(2))
    with EpisodeWriter(other, ATTRIBUTES) as writer:
        for number in (7, 8, 9):
            writer.append(*episode(number))
    other.rename(path)
    EpisodeWriter(path, ATTRIBUTES).finish()
    assert sorted(numbers(path)) == [0, 1, 7, 8, 9]


def test_an_empty_note_after_a_power_cut_is_written_again(tmp_path):
    path = tmp_path / "a.h5"
    writer = record(path, range(2))
    (writer.parts / "attributes.json").write_bytes(b"")
    EpisodeWriter(path, ATTRIBUTES).finish()
    assert numbers(path) == [0, 1]
    with EpisodeFile(path) as file:
        assert file.attributes["period"] == 0.1


def test_what_is_finished_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda _: synced.append(sorted(p.name for p in tmp_path.rglob("*.h5"))))
    writer = record(tmp_path / "a.h5", [0])
    assert [] in synced  # before the rename
    assert synced[-1] == ["episode-00000000.h5"]  # and its name after it
    synced.clear()
    writer.finish()
    assert synced[0] == ["episode-00000000.h5"]
    assert "a.h5" in synced[-1]


def test_labels_and_further_datasets_outlive_every_merge(tmp_path):
    path = tmp_path / "a.h5"
    wrist = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    for number, label in enumerate((1, -1, 0)):
        with EpisodeWriter(path, ATTRIBUTES) as writer:
            more = {"pixels_wrist": wrist + np.uint8(number), "current": np.full(4, number, np.float32)}
            writer.append(*episode(number), label=label, more=more)
    with EpisodeFile(path) as file:
        assert file.labels.tolist() == [1, -1, 0]
        raw = file._file
        assert raw["pixels_wrist"].chunks == (1, 5, 5, 3)
        for number in range(3):
            rows = slice(4 * number, 4 * number + 4)
            np.testing.assert_array_equal(raw["pixels_wrist"][rows], wrist + np.uint8(number))
            assert raw["current"][rows].tolist() == [number] * 4
    with (
        pytest.raises(UserError, match="choose another file"),
        EpisodeWriter(path, ATTRIBUTES) as writer,
    ):
        writer.append(*episode(3))


def test_further_datasets_have_as_many_rows(tmp_path):
    writer = EpisodeWriter(tmp_path / "a.h5", ATTRIBUTES)
    with pytest.raises(ValueError, match="current"):
        writer.append(*episode(0), more={"current": np.zeros(3)})
