import numpy as np
import pytest

from world_model_ros.monitoring.light import LightMonitor, light_of
from world_model_ros.sim.collect import Recipe, record
from world_model_ros.sim.tasks import make_world, task_names

SHARE = 1 / 3
LOW, MEAN, HIGH = (98.0, 0.30, 0.32, 0.28), 118.0, (130.0, 0.36, 0.36, 0.35)


def gray(value, height=48, width=64):
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def monitor():
    return LightMonitor(LOW, HIGH, MEAN)


def watch(monitor, pictures, start=0.0):
    """Show pictures at 20 Hz; return what is said after each."""
    return [monitor.judge(start + i / 20, picture) for i, picture in enumerate(pictures)]


def test_light_is_the_mean_and_the_shares_of_the_square_that_the_model_sees():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, 100:200] = (60, 30, 10)
    light = light_of(pixels)
    assert light.brightness == pytest.approx(100 / 3)
    assert (light.red, light.green, light.blue) == pytest.approx((0.6, 0.3, 0.1), abs=1e-3)
    assert light_of(gray(0))[1:] == pytest.approx((SHARE, SHARE, SHARE))


@pytest.mark.parametrize("shape", [(64, 64), (480, 640), (2160, 3840)])
def test_the_light_of_a_large_picture_is_that_of_the_small_one_it_becomes(shape):
    from world_model_ros.model.frames import resize_frame

    height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * y / height, 255 * x / width, 120 + 0 * x], axis=-1).astype(np.uint8)
    small = light_of(resize_frame(pixels, 64))
    assert np.allclose(light_of(pixels), small, atol=[2.5, 0.01, 0.01, 0.01])


@pytest.mark.fault
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (71, "the picture is 40 % darker than in training (mean 71, 98 to 130)"),
        (165, "the picture is 40 % brighter than in training (mean 165, 98 to 130)"),
        (0, "the picture is 100 % darker than in training (mean 0, 98 to 130)"),
    ],
)
def test_fault_08_another_brightness_is_named_with_numbers_and_once(monitor, value, expected):
    said = watch(monitor, [gray(115)] * 30 + [gray(value)] * 60)
    assert set(said[:31]) == {""}
    assert said[-1].startswith(expected)
    rest = said[said.index(said[-1]) :]
    assert set(rest) == {said[-1]}  # the same text while it lasts
    assert set(watch(monitor, [gray(115)] * 60, start=5.0)[-20:]) == {""}


@pytest.mark.fault
def test_fault_08_red_and_blue_in_each_others_place_are_named(monitor):
    blue = np.full((48, 64, 3), (80, 110, 160), np.uint8)
    said = watch(monitor, [blue] * 60)
    assert said[-1].startswith("the picture has less red than in training (23 % of its light, 30 to 36 %)")
    assert "encoding" in said[-1]


@pytest.mark.parametrize("value", [85, 97, 98, 114, 130, 131, 150])
def test_what_is_near_the_trainings_range_is_fine(monitor, value):
    assert set(watch(monitor, [gray(value)] * 100)) == {""}


def test_a_light_that_comes_back_between_two_seconds_is_told_once(monitor):
    for frames in range(61, 81):
        monitor.reset()
        said = watch(monitor, [gray(71)] * frames + [gray(118)] * 60)
        assert len(dict.fromkeys(filter(None, said))) == 1
        assert said[-1] == ""


def test_what_passes_the_camera_is_no_other_light(monitor):
    pictures = ([gray(115)] * 35 + [gray(30)] * 5) * 5
    assert set(watch(monitor, pictures)) == {""}


def test_a_brightness_at_the_bound_does_not_flicker(monitor):
    rng = np.random.default_rng(0)
    said = watch(monitor, [gray(int(v)) for v in rng.uniform(72, 84, 600)])
    changes = sum(a != b for a, b in zip(said, said[1:], strict=False))
    assert said[-1]
    assert changes == 1


def test_a_picture_that_becomes_ever_darker_is_told_in_steps(monitor):
    said = watch(monitor, [gray(115 - i // 20) for i in range(2000)])
    texts = list(dict.fromkeys(said))
    shares = [int(text.split()[3]) for text in texts[1:]]
    assert shares == sorted(shares)
    assert 5 <= len(shares) <= 9
    assert shares[-1] >= 75


@pytest.mark.parametrize("gap", [-10.0, 10.0])
def test_frames_before_a_gap_do_not_count(monitor, gap):
    watch(monitor, [gray(10)] * 15)
    assert set(watch(monitor, [gray(115)] * 40, start=0.7 + gap)) == {""}


def test_a_checkpoint_without_a_range_never_warns():
    assert set(watch(LightMonitor(), [gray(v) for v in range(0, 250, 10)] * 4)) == {""}


@pytest.mark.parametrize("task", sorted(task_names()))
def test_held_out_frames_of_the_shipped_tasks_never_warn_and_darker_ones_do(task):
    def pictures(seed, episodes):
        recipe = Recipe(task=task, seed=seed, length=8, size=64)
        return np.concatenate([record(world, recipe, index)[0] for index in range(episodes)])

    world = make_world(task)
    try:
        training, held_out = pictures(0, 6), pictures(1, 6)
    finally:
        world.close()
    lights = np.array([light_of(picture) for picture in training])
    low, mean, high = (f(axis=0).tolist() for f in (lights.min, lights.mean, lights.max))
    for picture in held_out:  # each one alone for seconds: harder than what is met
        assert watch(LightMonitor(low, high, mean[0]), [picture] * 50)[-1] == ""
    assert len(held_out) > 45
    dark = [(0.6 * picture).astype(np.uint8) for picture in held_out]
    assert "darker than in training" in watch(LightMonitor(low, high, mean[0]), dark)[-1]
