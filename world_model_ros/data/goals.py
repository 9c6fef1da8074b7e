"""Goal pictures from image files and from frames of recorded episodes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from world_model_ros.camera.images import ImageRejectedError, decode_compressed
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec

EPISODES = (".h5", ".hdf5")  # what is read as an episode file; everything else is an image
CAMERA = "camera"  # instead of a file: what the camera sees now
LARGEST = 256 << 20  # bytes of an image file


class Origin(NamedTuple):
    """What an episode file says of where its frames come from; empty where it says nothing."""

    robot: str
    task: str
    actions: tuple[str, ...]  # their names

    def differences(self, spec: CheckpointSpec) -> list[str]:
        """Return what contradicts a checkpoint, a phrase each with both sides.

        A checkpoint may have been trained on some of the actions of its files.
        """
        theirs = Origin(spec.robot.name, str(spec.training.get("task", "")), spec.action.names)
        return [
            f"{word} {_words(ours)} in the file and {_words(other)} in the checkpoint"
            for word, ours, other in zip(("robot", "task", "actions"), self, theirs, strict=True)
            if ours and other and ours != other and not (word == "actions" and set(other) <= set(ours))
        ]


class Goal(NamedTuple):
    """One goal: its name for people, and RGB pixels, uint8 (H, W, 3); None is the camera's present view."""

    name: str
    pixels: np.ndarray | None
    origin: Origin | None = None  # of the frame of an episode file


def read_goals(sources: list[str], episode: int = 0, steps: list[int] | None = None) -> list[Goal]:
    """Return the goals of image files, episode files and the word "camera", in the order given.

    An episode file gives the frames ``steps`` of ``episode``, where -1 is the last one. Raises UserError.
    """
    goals = []
    for source in sources:
        path = Path(source).expanduser()
        if source == CAMERA:
            goals.append(Goal("the camera's view", None))
        elif not path.is_file():
            wrong = "is no file" if path.exists() else "does not exist"
            raise UserError(f"{source} {wrong}: give an image, an episode file, or the word {CAMERA}.")
        elif path.suffix.lower() in EPISODES:
            goals += _frames(path, episode, steps or [-1])
        else:
            goals.append(Goal(path.name, _image(path)))
    if (episode or steps) and not any(Path(source).suffix.lower() in EPISODES for source in sources):
        raise UserError("--episode and --step choose a frame of an episode file (.h5), and none is given.")
    return goals


def _words(value: str | tuple[str, ...]) -> str:
    return ", ".join(value) if isinstance(value, tuple) else value


def _image(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > LARGEST:
            raise ImageRejectedError(f"it has more than {LARGEST >> 20} MiB")
        return decode_compressed(path.read_bytes(), "")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ImageRejectedError as error:
        reason = str(error).partition(": ")[0]  # what follows is the remedy for a camera
        raise UserError(f"{path} is no goal picture: {reason}; give a PNG or JPEG in colour.") from None


def _frames(path: Path, episode: int, steps: list[int]) -> list[Goal]:
    with EpisodeFile(path) as file:
        if not 0 <= episode < len(file):
            raise UserError(
                f"{path} has no episode {episode}: it has {len(file)}, numbered 0 to {len(file) - 1}."
            )
        count = int(file.lengths[episode])
        for step in steps:
            if not -count <= step < count:
                raise UserError(
                    f"episode {episode} of {path} has no step {step}: it has {count} frames, numbered "
                    f"0 to {count - 1}; -1 is the last one."
                )
        name = f"{path.name}, episode {episode}, step"
        rows = [step % count for step in steps]
        stated = () if "action_names" in file.assumed else map(str, file.attributes["action_names"])
        robot, task = (str(file.attributes.get(key, "")) for key in ("robot", "task"))
        origin = Origin(robot, task, tuple(stated))
        return [Goal(f"{name} {row}", file.pixels(episode, slice(row, row + 1))[0], origin) for row in rows]
