"""Several episode files as one: which fit together, and a view of all their episodes."""

from pathlib import Path

import numpy as np

from world_model_ros.data.assembly import SOURCES, sort_datasets
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.normalisation import interface_of
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionInterface, interface_differences


def file_differences(a: EpisodeFile, b: EpisodeFile) -> list[str]:
    """Return what keeps the actions of two files from meaning the same, a phrase each with both values."""
    sides = f"in {a.path}", f"in {b.path}"
    ours, theirs = interface_of(a), interface_of(b)
    differences = interface_differences(ours, theirs, sides)
    if bool(ours.low) != bool(theirs.low):
        ranges = [zip(side.low, side.high, strict=True) for side in (ours, theirs)]
        shown = [", ".join(f"[{low:g}, {high:g}]" for low, high in r) or "not stated" for r in ranges]
        differences.append(f"limits {shown[0]} {sides[0]} and {shown[1]} {sides[1]}")
    steps = [f.attributes["steps_per_row"] for f in (a, b)]
    if steps[0] != steps[1]:
        differences.append(f"control steps a row {steps[0]} {sides[0]} and {steps[1]} {sides[1]}")
    return differences


def layout_differences(a: EpisodeFile, b: EpisodeFile) -> list[str]:
    """Return what keeps the rows of two files from standing in one file, a phrase each with both values."""
    sides = f"in {a.path}", f"in {b.path}"
    differences = []
    if a.frame_shape != b.frame_shape:
        sizes = ["x".join(map(str, f.frame_shape)) for f in (a, b)]
        differences.append(f"frames {sizes[0]} {sides[0]} and {sizes[1]} {sides[1]}")
    for kind in (0, 1):
        there = [sort_datasets(f._file, len(f._file["pixels"]), len(f))[kind] for f in (a, b)]
        for name in sorted((there[0].keys() | there[1].keys()) - {SOURCES}):
            rows = [(d[name].dtype.name, d[name].shape[1:]) if name in d else None for d in there]
            if rows[0] != rows[1] and (name != "pixels" or a.frame_shape == b.frame_shape):
                words = [f"{r[0]} {r[1]}" if r else "missing" for r in rows]
                differences.append(f"{name} {words[0]} {sides[0]} and {words[1]} {sides[1]}")
    for name in ("state_names", "proprio_names"):
        names = [list(f.attributes.get(name) or []) for f in (a, b)]
        if names[0] != names[1]:
            differences.append(f"{name} {names[0]} {sides[0]} and {names[1]} {sides[1]}")
    return differences


class EpisodeFiles:
    """The episodes of several files, one file after the other, to be read like those of one ``EpisodeFile``.

    ``episodes`` keeps the first that many only, ``drop_actions`` leaves out these action dimensions,
    ``given`` are attributes for what the files do not state. Raises
    UserError where the files do not fit together, with the values of both, where there are too few episodes,
    and for unknown names.
    """

    def __init__(
        self, paths: list[Path], episodes: int | None = None, drop_actions=(), given: dict | None = None
    ):
        self.files: list[EpisodeFile] = []
        try:
            for path in paths:
                self.files.append(EpisodeFile(path, given))
            self._kept = episodes, list(drop_actions)
            self._join(*self._kept)
        except BaseException:
            self.close()
            raise

    def assume(self, interface: ActionInterface) -> None:
        """Take what the files do not state from a checkpoint that is used on them."""
        for file in self.files:
            file.assume(interface)
        self._join(*self._kept)

    def _join(self, episodes: int | None, drop_actions: list[str]) -> None:
        first, *others = self.files
        if len({file.path.resolve() for file in self.files}) < len(self.files):
            raise UserError(f"--data names {first.path} or another file twice: give each file once.")
        for file in others:
            differing = file_differences(first, file)
            if differing:
                raise UserError(
                    f"{first.path} and {file.path} do not fit together: {'; '.join(differing)}. Train on one "
                    "of them, or convert one."
                )
        self.path = first.path if not others else Path(" + ".join(f.path.name for f in self.files))
        places = [(file, e) for file in self.files for e in range(len(file))]
        if episodes is not None and not 1 <= episodes <= len(places):
            raise UserError(
                f"{self.path} has {len(places)} episodes, {episodes} are needed, by --episodes or since the "
                "checkpoint was trained on so many: give the complete data, or another number."
            )
        self.places = places[:episodes]
        self.lengths = np.array([file.lengths[e] for file, e in self.places])
        attributes = [f.attributes for f in self.files]
        self.attributes = {
            k: v for k, v in attributes[0].items() if all(k in a and _same(a[k], v) for a in attributes)
        }
        if len({str(a.get("source")) for a in attributes}) > 1:
            self.attributes["source"] = "; ".join(str(a.get("source", "unknown")) for a in attributes)
        self._keep_actions(drop_actions)

    def _keep_actions(self, drop: list[str]) -> None:
        names = list(self.attributes["action_names"])
        unknown = [name for name in drop if name not in names]
        if unknown:
            raise UserError(
                f"--drop-actions: {self.path} has no action {', '.join(unknown)}; it has {', '.join(names)}."
            )
        kept = [i for i, name in enumerate(names) if name not in drop]
        if not kept:
            raise UserError(f"--drop-actions names all actions of {self.path}: keep at least one.")
        steps = self.attributes["steps_per_row"]
        self._columns = None if not drop else [s * len(names) + i for s in range(steps) for i in kept]
        for key in ("action_names", "action_low", "action_high"):
            values = self.attributes.get(key)
            if drop and isinstance(values, list) and len(values) == len(names):
                self.attributes[key] = [values[i] for i in kept]

    def __len__(self) -> int:
        return len(self.places)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in self.files:
            file.close()

    def pixels(self, episode: int, part: slice = slice(None)) -> np.ndarray:
        """Return the frames of an episode, or a part of them, uint8 (T, H, W, 3)."""
        file, there = self.places[episode]
        return file.pixels(there, part)

    def actions(self, episode: int) -> np.ndarray:
        """Return its action rows, float32 (T, steps_per_row * dim), without the dropped dimensions."""
        file, there = self.places[episode]
        actions = file.actions(there)
        return actions if self._columns is None else actions[:, self._columns]

    def states(self, episode: int) -> np.ndarray:
        """Return its states, float32 (T, S)."""
        file, there = self.places[episode]
        return file.states(there)

    def proprio(self, episode: int) -> np.ndarray:
        """Return what the robot knew of itself, float32 (T, P)."""
        file, there = self.places[episode]
        return file.proprio(there)

    def coordinates(self, episode: int) -> np.ndarray:
        """Return its states, of files without states its proprio, float32 (T, S)."""
        file, there = self.places[episode]
        return file.coordinates(there)

    @property
    def coordinate_names(self) -> list[str]:
        """Names of the ``coordinates``."""
        return self.files[0].coordinate_names

    @property
    def has_states(self) -> bool:
        """Whether all files have states, and of the same meaning."""
        return (
            all(f.has_states for f in self.files)
            and len({tuple(f.coordinate_names) for f in self.files}) == 1
        )

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a stored frame of the first file."""
        return self.files[0].frame_shape


def _same(a, b) -> bool:
    """Return whether two attributes are the same, up to single precision."""
    try:
        return a == b or bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))
    except (TypeError, ValueError):
        return False
