"""What the actions of a data set mean, where the data set does not say it: asked for, never assumed."""

import argparse
import math

from world_model_ros.errors import UserError

# attribute of an episode file -> (the option, what it is in words)
NEEDED = {
    "action_names": ("--action-names", "names"),
    "action_kind": ("--action-kind", "kind"),
    "action_unit": ("--action-unit", "unit"),
    "period": ("--period", "control period"),
    "block": ("--block", "action block"),
}
_WORDS = {
    **NEEDED,
    "action_frame": ("--action-frame", "frame"),
    "action_low": ("--action-low", "lowest actions"),
    "action_high": ("--action-high", "highest actions"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options for what a data set may leave unsaid."""
    group = parser.add_argument_group("where the data do not say it")
    group.add_argument("--period", type=float, help="seconds of one control step")
    group.add_argument("--block", type=int, help="control steps in one model step")
    group.add_argument("--action-names", help="names of the action's dimensions, with commas between them")
    group.add_argument("--action-kind", help="joint_velocity, twist, or what else the actions are")
    group.add_argument("--action-unit", help="unit of the actions, such as rad/s or m/s")
    group.add_argument("--action-frame", help="frame that a twist is given in")
    for end in ("low", "high"):
        group.add_argument(
            f"--action-{end}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"{end}est value of each dimension of the action (default: what was seen)",
        )


def given(arguments: argparse.Namespace) -> dict:
    """Return the attributes that the options state. Raises UserError for values that cannot be."""
    stated = {name: getattr(arguments, name, None) for name in _WORDS}
    stated = {name: value for name, value in stated.items() if value is not None}
    if "action_names" in stated:
        names = [name.strip() for name in stated["action_names"].split(",")]
        if not all(names) or len(set(names)) != len(names):
            raise UserError(
                f"--action-names {stated['action_names']}: give different names with commas between them."
            )
        stated["action_names"] = names
    for name in ("action_kind", "action_unit", "action_frame"):
        if name in stated and not stated[name].strip():
            raise UserError(f"{_WORDS[name][0]} must not be empty.")
    if "period" in stated and not 0 < stated["period"] < math.inf:
        raise UserError(f"--period must be a positive number of seconds, it is {stated['period']}.")
    if stated.get("block", 1) < 1:
        raise UserError(f"--block must be positive, it is {stated['block']}.")
    _check_limits(stated)
    return stated


def _check_limits(stated: dict) -> None:
    low, high = (stated.get(f"action_{end}") for end in ("low", "high"))
    if low is None and high is None:
        return
    names = stated.get("action_names", low or high)
    if low is None or high is None or not len(low) == len(high) == len(names):
        raise UserError("--action-low and --action-high must both have a number for each action.")
    if not all(-math.inf < a < b < math.inf for a, b in zip(low, high, strict=True)):
        raise UserError(f"--action-low {low} must be below --action-high {high}, and both finite.")


def combine(stated: dict, options: dict, where: str) -> dict:
    """Return the attributes that ``where`` states with those of ``options``; UserError where they differ."""
    for name, value in options.items():
        told = stated.get(name, value)
        same = _same(told, value)
        if not same:
            raise UserError(
                f"{where} says {_WORDS[name][1]} {told!r}, {_WORDS[name][0]} says {value!r}: "
                f"leave out {_WORDS[name][0]}."
            )
    return {**stated, **options}


def _same(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    numbers = isinstance(a, int | float) and isinstance(b, int | float)
    return math.isclose(a, b, rel_tol=1e-6) if numbers else a == b


def require(known: dict, where: str) -> None:
    """Raise UserError, naming the options, where ``known`` lacks something that a model needs."""
    missing = [words for name, words in NEEDED.items() if name not in known]
    if missing:
        what = _listed([words for _, words in missing])
        options = _listed([option for option, _ in missing])
        raise UserError(f"{where} does not say the {what} of its actions: give {options}.")


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
