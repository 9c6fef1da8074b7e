"""The ``report`` verb: all results of a checkpoint on one HTML page that needs no network."""

import argparse
import importlib
import shlex
from datetime import datetime
from pathlib import Path

import torch

from world_model_ros.data.atomic import check_target, write_text
from world_model_ros.errors import UserError
from world_model_ros.evaluation.probing import open_loop
from world_model_ros.evaluation.recordings import all_frames, encode_frames, per_recording
from world_model_ros.evaluation.report import sections
from world_model_ros.evaluation.report.inputs import Inputs, check_results, finite, read_inputs
from world_model_ros.evaluation.report.pictures import (
    FILMS,
    data_uri,
    episodes_to_imagine,
    film_rollouts,
    imagine,
    read_script,
)
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import CheckpointSpec, find_checkpoint
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.provenance import source_commit
from world_model_ros.sim.tasks import find_task, stated_task, task_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--checkpoint", required=True, help="folder or shipped model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder with files of `evaluate --json`")
    parser.add_argument("--run", type=Path, metavar="DIR", help="folder of the training run, for its curves")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="episode file of the training (default: newly recorded episodes)",
    )
    parser.add_argument(
        "--task", help=f"{', '.join(task_names())}, or module:Class (default: the checkpoint's)"
    )
    parser.add_argument("--films", type=int, default=FILMS, help="number of problems to film; 0: none")


