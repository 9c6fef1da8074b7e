import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.data.episodes import EpisodeFile, EpisodeWriter
from world_model_ros.errors import UserError
from world_model_ros.evaluation.probes import Ridge, r2
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig
from world_model_ros.model.image import normalise_pixels
from world_model_ros.training import train
from world_model_ros.training.loop import (
    TrainingInterruptedError,
    TrainingRun,
    TrainingSettings,
    batch_indices,
    learning_rate,
)
from world_model_ros.training.metrics import copy_error, effective_rank, latent_std, looks_collapsed
from world_model_ros.training.split import split_episodes

ATTRIBUTES = {
    "action_names": ["linear_x", "linear_y"],
    "action_kind": "twist",
    "action_unit": "m/s",
    "action_frame": "base",
    "action_low": [-1.0, -1.0],
    "action_high": [1.0, 1.0],
    "period": 0.05,
    "block": 2,
    "steps_per_row": 2,
    "source": "test",
    "task": "spot",
    "state_names": ["x", "y"],
}


def picture(place):
    """A bright spot at ``place`` in [0, 1]^2, 64 px."""
    grid = (np.arange(64) + 0.5) / 64
    spot = np.exp(-((grid[:, None] - place[1]) ** 2 + (grid[None] - place[0]) ** 2) / 0.01)
    return np.repeat((40 + 200 * spot)[..., None], 3, axis=2).astype(np.uint8)


def write_episodes(path, episodes=32, frames=12, states=True, seed=0):
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, ATTRIBUTES) as writer:
        for _ in range(episodes):
            place, rows = rng.uniform(0.2, 0.8, 2), []
            for _ in range(frames):
                action = rng.uniform(-1, 1, (2, 2))
                rows.append((picture(place), action.ravel(), place.copy()))
                place = np.clip(place + 0.1 * action.sum(0), 0.1, 0.9)
            pixels, actions, places = (np.stack(column) for column in zip(*rows, strict=True))
            actions[-1] = np.nan
            writer.append(pixels, actions, places if states else None)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("data") / "spot.h5")


@pytest.fixture
def tiny(monkeypatch):
    """Make --size small a model that trains in a second."""

    def config(action_dim):
        return ModelConfig(
            encoder="conv",
            image_size=64,
            action_dim=action_dim,
            latent_dim=8,
            history=3,
            encoder_width=32,
            projector_hidden=32,
            action_hidden=16,
            predictor_width=16,
            predictor_depth=1,
            predictor_heads=2,
            predictor_head_dim=8,
            predictor_mlp=32,
            dropout=0.1,
            channels=(8, 16, 16),
        )

    monkeypatch.setitem(train._SIZES, "small", config)
    return config


def command(data, folder, **options):
    heads = {"temporal-steps": 20, "inverse-steps": 20}
    options = {"steps": 12, "batch": 16, "projections": 32, "threads": 1, **heads, **options}
    words = ["train", "--data", str(data), "--out", str(folder / "out"), "--run", str(folder / "run")]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def lines(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_training_beats_copying_and_leaves_a_checkpoint(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path, steps=200, batch=32, lr=3e-3)) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"checkpoint: {tmp_path / 'out'}")
    model, spec = load_checkpoint(tmp_path / "out")
    assert (spec.period, spec.block, spec.model.action_dim) == (0.05, 2, 4)
    figures = spec.training["validation"]
    assert figures["ratio"] < 0.6
    assert figures["effective_rank"] > 2
    thresholds = spec.thresholds
    assert 0 < thresholds.norm_low < thresholds.norm_high
    assert thresholds.surprise > 0
    # frames of one place are closer than the threshold, frames of opposite corners are not
    near, far = np.array([[0.5, 0.5], [0.505, 0.5]]), np.array([[0.2, 0.2], [0.8, 0.8]])
    with torch.no_grad():
        for places, reached in ((near, True), (far, False)):
            pixels = torch.from_numpy(np.stack([picture(place) for place in places]))
            a, b = model.encode(normalise_pixels(pixels, spec.image))
            assert bool((a - b).square().sum() <= thresholds.goal_reached) == reached
    card = (tmp_path / "out" / "card.md").read_text()
    assert spec.training["command"] in card
    assert f"{figures['ratio']:.4f}" in card


