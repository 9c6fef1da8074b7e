"""What is looked at before a training begins."""

import h5py
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.model.config import read_spec

GIVEN = {
    "period": 0.05,
    "block": 2,
    "action-names": "linear_x,linear_y",
    "action-kind": "twist",
    "action-unit": "m/s",
}


@pytest.fixture
def bare(data, tmp_path):
    """Return a copy of the episodes, a row for each control step, without attributes."""
    path = tmp_path / "bare.h5"
    with h5py.File(data) as old, h5py.File(path, "w") as new:
        for name in ("pixels", "ep_len", "ep_offset"):
            new[name] = old[name][:]
        new["action"] = old["action"][:, :2]
    return path


def test_case_44_a_file_without_attributes_is_asked_about(bare, tmp_path, tiny, capsys, command):
    assert main(command(bare, tmp_path, steps=2)) == 2
    error = capsys.readouterr().err
    assert "does not say the names, kind, unit, control period and action block of its actions" in error
    assert "give --action-names, --action-kind, --action-unit, --period and --block." in error
    assert main(command(bare, tmp_path, steps=2, **(GIVEN | {"action-unit": " "}))) == 2
    assert not (tmp_path / "out").exists()


def test_case_44_what_is_given_is_trained_with_and_kept(bare, tmp_path, tiny, command):
    assert main(command(bare, tmp_path, steps=2, **GIVEN)) == 0
    spec = read_spec(tmp_path / "out")
    assert (spec.action.names, spec.action.kind) == (("linear_x", "linear_y"), "twist")
    assert (spec.action.unit, spec.period, spec.block) == ("m/s", 0.05, 2)
    assert "--action-names linear_x,linear_y" in spec.training["command"]
    # what is added later takes it from the checkpoint
    words = ["train-heads", "--data", str(bare), "--checkpoint", str(tmp_path / "out")]
    words += ["--out", str(tmp_path / "again"), "--temporal-steps", "2", "--inverse-steps", "2"]
    assert main(words) == 0


def test_what_a_file_says_is_not_overruled(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path, steps=2, period=0.1)) == 2
    assert "says control period 0.05, --period says 0.1: leave out --period" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action-names": "x,x"}, "give different names"),
        ({"action-names": "x"}, "do not hold 1 steps"),
        ({"period": 0}, "--period must be"),
        ({"block": 0}, "--block must be"),
        (
            {"action-kind": "Joint position"},
            "cannot be trained on: action kind 'Joint position'",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(bare, tmp_path, tiny, capsys, command, change, message):
    assert main(command(bare, tmp_path, steps=2, **(GIVEN | change))) == 2
    assert message in capsys.readouterr().err


def test_limits_that_the_file_does_not_state_can_be_given(bare, data, tmp_path, tiny, capsys, command):
    words = command(bare, tmp_path, steps=2, **GIVEN)
    assert main([*words, "--action-low", "-2", "-3", "--action-high", "2", "3"]) == 0
    spec = read_spec(tmp_path / "out")
    assert (spec.action.low, spec.action.high) == ((-2.0, -3.0), (2.0, 3.0))
    assert "--action-low -2.0 -3.0" in spec.training["command"]
    for limits, message in (
        (["--action-low", "-2", "-3"], "must both have a number for each action"),
        (["--action-low", "-2", "--action-high", "2"], "must both have a number for each action"),
        (["--action-low", "-2", "5", "--action-high", "2", "3"], "must be below"),
    ):
        assert main([*words, *limits]) == 2
        assert message in capsys.readouterr().err
    words = command(data, tmp_path / "stated", steps=2)
    assert main([*words, "--action-low", "-2", "-3", "--action-high", "2", "3"]) == 2
    assert "says lowest actions [-1.0, -1.0], --action-low says [-2.0, -3.0]" in capsys.readouterr().err


def test_other_kinds_of_actions_train(bare, tmp_path, tiny, command):
    kind = {"action-kind": "joint_position", "action-unit": "rad"}
    assert main(command(bare, tmp_path, steps=2, **(GIVEN | kind))) == 0
    assert read_spec(tmp_path / "out").action.kind == "joint_position"


def test_whole_number_actions_are_refused(bare, tmp_path, tiny, capsys, command):
    with h5py.File(bare, "r+") as file:
        choices = np.sign(np.nan_to_num(file["action"][:])).astype(np.int64)
        del file["action"]
        file["action"] = choices
    assert main(command(bare, tmp_path, steps=2, **GIVEN)) == 2
    assert "its actions are whole numbers" in capsys.readouterr().err


def test_float_pixels_with_their_channels_first_train_as_the_same_pictures(
    bare, tmp_path, tiny, capsys, command
):
    assert main(command(bare, tmp_path / "a", steps=2, **GIVEN)) == 0
    with h5py.File(bare, "r+") as file:
        pixels = np.moveaxis(file["pixels"][:] / np.float32(255), -1, 1)
        del file["pixels"]
        file["pixels"] = pixels
    capsys.readouterr()
    assert main(command(bare, tmp_path / "b", steps=2, **GIVEN)) == 0
    said = capsys.readouterr().err
    assert "have their channels first" in said
    assert "float32 from 0 to 1" in said
    first, second = (read_spec(tmp_path / name / "out").training["validation"] for name in "ab")
    assert first == second
