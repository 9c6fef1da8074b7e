"""The registry of tasks: the files of this folder, those of other packages, and `module:Class`.

Another package adds a task by an entry point of the group `world_model_ros.tasks`, whose name is the
task's and whose value is `module:Class`.
"""

import importlib
import os
import pkgutil
import sys
from importlib import metadata

from world_model_ros.errors import UserError
from world_model_ros.model.config import CheckpointSpec, interface_differences
from world_model_ros.sim.task import Task

DEFAULT_TASK = "reach"  # of the verb sim and of sim_node
GROUP = "world_model_ros.tasks"


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks that are installed; none of them is imported."""
    return tuple(sorted({*_built_in(), *_entry_points()}))


def find_task(name: str) -> type[Task]:
    """Return the class of a task, given by its name or as `module:Class`.

    A module is looked for on Python's path and in the current folder. Raises UserError where there is no
    such task or it cannot be imported.
    """
    module, _, attribute = name.partition(":")
    if name in _built_in():
        module = f"{__name__}.{name}"
        attribute = name.title().replace("_", "")
    elif name in _entry_points():
        module, _, attribute = _entry_points()[name].partition(":")
    elif not (module and attribute):
        raise UserError(
            f"there is no task {name!r}: choose one of {', '.join(task_names())}, or give module:Class."
        )
    elif os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
        raise UserError(f"the task {name!r} cannot be imported ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise UserError(f"{name} is no task: make it a subclass of world_model_ros.sim.task.Task.")
    return found


def stated_task(value) -> str:
    """Return the name of the task that a file states, such as a checkpoint's config.json.

    Only an installed task: a file from somebody else must not choose a module that is imported here, so
    `module:Class` is taken from the command line alone. Raises UserError.
    """
    if isinstance(value, str) and value in task_names():
        return value
    raise UserError(
        f"the task {value!r} is stated by a file and not installed here ({', '.join(task_names())} are): "
        "give --task where there is that option, or install it (docs/new_task.md)."
    )


def make_world(task: str, seed: int = 0, gui: bool = False, image_size: int = 128) -> Task:
    """Return a world of a task, at the random start of `seed`. Raises UserError as `find_task`."""
    kind = find_task(task)
    missing = sorted(kind.__abstractmethods__)
    missing += [name for name in Task.__annotations__ if name[0] != "_" and not hasattr(kind, name)]
    if missing:
        raise UserError(f"the task {task!r} lacks {', '.join(missing)} (docs/new_task.md).")
    world = kind(seed=seed, gui=gui, image_size=image_size)
    world.task = task
    return world


def check_world(spec: CheckpointSpec, task: str) -> None:
    """Refuse (UserError) a checkpoint whose actions mean something else than the task's, with both sides."""
    sides = ("in the checkpoint", f"in {task}")
    differing = interface_differences(spec.interface, find_task(task).interface(), sides)
    if differing:
        raise UserError(
            f"the checkpoint does not fit the task {task}: {'; '.join(differing)}. Give a checkpoint that "
            "was trained on this task's episodes."
        )


def other_task(spec: CheckpointSpec, task: str) -> str:
    """Return a warning where a checkpoint that fits was trained on another task than ``task``, or ""."""
    trained = spec.training.get("task")
    if not trained or not task or trained == task:
        return ""
    return f"warning: the checkpoint was trained on {trained}, this is {task}"


def _built_in() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__)]


def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in metadata.entry_points(group=GROUP)}
