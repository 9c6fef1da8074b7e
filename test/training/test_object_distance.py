import numpy as np
import pytest
import torch

from world_model_ros.training.object_distance import equally_exact, fit_object_distance, object_metrics


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
    scale = equally_exact(codes @ mixed.T, changes @ mixed.T)
    still = (changes[~moved] @ mixed.T @ scale.T).std(0)
    assert still / still.mean() == pytest.approx(1, abs=0.25)  # of 1 to 8 before
    assert (codes @ mixed.T @ scale.T).var(0).mean() == pytest.approx(1, abs=0.01)
    assert equally_exact(torch.zeros(9, 3), torch.zeros(9, 3)).isfinite().all()


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