def test_motion_lies_along_straight_lines_where_it_is_asked_for(data, tmp_path, tiny):
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
        found[motion] = r2(y_check, Ridge(x, y, x, y).predict(x_check))
        assert spec.training["motion"] == motion
        assert "motion" not in " ".join(model.state_dict())
    assert found[1.0] > 0.9
    assert found[1.0] > found[0.0]


def test_metrics_file(data, tmp_path, tiny):
    assert main(command(data, tmp_path, steps=40)) == 0
    *reports, last = lines(tmp_path)
    assert [line["step"] for line in reports] == [20, 40]
    keys = {"step", "prediction", "sigreg", "copy", "ratio", "latent_std", "effective_rank", "lr"}
    for line in reports:
        assert set(line) == keys
        assert all(np.isfinite(value) for value in line.values())
    assert last["step"] == 40
    assert set(last["validation"]) == {"prediction", "copy", "ratio", "latent_std", "effective_rank"}


class StopAtError(Exception):
    pass


def interrupt_at(monkeypatch, step, error):
    """Raise ``error`` in the middle of step ``step``, after those before it."""
    original = TrainingRun._train_step

    def step_or_stop(self, *arguments):
        if self.step == step:
            raise error
        return original(self, *arguments)

    monkeypatch.setattr(TrainingRun, "_train_step", step_or_stop)
    return original


@pytest.mark.parametrize("motion", [0.0, 0.1])
def test_killed_and_resumed_equals_uninterrupted(data, tmp_path, tiny, monkeypatch, motion):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"steps": 45, "motion": motion}
    assert main(command(data, whole, **options)) == 0
    # a state is saved after every step; the process dies in step 25, after step 20's metrics line
    monkeypatch.setattr("world_model_ros.training.loop._SAVE_SECONDS", -1.0)
    original = interrupt_at(monkeypatch, 25, StopAtError())
    with pytest.raises(StopAtError):
        main(command(data, broken, **options))
    assert not (broken / "out").exists()
    with (broken / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "prediction": 0}\n{"step": 2')  # written, but its state was not saved
    monkeypatch.setattr(TrainingRun, "_train_step", original)
    assert main(command(data, broken, **options)) == 0
    a, b = (load_checkpoint(folder / "out")[0].state_dict() for folder in (whole, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)
    steps = [line["step"] for line in lines(broken)]
    assert steps == [line["step"] for line in lines(whole)]


def test_a_finished_run_says_so(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path)) == 0
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command(data, tmp_path)) == 0
    assert "all 12 steps done" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_writes_a_lost_checkpoint_again(data, tmp_path, tiny):
    assert main(command(data, tmp_path)) == 0
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert main(command(data, tmp_path)) == 0
    load_checkpoint(tmp_path / "out")


def test_other_settings_are_refused_until_restart(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path)) == 0
    assert main(command(data, tmp_path, lr=0.1)) == 2
    error = capsys.readouterr().err
    assert "settings.lr 0.001 there, 0.1 now" in error
    assert "--restart" in error
    assert main(command(data, tmp_path, lr=0.01, restart=True)) == 0
    assert load_checkpoint(tmp_path / "out")[1].training["lr"] == 0.01


def test_a_damaged_state_is_refused(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path)) == 0
    state = tmp_path / "run" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert main(command(data, tmp_path)) == 2
    assert str(state) in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_stops(data, tmp_path, tiny, monkeypatch, number, capsys):
    original = TrainingRun._train_step

    def step_and_signal(self, *arguments):
        if self.step == 5:
            os.kill(os.getpid(), number)
        return original(self, *arguments)

    monkeypatch.setattr(TrainingRun, "_train_step", step_and_signal)
    before = signal.getsignal(number)
    assert main(command(data, tmp_path)) == 130
    assert signal.getsignal(number) == before
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 6
    monkeypatch.setattr(TrainingRun, "_train_step", original)
    assert main(command(data, tmp_path)) == 0


