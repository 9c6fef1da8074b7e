import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from world_model_ros.cli import main
from world_model_ros.errors import UserError
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import ModelConfig
from world_model_ros.model.heads import HORIZON
from world_model_ros.training.heads import (
    RISK_FALSE_ALARMS,
    _equally_exact,
    event_in,
    fit_inverse_dynamics,
    fit_member,
    fit_object_distance,
    fit_risk,
    fit_temporal_distance,
    inverse_metrics,
    member_error,
    object_metrics,
    risk_metrics,
    temporal_metrics,
)


def circles(episodes, length, seed):
    """Latents that go round circles, 0.3 rad a step, each episode on a circle of its own; their lengths."""
    generator = np.random.default_rng(seed)
    angle = generator.uniform(-np.pi, np.pi, (episodes, 1)) + 0.3 * np.arange(length)
    circle = np.repeat(generator.normal(size=(episodes, 1, 4)), length, 1)
    latents = np.concatenate([2 * np.cos(angle)[..., None], 2 * np.sin(angle)[..., None], circle], -1)
    latents = latents.reshape(-1, 6)
    return torch.tensor(latents, dtype=torch.float32), np.full(episodes, length)


def test_temporal_distance_learns_the_number_of_steps_where_the_squared_distance_bends_back():
    head = fit_temporal_distance(*circles(400, 15, 0), steps=800, hidden=64)
    latents, lengths = circles(50, 15, 1)
    metrics = temporal_metrics(head, latents, lengths)
    assert metrics["temporal_0"] < metrics["temporal_1"] < metrics["temporal_5"]
    assert metrics["temporal_5"] == pytest.approx(5, abs=1.5)
    # half way round and more: the circle comes back, the estimate goes on
    half, more = latents.view(50, 15, 6)[:, 10:].unbind(1)[0], latents.view(50, 15, 6)[:, 13]
    here = latents.view(50, 15, 6)[:, 0]
    assert (more - here).square().sum(-1).mean() < (half - here).square().sum(-1).mean()
    assert head(here, more).mean() > head(here, half).mean()


def test_equal_seeds_give_equal_temporal_heads_and_leave_torchs_generator_alone():
    latents, lengths = circles(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fit_temporal_distance(latents, lengths, steps=3, seed=5, hidden=16)
    assert torch.equal(torch.rand(1), expected)
    again = fit_temporal_distance(latents, lengths, steps=3, seed=5, hidden=16)
    other = fit_temporal_distance(latents, lengths, steps=3, seed=6, hidden=16)
    probe = latents[:1], latents[5:6]
    assert torch.equal(first(*probe), again(*probe))
    assert not torch.equal(first(*probe), other(*probe))


def test_temporal_distance_takes_episodes_of_any_length_but_not_too_few():
    latents, _ = circles(1, 12, 0)
    head = fit_temporal_distance(latents, np.array([3, 1, 8]), steps=2, hidden=16)
    assert float(head(latents[0], latents[1])) >= 0
    with pytest.raises(ValueError, match="two episodes"):
        fit_temporal_distance(latents, np.array([12]), steps=2)
    with pytest.raises(ValueError, match="two frames"):
        fit_temporal_distance(latents, np.array([11, 1]), steps=2)


def walks(episodes, length, seed):
    """A point that goes where its actions say: latents, the blocks leaving them, lengths."""
    generator = torch.Generator().manual_seed(seed)
    heading = torch.randn(episodes, 1, 2, generator=generator)
    blocks = heading + 0.1 * torch.randn(episodes, length, 2, generator=generator)
    moved = torch.cat([torch.zeros(episodes, 1, 2), blocks[:, :-1].cumsum(1)], 1)
    latents = 0.3 * moved + torch.randn(episodes, 1, 2, generator=generator)
    return latents.flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, length)


