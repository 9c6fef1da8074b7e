"""What all layouts have in common: a data set, its options, one episode of it."""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from world_model_ros.data import unstated
from world_model_ros.data.words import between, plural
from world_model_ros.errors import UserError

_RENAMED = ("action_names", "action_kind", "action_unit")  # words: an option may replace the data set's


class Episode(NamedTuple):
    """One episode, as EpisodeWriter.append takes it."""

    pixels: np.ndarray  # uint8 (T, H, W, 3), RGB
    action: np.ndarray  # float32 (T, A); the last row is NaN, since nothing followed it
    state: np.ndarray | None = None  # float32 (T, S)
    proprio: np.ndarray | None = None  # float32 (T, P)


@dataclass(frozen=True)
class Options:
    """What a person says about a data set."""

    camera: str | None = None
    jpeg_colors: str | None = None  # of ALOHA's compressed images
    given: dict = field(default_factory=dict)  # attributes, as ``unstated.given`` returns them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a conversion."""
    group = parser.add_argument_group("other data sets")
    group.add_argument("--camera", help="the camera to take, where there are several")
    group.add_argument(
        "--jpeg-colors",
        choices=("rgb", "bgr"),
        help="how ALOHA's compressed images were made: from RGB as usual, or bgr: OpenCV was given RGB",
    )
    unstated.add_arguments(parser)


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the Options of parsed arguments. Raises UserError for values that cannot be."""
    return Options(arguments.camera, arguments.jpeg_colors, unstated.given(arguments))


class Source(ABC):
    """A data set. A layout fills in the fields and ``_episodes``."""

    name: str  # of the layout
    cameras: dict[str, tuple[int, int]]  # name -> height and width
    lengths: list[int]  # frames of each episode
    action_width: int  # numbers in an action row
    stated: dict  # attributes of an episode file that the data set states

    def __init__(self, path: Path):
        self.path = Path(path)

    @staticmethod
    @abstractmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` has this layout; only a few bytes are read."""

    @abstractmethod
    def _episodes(self, camera: str) -> Iterator[Episode]:
        """Yield all episodes in order."""

    def episodes(self, options: Options) -> Iterator[Episode]:
        """Yield all episodes in order. Raises UserError where ``options`` lack the camera."""
        return self._episodes(self.camera(options.camera))

    def camera(self, wanted: str | None) -> str:
        """Return a camera by its name or the last part of it, the only one by default; else UserError."""
        names = list(self.cameras)
        if not names:
            raise UserError(f"{self.path} has no camera: a world model learns from pictures.")
        if wanted is None:
            if len(names) > 1:
                raise UserError(f"{self.path} has the cameras {', '.join(names)}: choose one with --camera.")
            return names[0]
        fitting = [n for n in names if n == wanted] or [n for n in names if n.split(".")[-1] == wanted]
        if len(fitting) != 1:
            raise UserError(f"{self.path} has no camera {wanted!r}: --camera is one of {', '.join(names)}.")
        return fitting[0]

    def attributes(self, options: Options) -> dict:
        """Return the attributes of the episode file, what is not stated from ``options``.

        Raises UserError where something is missing, contradicts or does not fit the actions.
        """
        stated = {k: v for k, v in self.stated.items() if k not in _RENAMED or k not in options.given}
        values = unstated.combine(stated, options.given, str(self.path))
        unstated.require(values, str(self.path))
        steps = values.setdefault("steps_per_row", 1)
        names = values["action_names"]
        if len(names) * steps != self.action_width:
            raise UserError(
                f"{self.path}: {len(names)} action names ({', '.join(names)}) do not fit its actions, which "
                f"have {self.action_width // steps} dimensions: give as many with --action-names."
            )
        return {"source": f"{self.name}: {self.path.name}", **values}

    def describe(self) -> str:
        """Return what the data set holds and what it does not say, a line per fact."""
        names, period = self.stated.get("action_names"), self.stated.get("period")
        steps = self.stated.get("steps_per_row", 1)
        lengths = self.lengths or [0]
        each = between(min(lengths), max(lengths), "frame")
        cameras = [f"{camera} ({height}x{width})" for camera, (height, width) in self.cameras.items()]
        missing = [option for name, (option, _) in unstated.NEEDED.items() if name not in self.stated]
        lines = [
            f"{self.path}: {self.name}, {plural(len(self.lengths), 'episode')} of {each}, "
            f"{sum(self.lengths)} in all",
            f"cameras: {', '.join(cameras) or 'none'}",
            f"actions: {self.action_width} numbers, {', '.join(names) if names else 'not named'}",
            f"rate: {1 / (period * steps):g} Hz" if period else "rate: not stated",
        ]
        lines += [f"not stated, to be given: {', '.join(missing)}"] if missing else []
        lines += [f"choose one with --camera: {', '.join(self.cameras)}"] if len(self.cameras) > 1 else []
        return "\n".join(lines)


def episode(pixels, action, state=None, proprio=None, where: str = "") -> Episode:
    """Return an Episode of columns as stored; UserError naming ``where`` where they do not fit together.

    The last action is made NaN: what it led to was not recorded.
    """
    columns = [None if c is None else _rows(c) for c in (action, state, proprio)]
    lengths = {len(pixels), *(len(c) for c in columns if c is not None)}
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise UserError(f"{where}: its images are {pixels.dtype} {pixels.shape}, not uint8 (T, H, W, 3).")
    if len(lengths) != 1:
        raise UserError(f"{where} is inconsistent: its columns have {sorted(lengths)} rows.")
    columns[0][-1:] = np.nan
    return Episode(pixels, *columns)


def _rows(values: np.ndarray) -> np.ndarray:
    return np.array(values, np.float32).reshape(len(values), -1)


def decode_image(data, where: str) -> np.ndarray:
    """Return a JPEG or PNG file's content as uint8 (H, W, 3), RGB. Zeros after its end do no harm."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise UserError(f"{where}: an image cannot be decoded: copy the data set again.")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
