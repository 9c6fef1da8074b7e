"""``train`` on several files, on a part of one, without some actions, and with frames that do not fit."""

import h5py
import numpy as np
import pytest
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.together import EpisodeFiles
from world_model_ros.errors import UserError
from world_model_ros.evaluation.recordings import held_out_split, open_data, read_recordings
from world_model_ros.model.config import read_spec

NO_HEADS = {"temporal-steps": 0, "inverse-steps": 0}


def split(words, *more):
    """Give --data more values."""
    at = words.index("--data") + 2
    return [*words[:at], *map(str, more), *words[at:]]


def weights(folder):
    return load_file(folder / "out" / "model.safetensors")


def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values.float(), b[name].float(), err_msg=name)


@pytest.fixture
def halves(tmp_path, write_episodes):
    """Return two files, and one with the episodes of both."""
    a = write_episodes(tmp_path / "a.h5", episodes=8, seed=1)
    b = write_episodes(tmp_path / "b.h5", episodes=6, seed=2)
    both = tmp_path / "both.h5"
    assert main(["episodes", "merge", str(a), str(b), "--out", str(both)]) == 0
    return a, b, both


def test_two_files_train_like_their_merged_one(halves, tmp_path, tiny, command):
    a, b, both = halves
    assert main(split(command(a, tmp_path / "two", **NO_HEADS), b)) == 0
    assert main(command(both, tmp_path / "one", **NO_HEADS)) == 0
    assert_same_weights(tmp_path / "two", tmp_path / "one")
    noted = read_spec(tmp_path / "two" / "out").training
    assert noted["data"] == "a.h5 + b.h5"
    assert noted["episodes"] == 14
    assert f"--data {a} {b}" in noted["command"]


def test_files_that_do_not_fit_together_are_refused_with_both_sides(halves, tmp_path, capsys, command):
    a, b, _ = halves
    with h5py.File(b, "r+") as file:
        file.attrs["action_unit"] = "mm/s"
    assert main(split(command(a, tmp_path), b)) == 2
    error = capsys.readouterr().err
    assert f"unit 'm/s' in {a} and 'mm/s' in {b}" in error
    assert main(split(command(a, tmp_path), a)) == 2
    assert "twice" in capsys.readouterr().err


def test_the_first_episodes_train_like_a_file_of_them(halves, tmp_path, tiny, capsys, command):
    a, _, both = halves
    assert main(command(both, tmp_path / "some", episodes=8, **NO_HEADS)) == 0
    assert main(command(a, tmp_path / "all", **NO_HEADS)) == 0
    assert_same_weights(tmp_path / "some", tmp_path / "all")
    words = ["train-heads", "--checkpoint", str(tmp_path / "some" / "out"), "--data", str(both)]
    words += ["--out", str(tmp_path / "heads"), "--temporal-steps", "2", "--inverse-steps", "2"]
    assert main(words) == 0
    for count in (0, 15):
        assert main(command(both, tmp_path / "none", episodes=count)) == 2
        assert f"has 14 episodes, {count} are needed" in capsys.readouterr().err


@pytest.fixture
def still(tmp_path, write_episodes):
    """Return a file whose second action never moves."""
    path = write_episodes(tmp_path / "still.h5", episodes=8)
    with h5py.File(path, "r+") as file:
        action = file["action"][:]
        action[:, 1::2] = np.where(np.isnan(action[:, 1::2]), np.nan, 0.25)
        file["action"][:] = action
    return path


def test_an_action_that_never_moves_can_be_left_out(still, tmp_path, tiny, capsys, command):
    assert main(command(still, tmp_path)) == 2
    assert "`train --drop-actions linear_y`" in capsys.readouterr().err
    assert main(command(still, tmp_path, **{"drop-actions": "linear_y"})) == 0
    spec = read_spec(tmp_path / "out")
    assert (spec.action.names, spec.action.low, spec.action.high) == (("linear_x",), (-1.0,), (1.0,))
    assert spec.model.action_dim == 2
    assert spec.training["dropped_actions"] == ["linear_y"]
    assert "--drop-actions linear_y" in spec.training["command"]
    words = ["train-heads", "--checkpoint", str(tmp_path / "out"), "--data", str(still)]
    words += ["--out", str(tmp_path / "heads"), "--temporal-steps", "2", "--inverse-steps", "2"]
    assert main(words) == 0


