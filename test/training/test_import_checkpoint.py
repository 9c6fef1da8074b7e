"""import-checkpoint with the episodes of the training, and what train-heads adds to such a checkpoint."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import Thresholds

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HEADS = ["--temporal-steps", "3", "--inverse-steps", "3", "--ensemble-steps", "3"]


@pytest.fixture
def published(tmp_path):
    """Return a published folder whose action blocks have 10 numbers."""
    folder = tmp_path / "published"
    folder.mkdir()
    config = json.loads((GOLDEN / "lewm_tiny.json").read_text())["config_a"]
    (folder / "config.json").write_text(json.dumps(config))
    arrays = np.load(GOLDEN / "lewm_tiny.npz")
    weights = {k.removeprefix("a/sd/"): arrays[k] for k in arrays.files if k.startswith("a/sd/")}
    torch.save({k: torch.from_numpy(v) for k, v in weights.items()}, folder / "weights.pt")
    return folder


@pytest.fixture
def episodes(tmp_path):
    """Return a function that writes episodes whose rows are single control steps of two actions."""

    def write(**attributes):
        rng = np.random.default_rng(0)
        path = tmp_path / "data.h5"
        path.unlink(missing_ok=True)
        with EpisodeWriter(path, {"action_names": ["linear_x", "linear_y"], **attributes}) as writer:
            for _ in range(6):
                pixels = rng.integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
                writer.append(pixels, rng.uniform(-0.5, 1, (24, 2)).astype(np.float32))
        return path

    return write


STATED = {"action_kind": "twist", "action_unit": "m/s", "period": 0.1}


def test_action_statistics_and_timing_come_from_the_data(published, episodes, tmp_path, capsys):
    path = episodes(**STATED)
    assert (
        main(["import-checkpoint", str(published), "--data", str(path), "--out", str(tmp_path / "out")]) == 0
    )
    spec = load_checkpoint(tmp_path / "out")[1]
    with EpisodeFile(path) as file:
        steps = np.concatenate([file.actions(e) for e in range(6)])
    assert spec.action.names == ("linear_x", "linear_y")
    np.testing.assert_allclose(spec.action.mean, np.nanmean(steps, 0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.std, np.nanstd(steps, 0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.high, np.nanmax(steps, 0), rtol=1e-5)
    assert (spec.period, spec.block) == (0.1, 5)
    assert spec.training["data"] == "data.h5"


def test_an_imported_checkpoint_gets_heads_thresholds_and_light(published, episodes, tmp_path, capsys):
    path, out = episodes(**STATED), tmp_path / "out"
    assert main(["import-checkpoint", str(published), "--data", str(path), "--out", str(out)]) == 0
    before, bare = load_checkpoint(out)
    assert bare.thresholds == Thresholds()
    words = ["train-heads", "--checkpoint", str(out), "--data", str(path), "--out", str(out), *HEADS]
    assert main(words) == 0
    assert "held out of the heads only" in capsys.readouterr().err
    model, spec = load_checkpoint(out)
    assert model.temporal is not None
    assert model.inverse is not None
    assert len(model.ensemble) == spec.model.ensemble == 1
    assert not torch.equal(model.ensemble[0].predictor.pos_embedding, model.predictor.pos_embedding)
    assert np.isfinite(spec.training["validation"]["ensemble_prediction"])
    assert spec.thresholds.goal_reached > 0
    assert spec.thresholds.norm_low < spec.thresholds.norm_high
    assert len(spec.light.low) == 4
    assert "train-heads --checkpoint" in spec.training["measured"]["command"]
    # frames of 32 px go the published way to the 28 px of the model, and its weights stay
    for name, value in before.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-3, atol=1e-3)


def test_what_the_data_do_not_state_is_asked_for(published, episodes, tmp_path, capsys):
    words = ["import-checkpoint", str(published), "--data", str(episodes()), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "does not say the kind, unit and control period of its actions" in capsys.readouterr().err
    given = ["--action-kind", "twist", "--action-unit", "m/s", "--period", "0.1"]
    assert main([*words, *given]) == 0
    assert main([*words, *given, "--action-stats", "stats.json"]) == 2
    assert "leave one out" in capsys.readouterr().err
    assert main([*words, *given, "--block", "4"]) == 2
    assert "do not fit together" in capsys.readouterr().err
