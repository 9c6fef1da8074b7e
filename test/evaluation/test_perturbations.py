import cv2
import numpy as np
import pytest

from world_model_ros.evaluation.perturbations import PERTURBATIONS


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def grey(value=128, side=64):
    return np.full((side, side, 3), value, np.uint8)


def changed(name, picture, rng):
    result = PERTURBATIONS[name].change(picture, rng)
    assert result.dtype == np.uint8
    assert result.shape == picture.shape
    return result


def test_noise_has_the_stated_deviation_and_no_offset(rng):
    difference = changed("noise", grey(side=128), rng).astype(float) - 128
    assert difference.std() == pytest.approx(0.05 * 255, rel=0.02)
    assert abs(difference.mean()) < 0.2


def test_noise_stays_within_the_range_at_black_and_white(rng):
    assert changed("noise", grey(0), rng).max() < 80
    assert changed("noise", grey(255), rng).min() > 175


@pytest.mark.parametrize(("name", "expected"), [("dark", 70), ("bright", 130)])
def test_brightness_is_a_gain(name, expected, rng):
    assert np.all(changed(name, grey(100), rng) == expected)
    assert np.all(changed("bright", grey(250), rng) == 255)


def test_white_balance_is_a_gain_of_each_channel(rng):
    gains = []
    for _ in range(200):
        picture = changed("white_balance", grey(200), rng)
        assert np.all(picture == picture[0, 0])
        gains.append(picture[0, 0] / 200)
    gains = np.array(gains)
    assert np.all(np.abs(gains - 1) < 0.155)
    assert np.all(np.ptp(gains, axis=0) > 0.25)
    assert np.abs(np.corrcoef(gains.T)[np.triu_indices(3, 1)]).max() < 0.3


@pytest.mark.parametrize("side", [64, 128])
def test_blur_is_one_pixel_of_a_picture_of_64(side, rng):
    edge = grey(0, side)
    edge[:, side // 2 :] = 200
    slope = np.diff(changed("blur", edge, rng)[side // 2, :, 0].astype(float))
    at = np.arange(side - 1)
    mean = (slope * at).sum() / slope.sum()
    assert np.sqrt((slope * (at - mean) ** 2).sum() / slope.sum()) == pytest.approx(side / 64, rel=0.1)


def test_occlusion_is_a_square_of_a_quarter_elsewhere_in_each_picture(rng):
    corners = set()
    for _ in range(60):
        hidden = np.any(changed("occlusion", grey(), rng) != 128, axis=-1)
        left, top, width, height = cv2.boundingRect(hidden.astype(np.uint8))
        assert (width, height) == (16, 16)
        assert hidden.sum() == 256
        corners.add((left, top))
    assert len(corners) > 40
    assert max(max(corner) for corner in corners) <= 48
