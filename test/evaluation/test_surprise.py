import contextlib
import dataclasses
import json

import numpy as np
import pytest

from world_model_ros.errors import UserError
from world_model_ros.evaluation import surprise
from world_model_ros.evaluation.surprise import (
    auroc,
    corrupted,
    example_pictures,
    false_holds,
    measure,
    summary,
)
from world_model_ros.evaluation.violations import (
    Episode,
    StagedViolation,
    explore,
    kinds,
    replay,
    stage_violation,
)
from world_model_ros.model.checkpoint import load_checkpoint, save_checkpoint
from world_model_ros.model.config import Thresholds
from world_model_ros.sim.scene import STICK_RADIUS
from world_model_ros.sim.task import Task, yaw_difference
from world_model_ros.sim.tasks import make_world
from world_model_ros.sim.tasks.push import clearance, in_tray


@pytest.fixture(scope="module", params=["reach", "push"])
def world(request):
    with contextlib.closing(make_world(request.param)) as world:
        yield world


@pytest.fixture(scope="module")
def push():
    with contextlib.closing(make_world("push")) as world:
        yield world


def happen(world, kind, seed=0):
    """Bring a violation about in the first episode that has a place for it; what it changed, at once."""
    rng = np.random.default_rng(seed)
    for index in range(20):
        episode = explore(world, (seed, index))
        violation = stage_violation(kind, world.task, episode, 2, rng)
        if violation is not None:
            break
    replay(world, episode, range(violation.step + 1))
    before = world.state(), world.render()
    np.testing.assert_array_equal(before[0], episode.states[violation.step])
    violation.begin(world)
    return episode, violation, before, (world.state(), world.render())


