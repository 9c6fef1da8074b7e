"""The frames of an episode file as uint8 RGB, where the file stores them otherwise without ambiguity."""

import h5py
import numpy as np

from world_model_ros.errors import UserError

_LOOKED_AT = 16  # frames, spread over the file


class Pixels:
    """How the column ``pixels`` is stored. Raises UserError for what could mean two things."""

    def __init__(self, column: h5py.Dataset, where: str):
        self.where = where
        self.notes: list[str] = []
        shape = column.shape
        if column.ndim == 3:
            shape = (*shape, 1)
        if len(shape) != 4:
            raise UserError(
                f"{where} is inconsistent: its pixels have the shape {column.shape}, not that of images."
            )
        self._channels_first = shape[3] not in (1, 3) and shape[1] in (1, 3)
        if self._channels_first:
            shape = (shape[0], shape[2], shape[3], shape[1])
            self.notes.append(f"pixels {column.shape} have their channels first: read as channels last")
        if shape[3] not in (1, 3):
            raise UserError(
                f"{where}: pixels have the shape {column.shape}, but a frame must have the channels red, "
                "green and blue: store them so."
            )
        self._gray = shape[3] == 1
        if self._gray:
            self.notes.append("pixels are gray: read as equal red, green and blue")
        self.frame_shape = (*shape[1:3], 3)
        self._scale = self._scale_of(column)

    def _scale_of(self, column: h5py.Dataset) -> float:
        """Return the factor to 0..255; UserError where the numbers are no such pixels."""
        kind = column.dtype
        if kind == np.uint8 or len(column) == 0:
            return 1.0
        if kind.kind not in "fiu":
            raise UserError(f"{self.where}: pixels are {kind}, not numbers: store uint8.")
        rows = np.unique(np.linspace(0, len(column) - 1, _LOOKED_AT).astype(int))
        seen = np.stack([column[row] for row in rows])
        low, high = float(np.min(seen)), float(np.max(seen))
        if kind.kind == "f" and low >= 0 and 0 < high <= 1:
            self.notes.append(f"pixels are {kind} from 0 to 1: read as 0 to 255")
            return 255.0
        if low >= 0 and 1 < high <= 255 and np.array_equal(seen, np.rint(seen)):
            self.notes.append(f"pixels are {kind} from 0 to 255: read as uint8")
            return 1.0
        raise UserError(
            f"{self.where}: pixels are {kind} from {low:g} to {high:g}, which is neither 0 to 1 nor whole "
            "numbers from 0 to 255: store uint8 images."
        )

    def rgb(self, rows: np.ndarray) -> np.ndarray:
        """Return stored rows as uint8 (T, H, W, 3)."""
        if rows.ndim == 3:
            rows = rows[..., None]
        if self._channels_first:
            rows = np.ascontiguousarray(np.moveaxis(rows, 1, -1))
        if rows.dtype != np.uint8:
            scaled = np.rint(rows * self._scale)
            if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
                raise UserError(
                    f"{self.where}: some frames leave the range of the others (0 to {255 / self._scale:g}): "
                    "store uint8 images."
                )
            rows = scaled.astype(np.uint8)
        return np.repeat(rows, 3, axis=-1) if self._gray else rows
