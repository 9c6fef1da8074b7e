"""Robustness: success and latent drift under noisy and partial camera images; the goal image stays clean."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from world_model_ros.evaluation.closed_loop import percent, rates

if TYPE_CHECKING:
    from world_model_ros.evaluation.workers import Done

NOISE = 0.05  # standard deviation, of the full range
GAINS = {"dark": 0.7, "bright": 1.3}
BALANCE = 0.15  # largest change of a channel's gain
BLUR = 1 / 64  # standard deviation, of the image's side
PATCH = 0.25  # side of the square, of the image's
DROPPED = 0.1  # of the frames
LATE = 2  # control steps


def noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise to every pixel."""
    return _bytes(picture + rng.normal(0.0, 255 * NOISE, picture.shape))


def brightness(gain: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Return a function that multiplies an image by ``gain``."""
    return lambda picture, _: _bytes(picture * gain)


def white_balance(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply each channel by a gain of its own."""
    return _bytes(picture * rng.uniform(1 - BALANCE, 1 + BALANCE, 3))


def blur(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Convolve with a Gaussian."""
    return cv2.GaussianBlur(picture, (0, 0), BLUR * len(picture))


def occlusion(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cover a random square with a random colour."""
    side = round(PATCH * len(picture))
    top, left = rng.integers(0, np.subtract(picture.shape[:2], side - 1))
    hidden = picture.copy()
    hidden[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return hidden


def dropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Lose a random share of the frames."""
    return None if rng.random() < DROPPED else picture


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Perturbation:
    """Its strength in words, the change of an image, and the age of the image in control steps."""

    level: str
    change: Callable[[np.ndarray, np.random.Generator], np.ndarray | None] = lambda picture, _: picture
    delay: int = 0


PERTURBATIONS = {
    "clean": Perturbation("none"),
    "noise": Perturbation(f"standard deviation {NOISE:.0%} of the range", noise),
    "dark": Perturbation(f"gain {GAINS['dark']}", brightness(GAINS["dark"])),
    "bright": Perturbation(f"gain {GAINS['bright']}", brightness(GAINS["bright"])),
    "white_balance": Perturbation(f"gains within {BALANCE:.0%}, new in each frame", white_balance),
    "blur": Perturbation("Gaussian, 1 px of 64", blur),
    "occlusion": Perturbation(f"a square of {PATCH:.0%} of the side, new in each frame", occlusion),
    "dropped": Perturbation(f"{DROPPED:.0%} of the frames lost", dropped),
    "late": Perturbation(f"{LATE} control steps old, stamped as new", delay=LATE),
}


class PerturbedCamera:
    """A camera under a perturbation, drawn from the problem's seed; its first frame is never lost."""

    def __init__(self, name: str):
        self.perturbation = PERTURBATIONS[name]
        self.delay = self.perturbation.delay
        self.shown: list[np.ndarray | None] = []

    def start(self, seed: int) -> None:
        """Begin a problem."""
        self.rng = np.random.default_rng((seed, 0xCA3E))
        self.shown = []

    def show(self, picture: np.ndarray) -> np.ndarray | None:
        """Return the perturbed image, None where it is lost."""
        changed = self.perturbation.change(picture, self.rng)
        if changed is None and not self.shown:
            changed = picture
        self.shown.append(changed)
        return changed


def robustness_results(done: "list[Done]", n: int) -> dict:
    """Return the planner's success under each perturbation, as plain data.

    done: ``n`` problems under the first of PERTURBATIONS, the same problems under the next, and so on.
    In the results, of_clean is the success relative to clean images. drift is the median squared distance
    between the latents of an image with and without the perturbation, relative to the median between two
    images at random times; None where all images have the same latent.
    """
    by_name = {name: done[i * n : (i + 1) * n] for i, name in enumerate(PERTURBATIONS)}
    typical = _typical_distance(by_name["clean"])
    clean = sum(d.outcome.success for d in by_name["clean"])
    perturbations = {}
    for name, results in by_name.items():
        outcomes = [d.outcome for d in results]
        summed = rates(outcomes)
        perturbations[name] = {
            "level": PERTURBATIONS[name].level,
            "n": len(outcomes),
            **summed,
            "of_clean": summed["successes"] / clean if clean else None,
            "drift": typical and float(np.median(np.concatenate([d.drift for d in results]))) / typical,
            "outcomes": [dataclasses.asdict(o) for o in outcomes],
        }
    return {"n": n, "perturbations": perturbations}


def summary(results: dict) -> str:
    """Return robustness results as a table."""
    lines = [
        f"{results['task']}, robustness on protocol {results['problems_protocol']}, n = {results['n']} each, "
        f"seed {results['seed']}",
        f"  {'perturbation':<15}{'success':<26}{'at end':<10}{'of clean':<10}drift",
    ]
    for name, values in results["perturbations"].items():
        of_clean = "-" if values["of_clean"] is None else percent(values["of_clean"])
        drift = "-" if values["drift"] is None else f"{values['drift']:.3f}"
        lines.append(
            f"  {name:<15}{percent(values['success_rate'], values['interval']):<26}"
            f"{percent(values['success_at_end']):<10}{of_clean:<10}{drift:<8}{values['level']}"
        )
    return "\n".join(lines)


def _typical_distance(done: "list[Done]") -> float | None:
    """Median squared distance of latents at two random times; None where all latents are the same."""
    latents = np.concatenate([d.latents for d in done])
    order = np.random.default_rng(0).permutation(len(latents))
    pairs = ((latents[order] - latents[np.roll(order, 1)]) ** 2).sum(-1)
    return float(np.median(pairs)) or None
