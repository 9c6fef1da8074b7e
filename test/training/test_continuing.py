"""Heads that come later, and trainings that start from a checkpoint."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import read_spec
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.training import heads, progress, train_heads


def test_heads_come_later_and_change_nothing_else(data, tmp_path, tiny, capsys, write_episodes, command):
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, steps=4, **none)) == 0
    bare = tmp_path / "out"
    (bare / "card.md").write_text("# out\n\nmeasured by hand\n")
    later = tmp_path / "later"
    words = ["train-heads", "--data", str(data), "--checkpoint", str(bare), "--inverse-steps", "20"]
    for out in (later, later):  # the second time instead of the first
        assert main([*words, "--out", str(out), "--temporal-steps", "0"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (bare, later))
    assert all(
        torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items()
    )
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"inverse"}
    old, new = load_checkpoint(bare)[1], load_checkpoint(later)[1]
    assert (new.thresholds, new.action) == (old.thresholds, old.action)
    assert new.training["validation"].keys() > old.training["validation"].keys()
    card = (later / "card.md").read_text()
    assert card.startswith("# out\n\nmeasured by hand\n")
    assert card.count("inverse dynamics, R2") == 1
    assert "train-heads --checkpoint" in card
    other = write_episodes(tmp_path / "other.h5", seed=9)
    assert main(["train-heads", "--data", str(other), "--checkpoint", str(bare), "--out", str(later)]) == 2
    assert "its actions differ" in capsys.readouterr().err


def test_light_is_measured_later_and_nothing_else_changes(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=2)) == 0
    out = tmp_path / "out"
    config = json.loads((out / "config.json").read_text())
    light = config.pop("light")
    (out / "config.json").write_text(json.dumps(config))
    before = {name: (out / name).read_bytes() for name in ("model.safetensors", "card.md")}
    words = ["train-heads", "--data", str(data), "--checkpoint", str(out), "--out", str(out)]
    assert main([*words, "--temporal-steps", "0", "--inverse-steps", "0"]) == 0
    after = json.loads((out / "config.json").read_text())
    assert after["light"] == light
    assert "train-heads" in after["training"].pop("measured")["command"]
    assert {name: after[name] for name in config} == config
    assert {name: (out / name).read_bytes() for name in before} == before


def test_heads_say_how_far_they_are_and_what_an_interruption_costs(
    data, tmp_path, tiny, command, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "FIRST", -1.0)
    monkeypatch.setattr(progress, "EVERY", -1.0)
    original = heads.fit_inverse_dynamics

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(heads, "fit_inverse_dynamics", interrupted)
    assert main(command(data, tmp_path, steps=4)) == 130
    said = capsys.readouterr().err
    assert re.search(r"^training: step 2 of 4, .* steps/s, \d+ s left$", said, re.M)
    assert re.search(r"^temporal distance: step 20 of 20, .* steps/s, 0 s left$", said, re.M)
    assert f"all 4 steps are kept in {tmp_path / 'run'}; the same command fits the heads" in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(heads, "fit_inverse_dynamics", original)
    assert main(command(data, tmp_path, steps=4)) == 0
    assert "training: step" not in capsys.readouterr().err
    monkeypatch.setattr(heads, "fit_inverse_dynamics", interrupted)
    words = ["train-heads", "--data", str(data), "--checkpoint", str(tmp_path / "out")]
    assert main([*words, "--out", str(tmp_path / "later"), "--temporal-steps", "2"]) == 130
    assert "nothing is written, and the same command begins again" in capsys.readouterr().err
    assert not (tmp_path / "later").exists()


def test_heads_come_later_on_the_device_that_is_asked_for(data, tmp_path, tiny, monkeypatch, command):
    """A GPU is not to be had here: what it would hold is asked for, and computed on the CPU."""
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, steps=2, **none)) == 0
    asked = []

    def load(folder, device="cpu"):
        asked.append(device)
        return load_checkpoint(folder)

    monkeypatch.setattr(train_heads, "load_checkpoint", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = ["train-heads", "--data", str(data), "--checkpoint", str(tmp_path / "out")]
    words += ["--out", str(tmp_path / "later")]
    for device in ("cpu", "cuda", "auto"):
        assert main([*words, "--device", device, "--inverse-steps", "2", "--temporal-steps", "2"]) == 0
    assert asked == ["cpu", "cuda", "cuda"]


def test_heads_are_judged_where_their_latents_are(data, tiny, monkeypatch):
    """The latents are on the CPU, the model is somewhere else: here on torch's meta device."""
    with torch.device("meta"):
        model = LeWorldModel(tiny(4))
    generator = torch.Generator().manual_seed(0)
    lengths = np.full(8, 12)
    drawn = [torch.randn(96, width, generator=generator) for width in (8, 4)]
    monkeypatch.setattr(heads, "_by_episode", lambda *_: (*drawn, lengths))
    spec = read_spec("models/reach")
    monkeypatch.setattr(heads, "robot_pose", lambda *_: torch.randn(96, 3, generator=generator))
    steps = {"temporal": 2, "inverse": 2, "object": 2, "decoder": 0}
    _, metrics = heads.add_heads(model, spec, None, None, None, steps, 0)
    assert {"temporal_1", "inverse_1", "object_p50"} <= metrics.keys()
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_heads_are_trained_noted_and_left_out_on_demand(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=4)) == 0
    model, _ = load_checkpoint(tmp_path / "out")
    assert model.temporal is not None
    assert model.inverse is not None
    card = (tmp_path / "out/card.md").read_text()
    assert "temporal distance" in card
    assert "inverse dynamics, R2" in card
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path / "bare", steps=4, **none)) == 0
    bare, _ = load_checkpoint(tmp_path / "bare/out")
    assert bare.temporal is None
    assert bare.inverse is None