def test_inverse_dynamics_learns_the_actions_that_lead_from_one_latent_to_another():
    head = fit_inverse_dynamics(*walks(300, 12, 0), steps=600)
    metrics = inverse_metrics(head, *walks(60, 12, 1))
    assert metrics["inverse_1"] > 0.9
    assert metrics["inverse_5"] > 0.9
    start, goal = torch.zeros(2, 2), torch.tensor([[0.6, 0.0], [0.6, 0.0]])
    fast, slow = head(start, goal, torch.tensor([2, 4]))
    assert fast.shape == (HORIZON, 2)
    assert fast[:2, 0].mean() == pytest.approx(1.0, abs=0.25)
    assert slow[:4, 0].mean() == pytest.approx(0.5, abs=0.25)


def test_equal_seeds_give_equal_inverse_heads_and_leave_torchs_generator_alone():
    data = walks(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (fit_inverse_dynamics(*data, steps=3, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.rand(1), expected)
    probe = data[0][:1], data[0][3:4], torch.tensor([3])
    assert torch.equal(first(*probe), again(*probe))
    assert not torch.equal(first(*probe), other(*probe))


def test_inverse_dynamics_takes_episodes_of_any_length_but_not_single_frames():
    latents, blocks, _ = walks(1, 12, 0)
    head = fit_inverse_dynamics(latents, blocks, np.array([3, 1, 8]), steps=2)
    assert head(latents[0], latents[1], torch.tensor(1)).isfinite().all()
    with pytest.raises(ValueError, match="two frames"):
        fit_inverse_dynamics(latents, blocks, np.ones(12, int), steps=2)


def pushed(episodes, length, seed):
    """Latents of a robot that always moves and of a thing that it moves now and then, by one fixed net."""
    rng, mix = np.random.default_rng(seed), np.random.default_rng(99)
    begin = rng.normal(size=(2, episodes, 1, 2))
    robot = np.clip(rng.normal(0, 0.3, (episodes, length, 2)).cumsum(1) + begin[0], -2, 2)
    steps = rng.normal(0, 0.5, (episodes, length, 2)) * (rng.random((episodes, length, 1)) < 0.35)
    thing = np.clip(steps.cumsum(1) + begin[1], -2, 2)
    first, second = mix.normal(size=(4, 64)), mix.normal(size=(64, 24)) / 8
    latents = np.tanh(np.concatenate([robot, thing], -1).reshape(-1, 4) @ first) @ second
    latents = (latents - latents.mean(0)) / latents.std(0)
    robot, thing = robot.reshape(-1, 2), thing.reshape(-1, 2)
    return (
        torch.from_numpy(latents).float(),
        torch.from_numpy(robot).float(),
        thing,
        np.full(episodes, length),
    )


def test_object_distance_follows_what_the_robot_moves_and_not_the_robot():
    latents, robot, _, lengths = pushed(300, 20, 0)
    head = fit_object_distance(latents, robot, lengths, steps=400)
    latents, robot, thing, lengths = pushed(50, 20, 1)
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, len(latents), (2, 3000))
    distances = head(latents[a], latents[b]).numpy()
    of_thing, of_robot = (np.linalg.norm(places[a] - places[b], axis=1) for places in (thing, robot.numpy()))
    assert np.corrcoef(of_thing, distances)[0, 1] > 0.7
    assert abs(np.corrcoef(of_robot, distances)[0, 1]) < 0.2
    metrics = object_metrics(head, latents, lengths)
    assert metrics["object_p25"] < 0.3 * metrics["object_p90"]  # most steps move nothing
    assert head.encode(latents).var(0).mean().numpy() == pytest.approx(1, abs=0.3)


def test_a_direction_of_the_codes_counts_the_less_the_more_the_robot_changes_it():
    generator = torch.Generator().manual_seed(0)
    noise = torch.tensor([0.05, 0.1, 0.4])
    mixed = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    codes = torch.randn(5000, 3, generator=generator)
    changes = noise * torch.randn(8000, 3, generator=generator)
    moved = torch.rand(8000, generator=generator) < 0.3  # of these pairs, something else
    changes[moved] += torch.randn(int(moved.sum()), 3, generator=generator)
    scale = _equally_exact(codes @ mixed.T, changes @ mixed.T)
    still = (changes[~moved] @ mixed.T @ scale.T).std(0)
    assert still / still.mean() == pytest.approx(1, abs=0.25)  # of 1 to 8 before
    assert (codes @ mixed.T @ scale.T).var(0).mean() == pytest.approx(1, abs=0.01)
    assert _equally_exact(torch.zeros(9, 3), torch.zeros(9, 3)).isfinite().all()


def test_equal_seeds_give_equal_object_heads_and_leave_torchs_generator_alone():
    latents, robot, _, lengths = pushed(6, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = fit_object_distance(latents, robot, lengths, steps=3, seed=5)
    torch.testing.assert_close(torch.rand(3), expected)
    again, other = (fit_object_distance(latents, robot, lengths, steps=3, seed=s) for s in (5, 6))
    for one, two, three in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert one.ndim < 2 or not torch.equal(one, three)


def test_object_distance_takes_episodes_of_any_length_but_not_too_short_ones():
    latents, robot, _, _ = pushed(3, 4, 0)
    head = fit_object_distance(latents, robot, np.array([3, 1, 8]), steps=2)
    assert head(latents[0], latents).shape == (12,)
    with pytest.raises(ValueError, match="an episode of two frames"):
        fit_object_distance(latents[:2], robot[:2], np.array([1, 1]), steps=2)


class Walking:
    """A world model that knows that the first number of a latent grows by the mean of the block."""

    def parameters(self):
        return iter([torch.zeros(1)])

    def rollout(self, latents, history_actions, candidates):
        way = candidates.mean(-1).cumsum(-1)
        out = latents[:, -1:, None].repeat(1, candidates.shape[1], candidates.shape[2], 1)
        out[..., 0] += way
        return out


def falls(episodes, length, seed):
    """Latents, blocks, whether something has fallen (beyond 2, for good), and lengths."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(-0.2, 0.6, (episodes, 1, 2)) + rng.normal(0, 0.1, (episodes, length, 2))
    way = np.concatenate([np.zeros((episodes, 1)), blocks.mean(-1)[:, :-1].cumsum(1)], 1)
    way += rng.uniform(-1, 1, (episodes, 1))
    latents = rng.normal(size=(episodes, length, 4))
    latents[..., 0] = way
    happened = np.maximum.accumulate(way > 2, axis=1)
    parts = (latents.reshape(-1, 4), blocks.reshape(-1, 2))
    tensors = [torch.from_numpy(part).float() for part in parts]
    return *tensors, torch.from_numpy(happened.reshape(-1)), np.full(episodes, length)


def test_risk_tells_whether_the_event_has_happened_and_foresees_it_in_what_is_imagined():
    data = falls(300, 12, 0)
    head = fit_risk(Walking(), 3, *data, steps=500)
    probe = torch.zeros(2, 4)
    probe[:, 0] = torch.tensor([1.0, 3.0])
    assert head(probe).tolist() == pytest.approx([0, 1], abs=0.1)
    threshold, metrics = risk_metrics(head, Walking(), 3, *falls(100, 12, 1))
    assert 0.2 <= threshold < 1
    assert metrics["risk_foreseen"] > 0.9
    assert metrics["risk_false_alarms"] == pytest.approx(RISK_FALSE_ALARMS, abs=0.01)


def test_an_event_that_passes_again_counts_among_those_that_came():
    class Certain(torch.nn.Module):
        def forward(self, imagined):
            return imagined[..., 0]

    latents, happened = torch.zeros(10, 7, 4), torch.zeros(10, 7, dtype=torch.bool)
    latents[:5, :, 0] = 1.0
    happened[:5, 4] = True  # within the imagined steps, and no more at their end
    data = latents.flatten(0, 1), torch.zeros(70, 2), happened.flatten(), np.full(10, 7)
    threshold, metrics = risk_metrics(Certain(), Walking(), 2, *data)
    assert threshold == 0.2  # the least one: nothing without the event is probable
    assert metrics == {"risk_false_alarms": 0.0, "risk_foreseen": 1.0}


def test_an_event_that_never_happens_cannot_be_learned():
    latents, blocks, happened, lengths = falls(5, 12, 0)
    with pytest.raises(UserError, match="never happens"):
        fit_risk(Walking(), 3, latents, blocks, happened & False, lengths, steps=1)


@pytest.mark.parametrize(
    ("event", "expected"), [("z < 0.5", [True, False]), (" z>0.5 ", [False, True]), ("x > -1", [True, True])]
)
def test_an_event_is_a_bound_of_a_state(event, expected):
    states = np.array([[0.0, 0.2], [0.0, 0.7]])
    assert event_in(states, ["x", "z"], event).tolist() == expected


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ("z <= 0.5", "not of the form"),
        ("z < up", "not of the form"),
        ("w < 1", "no stored state 'w', only x, z"),
    ],
)
def test_another_event_is_refused(event, sentence):
    with pytest.raises(UserError, match=sentence):
        event_in(np.zeros((1, 2)), ["x", "z"], event)


SMALL = dataclasses.replace(
    ModelConfig.small(2), latent_dim=6, predictor_width=32, predictor_depth=1, predictor_mlp=32, dropout=0.0
)


def drifts(episodes, length, seed):
    """Latents that move by what their blocks say, the blocks, and the episodes' lengths."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randn(episodes, length, 2, generator=generator)
    moved = torch.cat([torch.zeros(episodes, 1, 2), 0.3 * blocks[:, :-1].cumsum(1)], dim=1)
    place = torch.randn(episodes, 1, 4, generator=generator).expand(-1, length, -1)
    return torch.cat([moved, place], -1).flatten(0, 1), blocks.flatten(0, 1), np.full(episodes, length)


def test_a_second_predictor_learns_the_next_latent():
    member = fit_member(SMALL, *drifts(200, 12, 0), steps=300)
    assert not member.training
    held_out = drifts(30, 12, 1)
    copied = float((held_out[0].unflatten(0, (30, 12)).diff(dim=1)[:, 2:]).square().mean())
    assert member_error(member, SMALL.history, *held_out) < 0.3 * copied


def test_equal_seeds_give_equal_second_predictors_and_leave_torchs_generator_alone():
    walked = drifts(20, 8, 0)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = fit_member(SMALL, *walked, steps=3, seed=5).state_dict()
    assert torch.equal(torch.rand(1), expected)
    again, other = (fit_member(SMALL, *walked, steps=3, seed=s).state_dict() for s in (5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_second_predictor_takes_episodes_of_any_length_but_not_too_short_ones():
    latents, blocks, _ = drifts(1, 12, 0)
    fit_member(SMALL, latents, blocks, np.array([3, 1, 8]), steps=2)
    with pytest.raises(UserError, match="episodes of 4 frames at least"):
        fit_member(SMALL, latents, blocks, np.array([3, 3, 3, 3]), steps=2)
    assert np.isnan(
        member_error(
            fit_member(SMALL, latents, blocks, np.array([12]), 1), 3, latents, blocks, np.array([3, 3])
        )
    )


def test_a_second_predictor_comes_later_and_changes_nothing_else(data, tmp_path, tiny, command):
    assert main(command(data, tmp_path, steps=4)) == 0
    bare, later = tmp_path / "out", tmp_path / "later"
    words = ["train-heads", "--data", str(data), "--checkpoint", str(bare), "--out", str(later)]
    assert main([*words, "--ensemble-steps", "3"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (bare, later))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.split(".")[0] for name in after.keys() - before.keys()} == {"ensemble"}
    _, spec = load_checkpoint(later)
    card = (later / "card.md").read_text()
    assert card.startswith((bare / "card.md").read_text().rstrip())
    assert "## Ensemble, trained afterwards" in card
    assert spec.training["ensemble"]["command"].endswith("--ensemble-steps 3")
    assert spec.training["ensemble"]["command"] in card
    again = command(data, tmp_path / "again", steps=4, start=later)
    assert main(again) == 0
    assert not load_checkpoint(tmp_path / "again" / "out")[0].ensemble
