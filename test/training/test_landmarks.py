"""Landmarks: chosen where the data are, joined where the data lead, kept with the checkpoint."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.heads import Landmarks
from world_model_ros.training.landmarks import choose_landmarks, landmark_metrics, spread


def steps_apart(starts, goals):
    """Return the distance in model steps of places in m, the first two numbers of latents: 0.1 m a step."""
    return 10 * (starts - goals)[..., :2].norm(dim=-1)


def walks(episodes, length=12, seed=0):
    """Return latents (N, 2) of walks on both sides of a wall from x = 0.44 to 0.56, and their lengths."""
    rng = np.random.default_rng(seed)
    latents = []
    for episode in range(episodes):
        low = np.array([0.56 * (episode % 2), 0.0])
        high = low + (0.44, 1.0)
        place = rng.uniform(low, high)
        for _ in range(length):
            latents.append(place)
            place = np.clip(place + rng.uniform(-0.1, 0.1, 2), low, high)
    return torch.tensor(np.array(latents), dtype=torch.float32), np.full(episodes, length)


def test_landmarks_lie_apart_from_each_other_and_near_all_that_was_recorded():
    latents, lengths = walks(100)
    found = choose_landmarks(steps_apart, latents, lengths, 60)
    apart = steps_apart(found.latents[:, None], found.latents) + 99 * torch.eye(60)
    nearest = steps_apart(latents[:, None], found.latents).amin(1)
    assert nearest.max() <= apart.min() + 1e-4  # what farthest points are
    assert all((latents == row).all(1).any() for row in found.latents)


def test_farthest_points_on_a_line():
    line = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.9, 0.0], [0.4, 0.0], [1.0, 0.0]])
    assert spread(steps_apart, line, 3).tolist() == [0, 4, 3]


def test_edges_are_where_episodes_lead_and_not_through_the_wall():
    latents, lengths = walks(400)
    found = choose_landmarks(steps_apart, latents, lengths, 150)
    a, b = (found.edges > 0).nonzero().T
    right = found.latents[:, 0] > 0.5
    assert (right[a] == right[b]).all()
    longest = found.edges.max()
    assert steps_apart(found.latents[right][:, None], found.latents[~right]).amin() < longest
    assert len(a) > 3 * 150
    assert torch.allclose(found.edges[a, b], steps_apart(found.latents[a], found.latents[b]))
    assert (found.edges.diagonal() == 0).all()


def test_no_edge_leads_from_the_end_of_an_episode_to_the_next_one():
    latents = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.2, 0.0], [0.3, 0.0]])
    found = choose_landmarks(steps_apart, latents, np.array([2, 2]), 4)
    order = found.latents[:, 0].argsort()
    assert (found.edges[order][:, order] > 0).nonzero().tolist() == [[0, 1], [2, 3]]


def test_a_recorded_step_is_no_edge_where_the_head_is_not_sure():
    latents = torch.tensor([[x, 0.0] for x in (0.0, 0.1, 0.2, 0.3, 0.4, 2.0)])
    one_way = lambda a, b: steps_apart(a, b) + 9.0 * ((a - b)[..., 0] > 0.05)  # noqa: E731
    lengths = np.array([6])
    assert (
        choose_landmarks(steps_apart, latents, lengths, 6).edges > 0
    ).sum() == 4  # the last step is too long
    assert (choose_landmarks(one_way, latents, lengths, 6).edges > 0).sum() == 0  # no way back


def test_equal_seeds_give_equal_landmarks_and_leave_torchs_generator_alone():
    latents, lengths = walks(50)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = choose_landmarks(steps_apart, latents, lengths, 20, seed=5)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(choose_landmarks(steps_apart, latents, lengths, 20, seed=5).edges, first.edges)
    other = choose_landmarks(steps_apart, latents, lengths, 20, seed=6)
    assert not torch.equal(other.latents, first.latents)


def test_metrics_count_edges_and_pairs_with_a_way():
    landmarks = Landmarks(4, 2)
    for a, b in ((0, 1), (1, 2)):
        landmarks.edges[a, b] = 1.0
    metrics = landmark_metrics(landmarks)
    assert metrics["landmark_edges"] == 0.5
    assert math.isclose(metrics["landmarks_joined"], 3 / 12)


def test_the_landmarks_of_the_shipped_model_are_joined_by_short_edges():
    model, spec = load_checkpoint("models/detour")
    assert landmark_metrics(model.landmarks)["landmarks_joined"] > 0.99
    apart = model.temporal(model.landmarks.latents[:, None], model.landmarks.latents)
    a, b = (model.landmarks.edges > 0).nonzero().T
    assert (apart[a, b] - model.landmarks.edges[a, b]).abs().max() < 0.5
    assert apart[a, b].max() < 12 < apart.max()
    assert spec.model.landmarks == len(model.landmarks.latents)


def test_train_keeps_landmarks_and_train_heads_adds_and_renews_them(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=4, landmarks=7)) == 0
    model, spec = load_checkpoint(tmp_path / "out")
    assert spec.model.landmarks == 7
    assert model.landmarks.latents.shape == (7, 8)
    assert torch.equal(model.landmarks.latents, model.landmarks.latents.half().float())
    assert "| landmarks | " in (tmp_path / "out" / "card.md").read_text()

    words = ["train-heads", "--data", str(data), "--checkpoint", str(tmp_path / "out"), "--out"]
    more, renewed = tmp_path / "more", tmp_path / "renewed"
    assert main([*words, str(more), "--landmarks", "9"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", more))
    assert after["landmarks.edges"].shape == (9, 9)
    rest = [name for name in before if not name.startswith("landmarks.")]
    assert all(torch.equal(after[name], before[name]) for name in rest)
    assert load_checkpoint(more)[1].training["landmarks"]["command"].endswith("--landmarks 9")
    assert main([*words, str(renewed), "--temporal-steps", "9", "--inverse-steps", "0"]) == 0
    assert load_checkpoint(renewed)[1].model.landmarks == 7
    assert not torch.equal(
        load_file(renewed / "model.safetensors")["landmarks.edges"], before["landmarks.edges"]
    )
    assert main(command(data, tmp_path / "again", steps=4, start=more)) == 0
    assert load_checkpoint(tmp_path / "again" / "out")[0].landmarks is None


def test_fewer_landmarks_than_asked_for_and_hardly_any_edges_are_said(data, tmp_path, tiny, command, capsys):
    assert main(command(data, tmp_path, steps=4, landmarks=1000)) == 0
    said = capsys.readouterr().err
    assert "latents for 1000 landmarks" in said
    assert "of the pairs of landmarks, so often the planner will aim at the goal alone" in said


def test_of_few_frames_all_are_landmarks():
    latents, lengths = walks(2, length=3)
    assert len(choose_landmarks(steps_apart, latents, lengths, 50).latents) == 6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"landmarks": -1}, "--landmarks must be from 0 to 1024, it is -1."),
        ({"landmarks": 5000}, "--landmarks must be from 0 to 1024, it is 5000."),
        ({"landmarks": 5, "temporal-steps": 0}, "--landmarks needs the temporal-distance head"),
    ],
)
def test_landmarks_that_cannot_be_are_refused_before_the_training(
    data, tmp_path, tiny, command, capsys, options, sentence
):
    assert main(command(data, tmp_path, **options)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()


def test_train_heads_refuses_landmarks_for_a_checkpoint_without_a_temporal_head(
    data, tmp_path, tiny, command, capsys
):
    assert main(command(data, tmp_path, **{"steps": 4, "temporal-steps": 0})) == 0
    words = ["train-heads", "--data", str(data), "--checkpoint", str(tmp_path / "out")]
    assert main([*words, "--out", str(tmp_path / "more"), "--landmarks", "5"]) == 2
    assert "--landmarks needs the temporal-distance head" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "more"), "--landmarks", "5", "--temporal-steps", "5"]) == 0
    assert dataclasses.asdict(load_checkpoint(tmp_path / "more")[1].model)["landmarks"] == 5
