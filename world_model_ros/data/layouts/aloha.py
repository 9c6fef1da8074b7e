"""ALOHA's HDF5 files, one episode each: ``action``, ``observations/qpos``, ``observations/images/<camera>``.

Compressed images are JPEG files in rows of one length, filled up with zeros. ALOHA's own recorder gives RGB
images to OpenCV, which takes them for BGR, so a usual decoder swaps red and blue; other recorders do not. The
file does not tell: ``jpeg_colors`` says it.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from world_model_ros.data.layouts.source import Episode, Options, Source, decode_image, episode
from world_model_ros.data.recognise import aloha_files
from world_model_ros.errors import UserError

_IMAGES = "observations/images"


class Aloha(Source):
    """An ALOHA file, or a folder of them."""

    name = "ALOHA"

    def __init__(self, path: Path):
        super().__init__(path)
        self._files = aloha_files(self.path)
        self.lengths, self.stated = [], {}
        for path in self._files:
            with h5py.File(path) as file:
                self.lengths.append(len(file["action"]))
        with h5py.File(self._files[0]) as file:
            self.action_width = int(np.prod(file["action"].shape[1:]))
            images = file.get(_IMAGES, {})
            self._compressed = any(column.ndim < 4 for column in images.values())
            self.cameras = {
                name: column.shape[1:3] if column.ndim == 4 else self._decode(column[0]).shape[:2]
                for name, column in images.items()
            }

    @staticmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` is an ALOHA file or a folder of them."""
        return Path(path).exists() and bool(aloha_files(Path(path)))

    def _decode(self, row) -> np.ndarray:
        data = row if isinstance(row, bytes) else np.asarray(row, np.uint8)
        return decode_image(data, str(self.path))

    def episodes(self, options: Options) -> Iterator[Episode]:
        """Yield all episodes in order. Raises UserError where ``options`` lack what is needed."""
        if self._compressed and options.jpeg_colors is None:
            raise UserError(
                f"{self.path} holds JPEG images and does not say whether they were made from RGB: give "
                "--jpeg-colors rgb, or bgr for those of ALOHA's own recorder."
            )
        self._swapped = options.jpeg_colors == "bgr"
        return super().episodes(options)

    def _episodes(self, camera: str) -> Iterator[Episode]:
        for path in self._files:
            with h5py.File(path) as file:
                column = file[f"{_IMAGES}/{camera}"]
                if column.ndim == 4:
                    pixels = column[:]
                else:
                    pixels = np.stack([self._decode(row) for row in column])
                    pixels = np.ascontiguousarray(pixels[..., ::-1]) if self._swapped else pixels
                qpos = file.get("observations/qpos")
                yield episode(pixels, file["action"][:], None, None if qpos is None else qpos[:], str(path))
