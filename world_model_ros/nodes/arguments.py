"""Checks a node's command line and parameter files: ROS ignores names that it does not know.

Imports no ROS.
"""

import difflib
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from world_model_ros.errors import UserError
from world_model_ros.nodes.parameters import NUMBERS, PARAMETERS

# Parameters that every node has, from rclpy itself.
BUILT_IN = re.compile(r"use_sim_time|start_type_description_service|qos_overrides\..*")
LOG_LEVELS = ("debug", "info", "warn", "error", "fatal", "unset")
SECTION = "ros__parameters"
NEAR = 0.8  # how alike a section's name is to a node's name for it to be meant
_WILD = ("*", "**")
RENAMED = {  # old name -> new name
    "doubtful_steps": "trigger_steps",
    "calm_steps": "clear_steps",
    "patience": "lockstep_timeout",
}


def usage(node: str) -> str:
    """Return what `--help` prints: how to give parameters, and which there are."""
    lines = [
        f"usage: ros2 run world_model_ros {node} [--ros-args -p PARAMETER:=VALUE "
        "--params-file FILE -r TOPIC:=OTHER]",
        "",
        "parameters:",
    ]
    for p in PARAMETERS[node]:
        shown = str(p.default).lower() if isinstance(p.default, bool) else p.default
        default = f" (default: {shown})" if p.default not in ("", ()) else ""
        lines += textwrap.wrap(
            f"{p.name:<22}  {p.description}{default}", 100, initial_indent="  ", subsequent_indent=" " * 26
        )
    return "\n".join(lines)


def quoted(value: str | Path) -> str:
    """Return a text as YAML for `-p NAME:=...`, which else may take it for a number or a list."""
    return "'" + str(value).replace("'", "''") + "'"


def check(node: str, words: list[str]) -> None:
    """Raise UserError for command line ``words`` that ``node``, such as command_node, cannot use."""
    options = _ros_options(words)
    name, namespace = node, "/"
    for rule in options["remap"]:
        target, _, value = rule.partition(":=")
        whose, _, target = target.rpartition(":")
        if whose in ("", node):
            name = value if target in ("__node", "__name") else name
            namespace = value if target == "__ns" else namespace
    for level in options["log-level"]:
        check_log_level(level.rpartition(":=")[2])
    for rule in options["param"]:
        parameter = rule.partition(":=")[0]
        whose, _, parameter = parameter.rpartition(":")
        if whose not in ("", name):
            _check_section(whose, f"-p {rule}")
        else:
            _check_name(parameter, (node,), f"-p {rule}")
            _check_number(parameter, _value(rule.partition(":=")[2]), (node,), "-p")
    for file in options["params-file"]:
        check_file(Path(file), {node: f"{namespace.rstrip('/')}/{name}"})


def check_log_level(level: str) -> None:
    """Raise UserError for a level that ROS does not know."""
    if level.lower() not in LOG_LEVELS:
        raise UserError(f"log_level is {level!r}: choose one of {', '.join(LOG_LEVELS[:-1])}.")


def check_file(file: Path, nodes: dict[str, str]) -> None:
    """Raise UserError for names in a parameter file that would be ignored.

    ``nodes`` has node -> its full name, of those that are started with the file. A section with a wildcard
    may have what any node of this package knows.
    """
    content = _read(file)
    sections = list(_sections(content))
    if content and SECTION not in str(content):
        raise UserError(f"{file} has no parameters of nodes: give a copy of config/robot_arm.yaml.")
    for path, parameters in sections:
        where = f"{file}, section {path}"
        name = path.rpartition("/")[2]
        whose = [node for node, full in nodes.items() if _matches(path, full)]
        if name in _WILD:
            whose = list(PARAMETERS)
        elif not whose:
            _check_section(name, where)
        for parameter, value in parameters.items() if whose else ():
            _check_name(parameter, whose, where)
            _check_number(parameter, value, whose, where)
    for full in nodes.values():
        named = [path for path, _ in sections if path.rpartition("/")[2] == full.rpartition("/")[2]]
        if named and not any(_matches(path, full) for path in named):
            raise UserError(
                f"{file} has no section for {full}, only {', '.join(named)}: name it "
                f"/**/{full.rpartition('/')[2]}, which fits every namespace."
            )


