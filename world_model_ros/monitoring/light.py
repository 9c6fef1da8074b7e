"""Brightness and colors of the camera's pictures, compared with those of the training."""

from typing import NamedTuple

import numpy as np

WINDOW = 1.0  # seconds of frames that are judged together: something that passes is no other light
FEW = 3  # frames: fewer are not judged
DARKER = 0.15  # share by which the brightness may leave the training's range
LEVELS = 4.0  # of 255, that it may leave it besides
TINTED = 0.03  # by which a color's share of the light may leave the training's range
MOVED = 0.1  # of the training's brightness, or of the light: by which other numbers make another warning
RETURN = 0.5  # of these margins: within them a warning ends
SAMPLES = 64  # of a picture's side
_COLORS = ("red", "green", "blue")


class Light(NamedTuple):
    """Numbers of one picture: its mean, of 255, and the shares of red, green and blue in it (sum 1)."""

    brightness: float
    red: float
    green: float
    blue: float


def light_of(pixels: np.ndarray) -> Light:
    """Return the light of a picture, uint8 (H, W, 3): of its central square, which the model sees."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left, stride = (height - side) // 2, (width - side) // 2, max(1, side // SAMPLES)
    square = pixels[top : top + side : stride, left : left + side : stride]
    means = square.reshape(-1, 3).mean(axis=0, dtype=np.float64)
    return Light(float(means.mean()), *_shares(means))


def _shares(means: np.ndarray) -> list[float]:
    """Return each color's share of the light; a third each in a black picture."""
    return ((means + 1e-3) / (means + 1e-3).sum()).tolist()


class LightMonitor:
    """Compares the frames of a second with the training's: their brightness, and then their colors.

    low, high: the range of each entry of ``Light`` in the training; mean: of its brightness. Without them
    (empty) nothing is compared. Times are seconds of one clock.
    """

    def __init__(self, low=(), high=(), mean: float | None = None):
        self.low, self.high, self.mean = low, high, mean
        self.reset()

    def reset(self) -> None:
        """Start over."""
        self._since: float | None = None
        self._seen: list[Light] = []
        self._kind = self._before = ""  # of the warning, and of the second before; such as "darker"
        self._told: Light | None = None  # what the warning tells
        self.warning = ""
        self.newest: Light | None = None  # the mean of the last second

    def judge(self, now: float, pixels: np.ndarray) -> str:
        """Take a frame, uint8 (H, W, 3); return the warning: the same text until another one is due."""
        if not self.low:
            return ""
        if self._since is None or not 0 <= now - self._since < 2 * WINDOW:
            self._since, self._seen = now, []
        self._seen.append(light_of(pixels))
        if now - self._since >= WINDOW and len(self._seen) >= FEW:
            last, self.newest = self.newest, Light(*np.mean(self._seen, axis=0).tolist())
            self._since, self._seen = now, []
            kind = self._judge(self.newest)
            # The first second of a change may be half of it: its numbers would be wrong.
            if kind == self._before and (kind != self._kind or self._moved(last, self.newest)):
                self._kind, self._told = kind, self.newest
                self.warning = kind and self._sentence(kind, self.newest)
            self._before = kind
        return self.warning

    def metrics(self) -> dict[str, str]:
        """Return the light of the last second, rounded, for the diagnostics."""
        if self.newest is None:
            return {}
        shares = {f"picture_{name}": f"{getattr(self.newest, name):.2f}" for name in _COLORS}
        return {"picture_brightness": f"{self.newest.brightness:.0f}"} | shares

    def _judge(self, light: Light) -> str:
        """Return what is different: darker, brighter, or the color that there is more or less of."""
        for i, value in enumerate(light):
            names = ("darker", "brighter") if i == 0 else (f"less {_COLORS[i - 1]}", f"more {_COLORS[i - 1]}")
            for name, bound, sign in ((names[0], self.low[i], -1), (names[1], self.high[i], 1)):
                margin = DARKER * bound + LEVELS if i == 0 else TINTED
                if self._kind == name:
                    margin *= RETURN
                if sign * (value - bound) > margin:
                    return name
        return ""

    def _moved(self, last: Light, light: Light) -> bool:
        """Return whether the numbers of the warning were true in neither of the last two seconds."""
        if not self._kind:
            return False
        limits = np.array([MOVED * self.mean, *[MOVED] * 3])
        return all((np.abs(np.subtract(now, self._told)) > limits).any() for now in (last, light))

    def _sentence(self, kind: str, light: Light) -> str:
        if kind in ("darker", "brighter"):
            change = 100 * abs(light.brightness / max(self.mean, 1.0) - 1)
            return (
                f"the picture is {change:.0f} % {kind} than in training (mean {light.brightness:.0f}, "
                f"{self.low[0]:.0f} to {self.high[0]:.0f}): set the light and the exposure as they were"
            )
        i = 1 + _COLORS.index(kind.split()[1])
        low, high = 100 * self.low[i], 100 * self.high[i]
        return (
            f"the picture has {kind} than in training ({100 * light[i]:.0f} % of its light, {low:.0f} to "
            f"{high:.0f} %): set the white balance as it was, and check that the encoding is the right one"
        )
