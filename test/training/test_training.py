import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from world_model_ros.cli import main
from world_model_ros.data.clips import split_episodes
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.evaluation.probes import LinearProbe
from world_model_ros.model.checkpoint import load_checkpoint, multiplies_in_bf16
from world_model_ros.model.encoder import normalise_pixels
from world_model_ros.training.metrics import overfits


def test_training_beats_copying_and_leaves_a_checkpoint(data, tmp_path, tiny, capsys, picture, command):
    assert main(command(data, tmp_path, steps=200, batch=32, lr=3e-3)) == 0
    said = capsys.readouterr()
    assert said.out.rstrip().endswith(f"checkpoint: {tmp_path / 'out'}")
    model, spec = load_checkpoint(tmp_path / "out")
    assert (spec.period, spec.block, spec.model.action_dim) == (0.05, 2, 4)
    metrics = spec.training["validation"]
    assert metrics["ratio"] < 0.6
    assert metrics["effective_rank"] > 2
    assert ("more episodes would help" in said.err) == overfits(metrics)
    thresholds = spec.thresholds
    assert 0 < thresholds.norm_low < thresholds.norm_high
    assert thresholds.surprise > 0
    brightness = picture((0.5, 0.5)).mean()  # the spot is inside the picture, so all are alike
    assert spec.light.low[0] <= brightness <= spec.light.high[0] < 1.1 * spec.light.low[0]
    assert spec.light.mean[1:] == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    # frames of one place are closer than the threshold, frames of opposite corners are not
    near, far = np.array([[0.5, 0.5], [0.505, 0.5]]), np.array([[0.2, 0.2], [0.8, 0.8]])
    with torch.no_grad():
        for places, reached in ((near, True), (far, False)):
            pixels = torch.from_numpy(np.stack([picture(place) for place in places]))
            a, b = model.encode(normalise_pixels(pixels, spec.image))
            assert bool((a - b).square().sum() <= thresholds.goal_reached) == reached
    card = (tmp_path / "out" / "card.md").read_text()
    assert spec.training["command"] in card
    assert f"{metrics['ratio']:.4f}" in card


def test_motion_lies_along_straight_lines_where_it_is_asked_for(data, tmp_path, tiny, picture, command):
    found = {}
    for motion in (0.0, 1.0):
        folder = tmp_path / str(motion)
        assert main(command(data, folder, steps=120, batch=32, lr=3e-3, motion=motion)) == 0
        model, spec = load_checkpoint(folder / "out")
        places = np.random.default_rng(0).uniform(0.15, 0.85, (400, 2))
        pixels = torch.from_numpy(np.stack([picture(place) for place in places]))
        with torch.no_grad():
            latents = model.encode(normalise_pixels(pixels, spec.image)).double().numpy()
        parts = [half for values in (latents, places) for half in np.split(values, 2)]
        (x, x_check), (y, y_check) = parts[:2], parts[2:]
        found[motion] = r2_score(y_check, LinearProbe(x, y, x, y).predict(x_check))
        assert spec.training["motion"] == motion
        assert "motion" not in " ".join(model.state_dict())
    assert found[1.0] > 0.9
    assert found[1.0] > found[0.0]


def test_metrics_file(data, tmp_path, tiny, command, lines):
    assert main(command(data, tmp_path, steps=40)) == 0
    *reports, last = lines(tmp_path)
    assert [line["step"] for line in reports] == [20, 40]
    keys = {"step", "prediction", "sigreg", "copy", "ratio", "latent_std", "effective_rank", "lr"}
    keys |= {"steps_per_second"}
    for line in reports:
        assert set(line) == keys
        assert all(np.isfinite(value) for value in line.values())
    assert last["step"] == 40
    assert set(last["validation"]) == {"prediction", "copy", "ratio", "latent_std", "effective_rank"}