def run(arguments: argparse.Namespace) -> int:
    """Run the simulator for films and rollouts, and write the page. Raises UserError for bad input."""
    _check(arguments)
    torch.set_num_threads(1)
    folder = find_checkpoint(arguments.checkpoint)
    model, spec = load_checkpoint(folder)
    task = arguments.task or _task(spec, arguments.data)
    inputs = read_inputs(arguments.results, arguments.run, task, spec)
    filled = _sections(arguments, folder, model, spec, task, inputs)
    remedies = _remedies(arguments, task)
    page = render(
        name=folder.resolve().name,
        task=task or "none: recorded episodes",
        parameters=sum(p.numel() for p in model.parameters()),
        spec=spec,
        training=spec.training,
        seconds=spec.period * spec.block,
        verdict=verdict(spec.training.get("readiness")),
        sections={
            **filled,
            "missing": {name: remedies[name] for name, view in filled.items() if not view},
            "how": _how(arguments, spec, inputs),
        },
    )
    write_text(arguments.out, page)
    print(f"report: {arguments.out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def render(**values) -> str:
    """Return the page that page.html.j2 makes of ``values``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "number": number, "percent": percent}
    return environment.get_template("page.html.j2").render(values)


def number(value, pattern: str) -> str:
    """Return a number as ``pattern`` says; a dash for anything else."""
    return "–" if finite(value) is None else pattern % value


def percent(rate, interval: tuple[float, float] | None = None) -> str:
    """Return a rate in 0..1 with its interval, without line breaks; a dash for anything else."""
    space = "\u00a0"
    words = number(rate if finite(rate) is None else 100 * rate, f"%.0f{space}%%")
    if interval is None:
        return words
    return words + f"{space}[{100 * interval[0]:.0f},{space}{100 * interval[1]:.0f}]"


def _check(arguments: argparse.Namespace) -> None:
    check_target("--out", arguments.out)
    if arguments.films < 0:
        raise UserError(f"--films must not be negative, it is {arguments.films}.")
    for module, package in (("matplotlib.figure", "matplotlib"), ("jinja2", "Jinja2")):
        try:
            importlib.import_module(module)
        except ImportError:
            raise UserError(f"the report needs {package}: install it with `pip install {package}`.") from None


def _task(spec: CheckpointSpec, data: Path | None) -> str:
    """Return the task that a checkpoint was trained on; "" for none, whose episodes are in ``data``."""
    task = spec.training.get("task") or ""
    if not (task or data):
        names = ", ".join(task_names())
        raise UserError(f"the checkpoint does not say its task: give --task, {names} or module:Class.")
    try:
        return stated_task(task) if task else ""
    except UserError:
        if data is None:
            raise
        return ""  # recorded on a robot, or in a simulation that is not here


def _sections(
    arguments: argparse.Namespace,
    folder: Path,
    model: LeWorldModel,
    spec: CheckpointSpec,
    task: str,
    inputs: Inputs,
) -> dict:
    """Return the values of the sections, in the order of the page. All checks come before the long work."""
    protocols = [*find_task(task).protocols] if task else []
    closed = inputs.all(*protocols)
    own = inputs.best(protocols[0]) if task else None
    probing, surprise, robustness, decoded = map(
        inputs.best, ("probing", "surprise", "robustness", "imagination")
    )
    check_results(*closed, probing, surprise, robustness, decoded)
    filled = dict.fromkeys(
        ("success", "rollouts", "imagination", "open-loop", "probing", "surprise", "robustness", "learning")
    )
    filled["learning"] = sections.learning(inputs.metrics)
    filled["success"] = sections.success(closed)
    filled["robustness"] = robustness and sections.robustness(robustness)
    filled["probing"] = probing and sections.probing(probing)
    measured = probing and probing.values["open_loop"]
    filled["open-loop"] = measured and sections.open_loop(measured, spec, "held-out windows")
    filled["surprise"] = surprise and sections.surprise(surprise, task, spec)
    films = []
    if task:
        script = read_script(task, str(folder), own, arguments.films)
        films = film_rollouts(script) if arguments.films else []
    filled["rollouts"] = sections.rollouts(films, task, measured=own is not None)
    recordings, source = episodes_to_imagine(spec, task, arguments.data)
    latents = per_recording(encode_frames(model, all_frames(recordings), spec), recordings)
    episodes = imagine(model, spec, recordings, latents)
    filled["imagination"] = sections.imagination(episodes, source, model.decoder is not None, decoded)
    if probing is None:
        blocks = [torch.from_numpy(r.blocks) for r in recordings]
        filled["open-loop"] = sections.open_loop(
            open_loop(model, latents, blocks, spec.history), spec, source
        )
    return filled


def _remedies(arguments: argparse.Namespace, task: str) -> dict[str, str]:
    """Return for every section the command or option that fills it."""

    def evaluate(protocol: str) -> str:
        file = (arguments.results or Path("results")) / f"{protocol}.json"
        which = ("--task", task) if task else ("--data", arguments.data)
        which += ("--checkpoint", arguments.checkpoint, "--protocol", protocol)
        return _command("evaluate", *which, "--json", file)

    if not task:
        simulated = "a simulated task (docs/new_task.md)"
        return {
            **dict.fromkeys(("success", "rollouts", "surprise", "robustness"), simulated),
            "imagination": "longer episodes",
            "open-loop": evaluate("probing"),
            "probing": evaluate("probing"),
            "learning": "the option --run with the folder that `train` wrote",
        }

    return {
        "success": evaluate(next(iter(find_task(task).protocols))),
        "rollouts": f"the option --films {FILMS}",
        "imagination": "longer episodes",
        "open-loop": evaluate("probing"),
        "probing": evaluate("probing"),
        "surprise": evaluate("surprise"),
        "robustness": evaluate("robustness"),
        "learning": "the option --run with the folder that `train` wrote",
    }


def verdict(readiness) -> dict | None:
    """Return the result of the readiness check that the training noted; None without one."""
    if not isinstance(readiness, dict) or "verdict" not in readiness:
        return None
    colour = "good" if readiness.get("ready") is True else "bad" if readiness.get("ready") is False else ""
    return {"words": str(readiness["verdict"]).rstrip("."), "colour": colour}


def _how(arguments: argparse.Namespace, spec: CheckpointSpec, inputs: Inputs) -> dict:
    words = ["report", "--checkpoint", arguments.checkpoint, "--out", arguments.out]
    for option in ("results", "run", "data", "task"):
        if getattr(arguments, option) is not None:
            words += [f"--{option}", getattr(arguments, option)]
    if arguments.films != FILMS:
        words += ["--films", arguments.films]
    return {
        "commands": [*filter(None, [spec.training.get("command")]), _command(*words)],
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "commit": source_commit() or "unknown",
        "trained": spec.training.get("commit") or "unknown",
        "results": [
            f"{r.path.name}: protocol {r.protocol}, seed {r.values.get('seed', '–')}, "
            f"commit {str(r.values.get('commit') or 'unknown')[:12]}, written {r.written:%Y-%m-%d %H:%M}"
            for r in inputs.results
        ],
        "ignored": inputs.ignored,
    }


def _command(*words) -> str:
    return shlex.join(["python", "-m", "world_model_ros", *map(str, words)])