def crossing(world, episode, violation):
    """State and picture a model step on, with and without the violation."""
    frames = range(violation.step + 1, violation.step + 2)
    with_violation = replay(world, episode, frames, violation)[0]
    state = world.state()
    without = replay(world, episode, frames)[0]
    np.testing.assert_array_equal(world.state(), episode.states[violation.step + 1])
    return state, with_violation, without


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        violations, normal = rng.integers(0, 12, 30) + 2.0, rng.integers(0, 12, 41) + 0.0
        pairs = violations[:, None] - normal[None]
        brute = ((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size
        assert auroc(violations, normal) == pytest.approx(brute)
    assert auroc(np.array([2.0, 3.0]), np.array([1.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5
    assert np.isnan(auroc(np.zeros(0), np.ones(3)))


@pytest.mark.parametrize(
    ("kind", "length"), [("teleport", 0.08), ("teleport_4cm", 0.04), ("teleport_2cm", 0.02)]
)
def test_jumps_are_as_long_as_they_say(world, kind, length):
    for seed in range(3):
        episode, violation, (before, seen), (after, jumped) = happen(world, kind, seed)
        thing = slice(2, 4) if world.task == "push" else slice(0, 2)
        assert np.hypot(*(after - before)[thing]) == pytest.approx(length, abs=1e-3)
        assert not np.array_equal(seen, jumped)
        if world.task == "push":
            assert after[4] == pytest.approx(before[4], abs=1e-6)
            np.testing.assert_allclose(after[:2], before[:2], atol=1e-9)
            assert clearance(after[:2], after[2:]) > STICK_RADIUS
        state, pixels, normal = crossing(world, episode, violation)
        assert not np.array_equal(pixels, normal)
        assert np.all(np.isfinite(state))


def test_turn_turns_by_ninety_degrees_in_place(push):
    _, _, (before, seen), (after, turned) = happen(push, "turn_90")
    assert abs(yaw_difference(after[4], before[4])) == pytest.approx(np.pi / 2, abs=1e-4)
    np.testing.assert_allclose(after[2:4], before[2:4], atol=1e-6)
    assert not np.array_equal(seen, turned)


def test_block_lets_the_stick_through(push):
    crossed = 0
    for seed in range(12):
        episode, violation, (before, _), _ = happen(push, "pass_through", seed)
        expected = episode.states[violation.step + 1]
        if not in_tray(expected[2:], 0.02):  # at the rim the block stops the stick
            continue
        crossed += 1
        state, pixels, normal = crossing(push, episode, violation)
        assert np.hypot(*(expected - before)[2:4]) > 0.015
        np.testing.assert_allclose(state[2:], before[2:], atol=1e-4)
        # the stick itself goes where it would have gone
        np.testing.assert_allclose(state[:2], expected[:2], atol=2e-3)
        assert not np.array_equal(pixels, normal)
    assert crossed >= 3


def test_stuck_arm_stays(world):
    episode, violation, (before, _), _ = happen(world, "stuck")
    state, pixels, normal = crossing(world, episode, violation)
    np.testing.assert_allclose(state[:2], before[:2], atol=1e-3)
    assert np.hypot(*(episode.states[violation.step + 1] - before)[:2]) > 0.03
    assert not np.array_equal(pixels, normal)


def test_camera_moves_the_picture_alone(world):
    _, _, (before, seen), (after, moved) = happen(world, "camera")
    np.testing.assert_array_equal(before, after)
    # by about two pixels, so that most edges are elsewhere and most of the table is not
    assert 0.02 < np.mean(np.any(seen != moved, axis=-1)) < 0.6


def test_paint_and_vanishing_change_the_block_alone(push):
    _, _, (before, seen), (after, painted) = happen(push, "colour")
    np.testing.assert_array_equal(before, after)
    blocks = np.any(seen != painted, axis=-1)
    assert 0.01 < blocks.mean() < 0.2
    episode, violation, (before, seen), (_, without) = happen(push, "vanish")
    blue = (seen[..., 2] > 120) & (seen[..., 0] < 80)
    assert blue.any()
    assert not ((without[..., 2] > 120) & (without[..., 0] < 80)).any()
    state, _, _ = crossing(push, episode, violation)
    np.testing.assert_allclose(state[:2], episode.states[violation.step + 1, :2], atol=2e-3)


def test_replaced_changes_nothing(world):
    episode, violation, (before, seen), (after, again) = happen(world, "replaced")
    np.testing.assert_allclose(after, before, atol=1e-5)
    # the tip is where it was to a micrometre, which an edge in the picture may show
    assert np.mean(np.any(np.abs(seen.astype(int) - again) > 2, axis=-1)) < 1e-3
    state, pixels, normal = crossing(world, episode, violation)
    # a block that slides is at rest for a moment
    np.testing.assert_allclose(state, episode.states[violation.step + 1], atol=1e-2)
    assert np.mean(np.any(np.abs(pixels.astype(int) - normal) > 8, axis=-1)) < 0.01


def test_reset_undoes_every_event(push):
    push.reset(7)
    fresh = push.render()
    push.move_camera(np.array([0.0, 0.02, 0.0]))
    push.paint_block((1, 0, 0, 1))
    push.remove_block()
    assert not np.array_equal(push.render(), fresh)
    push.reset(7)
    np.testing.assert_array_equal(push.render(), fresh)


def test_events_need_a_place():
    still = Episode((0, 0), np.zeros((4, 5, 2)), np.tile([0.5, 0.1, 0.5, -0.1, 0.0], (5, 1)))
    rng = np.random.default_rng(0)
    assert stage_violation("stuck", "push", still, 2, rng) is None
    assert stage_violation("pass_through", "push", still, 2, rng) is None
    assert stage_violation("camera", "push", still, 4, rng) is None
    assert stage_violation("camera", "push", still, 3, rng).step == 3
    with pytest.raises(ValueError, match="vanish"):
        stage_violation("vanish", "reach", still, 2, rng)


def test_event_happens_once(world):
    calls = []
    episode = explore(world, (1, 1), steps=6)
    violation = StagedViolation(
        "none", 3, lambda w: calls.append("begin"), lambda w, a: (calls.append("act"), Task.step(w, a))
    )
    pictures = replay(world, episode, range(2, 6), violation)
    assert calls == ["begin", *["act"] * world.block]
    for with_violation, without in zip(pictures, replay(world, episode, range(2, 6)), strict=True):
        np.testing.assert_array_equal(with_violation, without)


def test_corrupted_pictures_are_what_they_say():
    frames = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
    made = corrupted(frames, seed=0, count=12)
    assert set(made) == {"normal", "noise", "inverted", "black", "occluded"}
    np.testing.assert_array_equal(made["inverted"], 255 - made["normal"])
    assert not made["black"].any()
    hidden = np.all(made["occluded"] == 128, axis=-1).mean((1, 2))
    np.testing.assert_allclose(hidden, 0.25, atol=0.02)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the shipped reach model's results on few violations, the surprise threshold put low."""
    patch = pytest.MonkeyPatch()
    patch.setattr(surprise, "NORMAL_EPISODES", 12)
    yield measure("models/reach", "reach", None, 12, seed=3)
    patch.undo()


def test_reach_model_notices_jumps_and_not_replacing(measured):
    found = measured["auroc"]
    assert set(found) == set(kinds("reach"))
    assert found["teleport"] > 0.99
    assert found["stuck"] > 0.95
    assert 0.2 < found["replaced"] < 0.8
    assert measured["detected"]["teleport"] > 0.9
    assert measured["detected"]["replaced"] < 0.1
    assert measured["false_alarms"]["steps"] == 12 * 18
    assert measured["false_alarms"]["alarms"] <= 3
    assert measured["holds"]["steps"] == 12 * 21
    assert measured["holds"]["holds"] <= 1
    assert measured["counts"] == dict.fromkeys(kinds("reach"), 12)
    assert measured["norm_range"]["normal"] < 0.02


def test_results_are_plain_and_readable(measured):
    assert json.loads(json.dumps(measured)) == json.loads(json.dumps(measured, allow_nan=False))
    text = summary(measured)
    assert "false alarms" in text
    assert "by the rule of monitor_node" in text
    assert all(kind in text for kind in kinds("reach"))


def test_example_peaks_at_its_event_and_can_be_drawn_again(measured):
    example = measured["example"]
    peak = example["first_frame"] + int(np.argmax(example["scores"]))
    assert peak == example["step"] + 1
    pictures = example_pictures("reach", example)
    assert len(pictures) == example["first_frame"] + len(example["scores"])


def test_checkpoint_of_another_robot_is_refused(tmp_path):
    model, spec = load_checkpoint("models/reach")
    other = dataclasses.replace(spec, period=0.1, thresholds=Thresholds())
    folder = save_checkpoint(tmp_path / "other", model, other)
    with pytest.raises(UserError, match="does not fit the task"):
        measure(str(folder), "reach", None, 2, 0)


def test_false_holds_are_those_of_the_rule_that_runs():
    spec = load_checkpoint("models/reach")[1]
    spec = dataclasses.replace(spec, thresholds=Thresholds(surprise=4.0, norm_low=7.0, norm_high=9.0))
    norms = np.full(20, 8.0)

    def holds(errors, norms=norms):
        return false_holds(spec, [(np.array(errors, float), norms)])

    single = [1.0] * 17
    for i in (2, 5, 6, 9, 10, 12, 13):  # above the threshold, but never three in a row
        single[i] = 5.0
    assert (holds(single)["holds"], holds(single)["steps"]) == (0, 20)
    assert holds([1.0] * 5 + [5.0] * 3 + [1.0] * 3 + [5.0] * 4 + [1.0] * 2)["holds"] == 2
    assert holds([1.0] * 5 + [5.0] * 6 + [1.0] * 6)["steps_held"] == 6  # three calm ones end it
    edge = norms.copy()
    edge[5:12] = 9.35  # outside the range, within its margin
    assert holds([1.0] * 17, edge)["holds"] == 0
    edge[5:12] = 9.45
    assert holds([1.0] * 17, edge)["holds"] == 1
    assert false_holds(dataclasses.replace(spec, thresholds=Thresholds()), []) is None