@pytest.mark.parametrize("size", [32, 100])
def test_any_image_size_that_the_convolutions_divide(data, tmp_path, tiny, capsys, command, size):
    options = {"steps": 2, "temporal-steps": 0, "inverse-steps": 0, "image-size": size}
    code = main(command(data, tmp_path, **options))
    if size == 100:
        assert code == 2
        assert "--image-size 100: model.image_size 100 is no multiple of 16" in capsys.readouterr().err
        return
    spec = load_checkpoint(tmp_path / "out")[1]
    assert (spec.image.size, spec.model.image_size) == (32, 32)
    assert f"--image-size {size}" in spec.training["command"]
    assert (
        main(command(data, tmp_path / "more", start=tmp_path / "out", **(options | {"image-size": 48}))) == 2
    )
    assert "sees pictures of 32 pixels" in capsys.readouterr().err


def test_divergence_is_an_error_and_keeps_no_bad_checkpoint(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path, lr=1e30)) == 2
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no episode file"), (b"not HDF5", "not a readable HDF5")]
)
def test_bad_data_is_refused(tmp_path, capsys, content, message, command):
    path = tmp_path / "bad.h5"
    if content is not None:
        path.write_bytes(content)
    assert main(command(path, tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not (tmp_path / "run").exists()


def test_one_episode_is_too_few(tmp_path, capsys, write_episodes, command):
    path = write_episodes(tmp_path / "one.h5", episodes=1)
    assert main(command(path, tmp_path)) == 2
    assert "at least two episodes" in capsys.readouterr().err


def test_episodes_too_short_for_a_clip_are_refused(tmp_path, tiny, capsys, write_episodes, command):
    path = write_episodes(tmp_path / "short.h5", frames=3)
    assert main(command(path, tmp_path)) == 2
    assert "record longer ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("steps", 0),
        ("batch", 1),
        ("lr", 0),
        ("val", 1),
        ("device", "tpu"),
        ("history", 0),
        ("seed", -1),
        ("motion", -1),
    ],
)
def test_impossible_options_are_refused(data, tmp_path, capsys, option, value, command):
    assert main(command(data, tmp_path, **{option: value})) == 2
    assert f"--{option}" in capsys.readouterr().err


def test_thresholds_without_states(tmp_path, tiny, write_episodes, command):
    path = write_episodes(tmp_path / "stateless.h5", states=False)
    assert main(command(path, tmp_path)) == 0
    spec = load_checkpoint(tmp_path / "out")[1]
    assert spec.thresholds.goal_reached > 0
    assert "smallest twentieth" in spec.training["validation"]["goal_reached_from"]


def test_normalisation_comes_from_the_training_episodes_alone(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, val=0.5)) == 0
    spec = load_checkpoint(tmp_path / "out")[1]
    training, _ = split_episodes(32, 0.5, seed=0)
    with EpisodeFile(data) as file:
        steps = np.concatenate([file.actions(e)[:-1].reshape(-1, 2) for e in training])
    np.testing.assert_allclose(spec.action.mean, steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.std, steps.std(0), rtol=1e-5)


def test_a_collapsing_training_warns(data, tmp_path, tiny, capsys, command):
    assert main(command(data, tmp_path, steps=60, sigreg=0, lr=1e-2)) == 0
    assert "the latents are collapsing" in capsys.readouterr().err


def test_bf16_trains_to_nearly_the_same(data, tmp_path, tiny, capsys, command):
    metrics = {}
    for precision in ("fp32", "bf16"):
        assert main(command(data, tmp_path / precision, steps=40, precision=precision)) == 0
        slow = precision == "bf16" and not multiplies_in_bf16()
        assert ("has no instructions for bf16" in capsys.readouterr().err) == slow
        spec = load_checkpoint(tmp_path / precision / "out")[1]
        assert spec.training["precision"] == precision
        metrics[precision] = spec.training["validation"]["prediction"]
    assert metrics["bf16"] == pytest.approx(metrics["fp32"], rel=0.2)
