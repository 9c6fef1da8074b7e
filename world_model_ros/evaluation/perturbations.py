"""Noisy and partial camera pictures: what a camera, a lamp, a hand or a network does to them."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

NOISE = 0.05  # standard deviation, of the full range
GAINS = {"dark": 0.7, "bright": 1.3}
BALANCE = 0.15  # largest change of a channel's gain
BLUR = 1 / 64  # standard deviation, of the picture's side
PATCH = 0.25  # side of the square, of the picture's
DROPPED = 0.1  # of the frames
LATE = 2  # control steps


def noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise to every pixel."""
    return _bytes(picture + rng.normal(0.0, 255 * NOISE, picture.shape))


def brightness(gain: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Return what multiplies a picture by ``gain``."""
    return lambda picture, _: _bytes(picture * gain)


def white_balance(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply each channel by a gain of its own."""
    return _bytes(picture * rng.uniform(1 - BALANCE, 1 + BALANCE, 3))


def blur(picture: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Convolve with a Gaussian."""
    return cv2.GaussianBlur(picture, (0, 0), BLUR * len(picture))


def occlusion(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Put a square of a random colour somewhere, elsewhere in each picture."""
    side = round(PATCH * len(picture))
    top, left = rng.integers(0, np.subtract(picture.shape[:2], side - 1))
    hidden = picture.copy()
    hidden[top : top + side, left : left + side] = rng.integers(0, 256, 3)
    return hidden


def dropped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Lose the frame, now and then."""
    return None if rng.random() < DROPPED else picture


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Perturbation:
    """How strong it is, in words; what it does to a picture; how many control steps that is old."""

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
    "occlusion": Perturbation(f"a square of {PATCH:.0%} of the side, elsewhere in each frame", occlusion),
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
        """Return the perturbed picture, None where it is lost."""
        changed = self.perturbation.change(picture, self.rng)
        if changed is None and not self.shown:
            changed = picture
        self.shown.append(changed)
        return changed
