"""Clips of frames and the action blocks between them, in memory or, where they do not fit, in a file."""

import numpy as np

from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.data.frame_cache import FrameCache, frames_in_memory
from world_model_ros.data.normalisation import normalise
from world_model_ros.errors import UserError
from world_model_ros.model.config import ActionSpec


class Clips:
    """All clips of ``frames`` frames, one action block apart, of the chosen episodes (paper, 3).

    Frames are read from ``cache`` where one is given, and else held in memory, of the size of the file's or
    of ``image_size``. Raises UserError when the block does not fit the file's rows or no episode is long
    enough.
    """

    def __init__(
        self,
        file: EpisodeFile,
        action: ActionSpec,
        block: int,
        frames: int = 4,
        episodes=None,
        image_size: int | None = None,
        cache: FrameCache | None = None,
    ):
        steps_per_row = file.attributes["steps_per_row"]
        if block % steps_per_row:
            raise UserError(
                f"{file.path} has {steps_per_row} control steps a row: a block of {block} does not fit, "
                f"choose a multiple of {steps_per_row}."
            )
        self.stride = block // steps_per_row
        self.frames = frames
        self.episodes = list(range(len(file)) if episodes is None else episodes)
        self.cache = cache
        self.lengths = np.array([file.lengths[e] for e in self.episodes], np.int64)  # rows of each episode
        starts = [
            end - length + np.arange(max(0, length - (frames - 1) * self.stride))
            for end, length in zip(np.cumsum(self.lengths), self.lengths, strict=True)
        ]
        self.starts = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        if len(self.starts) == 0:
            raise UserError(
                f"{file.path} has no episode of {frames} frames {block} control steps apart: "
                "record longer ones."
            )
        if cache is None:
            self.pixels = frames_in_memory(file, self.episodes, image_size)
        else:
            self.pixels = cache.frames_of(self.episodes)
        blocks = [_blocks(file.actions(episode), self.stride) for episode in self.episodes]
        self.blocks = normalise(np.concatenate(blocks), action)
        self._offsets = np.arange(frames) * self.stride

    def __len__(self) -> int:
        return len(self.starts)

    def model_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows one model step apart, episode by episode, and how many each episode has."""
        ends = np.cumsum(self.lengths)
        rows = [np.arange(e - n, e, self.stride) for e, n in zip(ends, self.lengths, strict=True)]
        return np.concatenate(rows), np.array([len(r) for r in rows])

    def some(self, count: int, seed: int) -> np.ndarray:
        """Return the indices of ``count`` clips drawn by ``seed``, of all where there are fewer."""
        return np.random.default_rng(seed).permutation(len(self))[:count]

    def batch(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Return clips: pixels uint8 (B, frames, H, W, 3), blocks float32 (B, frames, block * dim).

        Block t leaves frame t; actions past the end of an episode are 0, the mean action.
        """
        rows = self.starts[np.asarray(indices)][:, None] + self._offsets
        return self.pixels[rows], self.blocks[rows]


def split_episodes(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of training and held-out episodes, at least one of each.

    Whole episodes, because neighbouring frames of one would leak into the other part. UserError for
    fewer than two episodes.
    """
    if count < 2:
        raise UserError("training needs at least two episodes, one of them held out: collect more.")
    order = np.random.default_rng(seed).permutation(count)
    held_out = min(count - 1, max(1, round(share * count)))
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


def _blocks(actions: np.ndarray, stride: int) -> np.ndarray:
    """Join ``stride`` action rows (T, A) into the block that leaves each row: (T, stride * A)."""
    if stride == 1:
        return actions
    padding = np.full((stride - 1, actions.shape[1]), np.nan, actions.dtype)
    padded = np.concatenate([actions, padding])
    return np.concatenate([padded[i : i + len(actions)] for i in range(stride)], axis=1)