def test_ctrl_c_on_a_real_process(data, tmp_path):
    words = [sys.executable, "-m", "world_model_ros", *command(data, tmp_path, steps=100_000, batch=4)]
    environment = {**os.environ, "PYTHONPATH": str(Path(train.__file__).parents[2])}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = threading.Event()
    while not (metrics.exists() and metrics.read_text()):
        assert process.poll() is None
        deadline.wait(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert (tmp_path / "run" / "state.pt").exists()


def test_divergence_is_an_error_and_keeps_no_bad_checkpoint(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path, lr=1e30)) == 2
    assert "diverged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no episode file"), (b"not HDF5", "not a readable HDF5")]
)
def test_bad_data_is_refused(tmp_path, capsys, content, message):
    path = tmp_path / "bad.h5"
    if content is not None:
        path.write_bytes(content)
    assert main(command(path, tmp_path)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not (tmp_path / "run").exists()


def test_one_episode_is_too_few(tmp_path, capsys):
    path = write_episodes(tmp_path / "one.h5", episodes=1)
    assert main(command(path, tmp_path)) == 2
    assert "at least two episodes" in capsys.readouterr().err


def test_episodes_too_short_for_a_clip_are_refused(tmp_path, tiny, capsys):
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
def test_impossible_options_are_refused(data, tmp_path, capsys, option, value):
    assert main(command(data, tmp_path, **{option: value})) == 2
    assert f"--{option}" in capsys.readouterr().err


def test_thresholds_without_states(tmp_path, tiny):
    path = write_episodes(tmp_path / "stateless.h5", states=False)
    assert main(command(path, tmp_path)) == 0
    spec = load_checkpoint(tmp_path / "out")[1]
    assert spec.thresholds.goal_reached > 0
    assert "smallest twentieth" in spec.training["validation"]["goal_reached_from"]


def test_split_is_by_episode_seeded_and_complete():
    training, held_out = split_episodes(50, 0.1, seed=3)
    assert len(held_out) == 5
    assert sorted(training + held_out) == list(range(50))
    assert split_episodes(50, 0.1, seed=3) == (training, held_out)
    assert split_episodes(50, 0.1, seed=4) != (training, held_out)
    assert [len(part) for part in split_episodes(2, 0.9, seed=0)] == [1, 1]


def test_normalisation_comes_from_the_training_episodes_alone(data, tmp_path, tiny):
    assert main(command(data, tmp_path, val=0.5)) == 0
    spec = load_checkpoint(tmp_path / "out")[1]
    training, _ = split_episodes(32, 0.5, seed=0)
    with EpisodeFile(data) as file:
        steps = np.concatenate([file.actions(e)[:-1].reshape(-1, 2) for e in training])
    np.testing.assert_allclose(spec.action.mean, steps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spec.action.std, steps.std(0), rtol=1e-5)


def test_every_epoch_sees_every_clip_once():
    seen = [batch_indices(step, 20, 5, seed=1) for step in range(8)]
    for epoch in (seen[:4], seen[4:]):
        assert sorted(np.concatenate(epoch)) == list(range(20))
    assert not np.array_equal(seen[0], seen[4])
    assert len(batch_indices(0, 3, 5, seed=1)) == 3


def test_learning_rate_warms_up_and_falls_to_nothing():
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1
    assert rates[-1] < 1e-4
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_effective_rank_of_known_matrices():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double))[0]
    both_ways = torch.cat([basis, -basis])
    assert effective_rank(both_ways) == pytest.approx(6)
    assert effective_rank(both_ways @ torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]).double())) <= 6
    line = torch.linspace(-1, 1, 50)[:, None] * torch.randn(1, 6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(10, 6)) == 0
    # two directions with shares 0.9 and 0.1: exp of their entropy
    pair = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(pair) == pytest.approx(np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))))