def test_left_out_columns_are_those_of_each_control_step(still):
    with EpisodeFiles([still], drop_actions=["linear_y"]) as files, EpisodeFile(still) as file:
        np.testing.assert_array_equal(files.actions(3), file.actions(3)[:, [0, 2]])
        assert files.attributes["action_names"] == ["linear_x"]


@pytest.mark.parametrize(
    ("names", "message"),
    [("nothing", "has no action nothing; it has linear_x, linear_y"), ("linear_x linear_y", "at least one")],
)
def test_what_cannot_be_left_out_is_named(still, tmp_path, capsys, names, message, command):
    words = command(still, tmp_path)
    assert main([*words, "--drop-actions", *names.split()]) == 2
    assert message in capsys.readouterr().err


def test_frames_that_do_not_fit_into_memory_train_to_the_same(halves, tmp_path, tiny, capsys, command):
    a, _, _ = halves
    assert main(command(a, tmp_path / "held")) == 0
    (tmp_path / "cache").mkdir()
    words = command(a, tmp_path / "mapped", memory=0.0001, cache=tmp_path / "cache")
    capsys.readouterr()
    assert main(words) == 0
    assert "GB at 64 px, 0.00 GB of memory may be used" in capsys.readouterr().err
    assert_same_weights(tmp_path / "held", tmp_path / "mapped")
    (cache,) = (tmp_path / "cache").iterdir()
    assert cache.stat().st_size == 8 * 12 * 64 * 64 * 3
    noted = [read_spec(tmp_path / name / "out") for name in ("held", "mapped")]
    assert noted[0].thresholds == noted[1].thresholds
    assert "--memory" not in noted[1].training["command"]


def test_a_cache_needs_a_folder(data, tmp_path, capsys, command):
    assert main(command(data, tmp_path, cache=tmp_path / "none")) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_evaluation_sees_the_data_as_the_training_did(halves, tmp_path, tiny, capsys, command):
    a, b, both = halves
    options = {"episodes": 10, "drop-actions": "linear_y"}
    assert main(command(both, tmp_path, **options, **NO_HEADS)) == 0
    spec = read_spec(tmp_path / "out")
    with open_data(both, spec) as file:
        training, held_out = held_out_split(spec, file)
        assert sorted(training + held_out) == list(range(10))
        (recording,) = read_recordings(file, held_out, spec, "spot")
        assert recording.blocks.shape[1] == 2
    with pytest.raises(UserError, match="8 episodes, 10 are needed"):
        open_data(a, spec)
    assert main(split(command(a, tmp_path / "two", **NO_HEADS), b)) == 0
    spec = read_spec(tmp_path / "two" / "out")
    with open_data(a, spec) as file, pytest.raises(UserError, match=r"a\.h5 \+ b\.h5; put several together"):
        held_out_split(spec, file)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ("ee_q < 0.1", "there is no stored state 'ee_q'"),
        ("x <", "is not of the form NAME < NUMBER"),
        ("x < -9", "never happens in the data"),
    ],
)
def test_an_event_that_cannot_be_learned_is_refused_before_the_training(
    halves, tmp_path, capsys, command, event, why
):
    a, _, _ = halves
    risk = {"risk-steps": 2, "risk": event, "risk-name": "it happens"}
    assert main(command(a, tmp_path / "run", **NO_HEADS, **risk)) == 2
    told = capsys.readouterr().err
    assert why in told
    assert "step 1 of" not in told
    assert not (tmp_path / "run" / "out").exists()
