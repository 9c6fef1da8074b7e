"""Frames of a video file in order: through PyAV where it is installed, else through OpenCV."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from world_model_ros.errors import UserError


class Video:
    """A video file that is read forwards: many episodes may follow one another in it."""

    def __init__(self, path: Path):
        self.path = path
        self._rewind()

    def _rewind(self) -> None:
        self._decoded, self._position = _decoded(self.path), -1

    def frames(self, wanted: np.ndarray) -> np.ndarray:
        """Return the frames with the numbers ``wanted``, in rising order: uint8 (T, H, W, 3), RGB.

        Raises UserError where the video has not as many or cannot be decoded.
        """
        if len(wanted) and wanted[0] <= self._position:
            self._rewind()
        found, frame = [], None
        for number in wanted:
            while self._position < number:
                frame = next(self._decoded, None)
                if frame is None:
                    raise UserError(
                        f"{self.path} has {self._position + 1} frames, its rows ask for frame {number}: copy "
                        "it again."
                    )
                self._position += 1
            found.append(frame)
        return np.stack(found)


def _decoded(path: Path) -> Iterator[np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path} is missing: copy the whole folder.")
    with path.open("rb") as file:  # a playlist under this name would have other files opened
        if file.read(8)[4:] != b"ftyp":
            raise UserError(f"{path} is no MP4 file: copy it again.")
    try:
        import av
    except ImportError:
        yield from _through_opencv(path)
        return
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be decoded ({error}): copy it again.") from None


def _through_opencv(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    try:
        code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        codec = code.to_bytes(4, "little").decode("ascii", "ignore").strip("\0 ")
        done, frame = capture.read()
        if not done:
            raise UserError(
                f"{path} cannot be decoded by OpenCV (its codec is {codec or 'unknown'}): run `pip install "
                "av`, or encode it as H.264."
            )
        while done:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            done, frame = capture.read()
    finally:
        capture.release()