def test_copy_error_and_std_of_known_latents():
    latents = torch.tensor([[[0.0, 0], [1, 1], [3, 1]]])
    assert copy_error(latents) == pytest.approx((1 + 1 + 4 + 0) / 4)
    assert latent_std(torch.tensor([[1.0, 5], [3, 5]])) == pytest.approx(2**0.5 / 2)


def test_collapse_is_noticed():
    healthy = {"latent_std": 0.9, "effective_rank": 20.0}
    assert not looks_collapsed(healthy)
    assert looks_collapsed({**healthy, "latent_std": 0.01})
    assert looks_collapsed({**healthy, "effective_rank": 1.1})


def test_a_collapsing_training_warns(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path, steps=60, sigreg=0, lr=1e-2)) == 0
    assert "the latents are collapsing" in capsys.readouterr().err


def test_a_run_stops_only_by_its_own_error(tmp_path, tiny):
    run = TrainingRun(tmp_path, tiny(4), TrainingSettings(steps=1))
    assert not run.finished
    run.save()
    with pytest.raises(UserError, match=r"settings\.steps 1 there, 2 now"):
        TrainingRun(tmp_path, tiny(4), TrainingSettings(steps=2))
    assert not issubclass(TrainingInterruptedError, UserError)


def test_bf16_trains_to_nearly_the_same(data, tmp_path, tiny):
    figures = {}
    for precision in ("fp32", "bf16"):
        assert main(command(data, tmp_path / precision, steps=40, precision=precision)) == 0
        spec = load_checkpoint(tmp_path / precision / "out")[1]
        assert spec.training["precision"] == precision
        figures[precision] = spec.training["validation"]["prediction"]
    assert figures["bf16"] == pytest.approx(figures["fp32"], rel=0.2)


def test_heads_come_later_and_change_nothing_else(data, tmp_path, tiny, capsys):
    none = {"temporal-steps": 0, "inverse-steps": 0}
    assert main(command(data, tmp_path, steps=4, **none)) == 0
    bare = tmp_path / "out"
    (bare / "card.md").write_text("# out\n\nmeasured by hand\n")
    later = tmp_path / "later"
    words = ["train", "--data", str(data), "--heads", str(bare), "--inverse-steps", "20"]
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
    assert "--heads" in card
    other = write_episodes(tmp_path / "other.h5", seed=9)
    assert main(["train", "--data", str(other), "--heads", str(bare), "--out", str(later)]) == 2
    assert "its actions differ" in capsys.readouterr().err


def test_heads_are_trained_noted_and_left_out_on_demand(data, tmp_path, tiny):
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


def test_a_training_starts_from_a_checkpoint_and_notes_both(data, tmp_path, tiny):
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


def test_a_training_from_another_checkpoint_is_another_training(data, tmp_path, tiny, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        assert main(command(data, tmp_path / name, steps=2, seed=seed)) == 0
    run = tmp_path / "run"
    assert main(command(data, tmp_path, steps=2, start=tmp_path / "a" / "out")) == 0
    assert main(command(data, tmp_path, steps=2, start=tmp_path / "b" / "out")) == 2
    assert f"{run} was started differently" in capsys.readouterr().err


def test_a_checkpoint_of_another_robot_is_no_start(data, tmp_path, tiny, capsys):
    assert main(command(data, tmp_path / "first", steps=2)) == 0
    other = tmp_path / "other.h5"
    attributes = ATTRIBUTES | {"period": 0.1}
    with EpisodeFile(data) as file, EpisodeWriter(other, attributes) as writer:
        for episode in range(len(file)):
            writer.append(file.pixels(episode), file.actions(episode))
    assert main(command(other, tmp_path, steps=2, start=tmp_path / "first" / "out")) == 2
    error = capsys.readouterr().err
    assert "was trained for other actions" in error
    assert "0.05 s" in error
    assert "0.1 s" in error
    assert not (tmp_path / "out").exists()
