"""robomimic's HDF5 files: ``data/demo_N`` with ``actions``, ``states`` and ``obs/<name>``.

robosuite's ``env_args`` state the control frequency; names, kind and unit of the actions are in no file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from world_model_ros.data.layouts.source import Episode, Source, episode
from world_model_ros.data.recognise import by_number, hdf5_layout
from world_model_ros.errors import UserError


class Robomimic(Source):
    """A robomimic file."""

    name = "robomimic"

    def __init__(self, path: Path):
        super().__init__(path)
        with h5py.File(self.path) as file:
            data = file["data"]
            self._demos = sorted((name for name in data if "actions" in data[name]), key=by_number)
            first = data[self._demos[0]]
            self.lengths = [len(data[name]["actions"]) for name in self._demos]
            self.action_width = int(np.prod(first["actions"].shape[1:]))
            observed = dict(first.get("obs", {}))
            self.cameras = {
                name: column.shape[1:3]
                for name, column in observed.items()
                if column.ndim == 4 and column.dtype == np.uint8 and column.shape[-1] == 3
            }
            self._sensed = [
                name
                for name, column in observed.items()
                if name.startswith("robot") and column.ndim <= 2 and column.dtype.kind in "fiu"
            ]
            self.stated = _period(data.attrs.get("env_args"))
            widths = {name: int(np.prod(observed[name].shape[1:])) for name in self._sensed}
        names = [f"{name}_{i}" if k > 1 else name for name, k in widths.items() for i in range(k)]
        if names:
            self.stated["proprio_names"] = names
        if not self.cameras:
            raise UserError(
                f"{path} has no images in obs/: extract them with robomimic's dataset_states_to_obs.py first."
            )

    @staticmethod
    def matches(path: Path) -> bool:
        """Return whether ``path`` is a robomimic file."""
        return Path(path).is_file() and hdf5_layout(Path(path)) == "robomimic"

    def _episodes(self, camera: str) -> Iterator[Episode]:
        with h5py.File(self.path) as file:
            for name in self._demos:
                demo = file["data"][name]
                seen = demo["obs"]
                sensed = [seen[column][:].reshape(len(seen[column]), -1) for column in self._sensed]
                yield episode(
                    seen[camera][:],
                    demo["actions"][:],
                    demo["states"][:] if "states" in demo else None,
                    np.concatenate(sensed, axis=1) if sensed else None,
                    f"{self.path}, {name}",
                )


def _period(env_args: str | bytes | None) -> dict:
    """Return the period that robosuite's arguments state, {} where they do not."""
    try:
        frequency = json.loads(env_args)["env_kwargs"]["control_freq"]
        return {"period": 1 / float(frequency)}
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return {}