def explain(error: Exception) -> str:
    """Return rcl's error about the command line as a sentence."""
    text = re.sub(r",? at /\S+:\d+", "", str(error)).removeprefix("failed to initialize rcl: ").rstrip(" ,.")
    if "same type" in text:
        text += ": write every number of a list with a decimal point, such as 0.0"
    return f"{text}."


def _ros_options(words: list[str]) -> dict[str, list[str]]:
    """Return the values of the options between --ros-args and --."""
    short = {"-p": "param", "-r": "remap"}
    options: dict[str, list[str]] = {name: [] for name in ("param", "remap", "params-file", "log-level")}
    inside, rest = False, iter(words)
    for word in rest:
        if word in ("--ros-args", "--"):
            inside = word == "--ros-args"
            continue
        name = short.get(word, word.removeprefix("--"))
        if inside and name in options:
            options[name].append(next(rest, ""))
    return options


def _value(text: str):
    from world_model_ros.plain_yaml import NotPlainError, parse

    try:
        return parse(text)
    except NotPlainError:
        return text


def _read(file: Path) -> dict:
    from world_model_ros.plain_yaml import NotPlainError, read

    try:
        tree = read(file)
    except OSError as error:
        raise UserError(f"cannot read the parameter file {file}: {error.strerror}.") from None
    except NotPlainError as error:
        line = f", line {error.line}" if error.line else ""
        raise UserError(f"the parameter file {file}{line} is not YAML: {error.problem}.") from None
    return tree if isinstance(tree, dict) else {}


def _sections(tree: dict, above: str = "") -> Iterator[tuple[str, dict]]:
    """Yield the full name and the {parameter: value} of every section."""
    for key, value in tree.items():
        path = f"{above}/{str(key).strip('/')}"
        if isinstance(value, dict):
            if isinstance(value.get(SECTION), dict):
                yield path, dict(_flat(value[SECTION]))
            yield from _sections({k: v for k, v in value.items() if k != SECTION}, path)


def _flat(tree: dict, above: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _matches(path: str, full: str) -> bool:
    """Return whether a section is for the node with this full name."""
    parts = {"**": r"(/[^/]+)*", "*": r"/[^/]+"}
    pattern = "".join(parts.get(part, "/" + re.escape(part)) for part in path.strip("/").split("/"))
    return re.fullmatch(pattern, full) is not None


def _check_section(name: str, where: str) -> None:
    """Refuse a section whose name is nearly a node's; other nodes may have theirs in the same file."""
    if name in PARAMETERS:
        return
    near = difflib.get_close_matches(name, PARAMETERS, 1, NEAR)
    near = near or [node for node in PARAMETERS if name == node.removesuffix("_node")]
    if near:
        raise UserError(
            f"{where}: there is no {name}, did you mean {near[0]}? Where it is a node of another package, "
            "give its section a file of its own."
        )


def _check_name(parameter: str, whose, where: str) -> None:
    known = {p.name for node in whose for p in PARAMETERS[node]}
    if parameter in known or BUILT_IN.fullmatch(parameter):
        return
    others = [node for node, of in PARAMETERS.items() if any(p.name == parameter for p in of)]
    if others:
        raise UserError(
            f"{where}: {', '.join(whose)} has no parameter {parameter}, {', '.join(others)} has: "
            "move it there."
        )
    new = RENAMED.get(parameter)
    near = [new] if new in known else difflib.get_close_matches(parameter, known, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
    raise UserError(f"{where}: there is no parameter {parameter}, {hint}")


def _check_number(parameter: str, value, whose, where: str) -> None:
    """Refuse a whole number where a number with a decimal point is needed, which ROS takes for another type.

    Of a list with both kinds ROS would not even name the parameter.
    """
    known = {p.name: p for node in whose for p in PARAMETERS[node]}.get(parameter)
    if known is None:
        return
    numbers = value if known.default is NUMBERS and isinstance(value, list) else [value]
    if type(known.default) in (float, tuple) and any(type(number) is int for number in numbers):
        raise UserError(f"{where}: {known.problem(value)}.")
