import json

import cv2
import numpy as np
import pytest

from world_model_ros.cli import main
from world_model_ros.evaluation import robustness
from world_model_ros.evaluation.closed_loop import Outcome, run_problem, wilson_interval
from world_model_ros.evaluation.policies import PlannerPolicy
from world_model_ros.evaluation.problems import make_problems
from world_model_ros.evaluation.robustness import DROPPED, PERTURBATIONS, PerturbedCamera
from world_model_ros.evaluation.workers import Done
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.planning.config import PlannerConfig
from world_model_ros.sim.tasks import make_world


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(40, 200, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_equal_seeds_perturb_equally_and_leave_the_picture(name, picture):
    before = picture.copy()
    seen = []
    for _ in range(2):
        camera = PerturbedCamera(name)
        camera.start(5)
        seen.append([camera.show(picture) for _ in range(4)])
    for first, again in zip(*seen, strict=True):
        np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(picture, before)
    changed = any(p is None or not np.array_equal(p, picture) for p in seen[0])
    assert changed == (name not in ("clean", "late", "dropped")) or name == "dropped"


def test_one_frame_in_ten_is_lost_but_never_the_first(picture):
    lost = []
    for seed in range(300):
        camera = PerturbedCamera("dropped")
        camera.start(seed)
        lost.append([camera.show(picture) is None for _ in range(10)])
    assert not np.any(np.array(lost)[:, 0])
    assert np.mean(np.array(lost)[:, 1:]) == pytest.approx(DROPPED, abs=0.02)


class Watcher:
    """Moves on a straight line and keeps what it is shown."""

    planning_ms: list[float]

    def start(self, goal_image, problem):
        self.seen = []

    def act(self, image):
        self.seen.append(image)
        return np.tile((0.0, 0.3), (5, 1))


def test_a_late_picture_is_the_one_of_two_control_steps_ago():
    world = make_world("reach")
    problem = make_problems(world, 1, 0)[0]
    late, camera = Watcher(), PerturbedCamera("late")
    run_problem(world, late, problem, 15, camera=camera)
    world.reset(state=np.asarray(problem.start))
    for _ in range(3):
        world.step((0.0, 0.3))
    np.testing.assert_array_equal(late.seen[1], world.render())
    world.close()


def test_without_a_picture_the_last_plan_runs_on_and_then_the_robot_stands(checkpoint):
    model, spec = load_checkpoint(checkpoint)
    policy = PlannerPolicy(model, spec, PlannerConfig(samples=8, elites=2, iterations=1, horizon=5))
    world = make_world("reach")
    problem = make_problems(world, 1, 0)[0]
    policy.start(world.goal_image(np.asarray(problem.goal)), problem)
    plans = []
    plan = policy.planner.plan

    def noted(*arguments):
        plans.append((arguments[1], plan(*arguments)))
        return plans[-1][1]

    policy.planner.plan = noted
    first = policy.act(world.render())
    assert not first.any()
    ahead = plans[0][1].actions
    blocks = [policy.act(None) for _ in range(3)]
    np.testing.assert_array_equal(blocks[0], ahead[:5])
    np.testing.assert_array_equal(blocks[1], ahead[5:10] if len(ahead) > 5 else np.zeros((5, 2)))
    assert not blocks[2].any()
    policy.act(world.render())
    assert len(plans) == 2
    assert plans[1][0] is None  # the history is forgotten
    world.close()


def test_the_table_has_every_perturbation_and_workers_change_nothing(checkpoint, tmp_path, capsys):
    file = tmp_path / "r.json"
    arguments = ["evaluate", "--task", "reach", "--checkpoint", checkpoint, "--protocol", "robustness"]
    arguments += ["-n", "2", "--budget", "10", "--samples", "8", "--elites", "2", "--iterations", "1"]
    alone, found = {}, {}
    for workers in ("1", "2"):
        assert main([*arguments, "--workers", workers, "--json", str(file)]) == 0
        alone, found = found, json.loads(file.read_text())
    assert found == alone
    assert found["protocol"] == "robustness"
    assert set(found["perturbations"]) == set(PERTURBATIONS)
    assert found["perturbations"]["clean"]["drift"] == 0
    assert found["perturbations"]["noise"]["drift"] > 0
    assert "occlusion" in capsys.readouterr().out


def test_drift_is_measured_in_distances_between_moments_and_success_in_that_of_clean_pictures():
    moments = np.sqrt(2.0) * np.eye(8)  # any two are 4 apart, squared; two moments a problem

    def run(name, index):
        met = index < (2 if name == "clean" else 1)
        criteria = {"position": {"any": met, "end": met, "first": 1 if met else None}}
        outcome = Outcome(index, met, met, 1, 0.2, 0.1, criteria=criteria)
        drift = np.array([0.0, 0.0] if name == "clean" else [1.0, 3.0])
        latents = moments[2 * index :][:2] * (1 if name == "clean" else 3)
        return Done(outcome, [], [], latents, drift)

    def results():
        done = [run(name, index) for name in PERTURBATIONS for index in range(4)]
        return robustness.robustness_results(done, 4)

    perturbations = results()["perturbations"]
    assert perturbations["clean"]["drift"] == 0
    assert perturbations["noise"]["drift"] == pytest.approx(2.0 / 4.0)
    assert perturbations["noise"]["of_clean"] == 0.5
    assert perturbations["noise"]["interval"] == wilson_interval(1, 4)
    assert perturbations["noise"]["n"] == 4
    moments[:] = 0.0
    without_drift = results() | {"task": "reach", "problems_protocol": "random", "seed": 0}
    assert without_drift["perturbations"]["noise"]["drift"] is None
    assert "noise" in robustness.summary(without_drift)


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
