import pytest
import torch

from world_model_ros.training.loop import _blurred, augment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def clips():
    return torch.randint(60, 200, (6, 4, 32, 32, 3), dtype=torch.uint8, generator=generator(7))


def test_shape_and_type_stay_and_the_input_is_untouched(clips):
    before = clips.clone()
    disturbed = augment(clips, 1.0, generator())
    assert disturbed.shape == clips.shape
    assert disturbed.dtype == torch.uint8
    assert torch.equal(clips, before)


def test_equal_seeds_disturb_equally_and_others_do_not(clips):
    first, again = augment(clips, 0.5, generator(1)), augment(clips, 0.5, generator(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(clips, 0.5, generator(2)))


def test_a_share_of_the_frames_stays_as_it_is(clips):
    many = clips.repeat(20, 1, 1, 1, 1)
    same = (augment(many, 0.25, generator()) == many).flatten(2).all(-1).float().mean()
    # all four disturbances spare a frame with chance 0.75 ** 4 = 0.32
    assert 0.22 < float(same) < 0.42


def test_frames_of_a_clip_are_disturbed_independently():
    still = torch.full((1, 4, 32, 32, 3), 100, dtype=torch.uint8)
    means = augment(still, 1.0, generator()).float().mean((0, 2, 3, 4))
    assert means.unique().numel() == 4


def test_blur_spreads_a_dot_and_keeps_its_sum():
    frames = torch.zeros(2, 21, 21, 3)
    frames[:, 10, 10] = 90.0
    narrow, wide = _blurred(frames, torch.tensor([0.5, 1.5]))
    assert narrow.sum() == pytest.approx(270, rel=1e-4)
    assert wide.sum() == pytest.approx(270, rel=1e-4)
    assert narrow[10, 10, 0] > 3 * wide[10, 10, 0]
    # a Gaussian of 1.5 px: the variance along an axis is its square
    weights = wide[..., 0].sum(1) / 90
    offsets = torch.arange(21.0) - 10
    assert float((weights * offsets.square()).sum()) == pytest.approx(2.25, rel=0.1)