def test_a_training_starts_from_a_checkpoint_and_notes_both(data, tmp_path, tiny, command):
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(data, first, steps=150, batch=32, lr=3e-3, history=2)) == 0
    assert main(command(data, second, steps=1, lr=1e-9, start=first / "out")) == 0
    (before, old), (after, new) = (load_checkpoint(folder / "out") for folder in (first, second))
    weights = dict(before.named_parameters())
    assert new.history == 2
    assert {"temporal_hidden", "inverse_hidden"} <= {k for k, v in vars(new.model).items() if v}
    for name, value in after.named_parameters():
        if name.split(".")[0] not in ("temporal", "inverse"):
            torch.testing.assert_close(value, weights[name], rtol=0, atol=2e-3)
    assert new.training["earlier"] == [old.training["command"]]
    assert new.training["minutes"] > old.training["minutes"]
    card = (second / "out" / "card.md").read_text()
    assert card.index(old.training["command"]) < card.index(new.training["command"])


def test_a_training_from_another_checkpoint_is_another_training(data, tmp_path, tiny, capsys, command):
    for name, seed in (("a", 0), ("b", 1)):
        assert main(command(data, tmp_path / name, steps=2, seed=seed)) == 0
    run = tmp_path / "run"
    assert main(command(data, tmp_path, steps=2, start=tmp_path / "a" / "out")) == 0
    assert main(command(data, tmp_path, steps=2, start=tmp_path / "b" / "out")) == 2
    assert f"{run} was started differently" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("attributes", "theirs", "ours"),
    [
        ({"period": 0.1}, "period 0.05 in the checkpoint", "0.1 in the data"),
        ({"action_unit": "mm/s"}, "unit 'm/s' in the checkpoint", "'mm/s' in the data"),
        ({"action_frame": "tool0"}, "frame 'base' in the checkpoint", "'tool0' in the data"),
        (
            {"action_high": [2.0, 1.0]},
            "limits [-1, 1], [-1, 1] in the checkpoint",
            "[-1, 2], [-1, 1] in the data",
        ),
    ],
)
def test_a_checkpoint_of_another_robot_is_no_start(
    data, tmp_path, tiny, capsys, command, attributes, theirs, ours
):
    assert main(command(data, tmp_path / "first", steps=2)) == 0
    other = tmp_path / "other.h5"
    with EpisodeFile(data) as file, EpisodeWriter(other, file.attributes | attributes) as writer:
        for episode in range(len(file)):
            writer.append(file.pixels(episode), file.actions(episode))
    assert main(command(other, tmp_path, steps=2, start=tmp_path / "first" / "out")) == 2
    error = capsys.readouterr().err
    assert "was trained for other actions" in error
    assert f"{theirs} and {ours}" in error
    assert not (tmp_path / "out").exists()
