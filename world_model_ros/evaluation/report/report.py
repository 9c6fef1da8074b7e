"""The ``report`` verb: everything known about a checkpoint on one page that opens without a network."""

import argparse
import os
import shlex
import tempfile
from datetime import datetime
from pathlib import Path

import torch

from world_model_ros.errors import UserError
from world_model_ros.evaluation.files import check_target
from world_model_ros.evaluation.open_loop import open_loop
from world_model_ros.evaluation.report import plots, sections, success
from world_model_ros.evaluation.report.imagination import dream, encode_recordings, episodes_to_imagine
from world_model_ros.evaluation.report.inputs import CLOSED_LOOP, Inputs, read_inputs
from world_model_ros.evaluation.report.page import Html, Section, code, document, join, paragraph, tag
from world_model_ros.evaluation.report.rollouts import FILMS, film_rollouts, read_script
from world_model_ros.evaluation.report.shapes import check_results
from world_model_ros.model.checkpoint import load_checkpoint
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.model.lewm import LeWorldModel
from world_model_ros.model.shipped import find_checkpoint
from world_model_ros.provenance import source_commit
from world_model_ros.sim import TASKS
from world_model_ros.sim.worlds import protocols_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--checkpoint", required=True, help="folder or shipped model")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the HTML file to write")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder with files of `evaluate --json`")
    parser.add_argument("--run", type=Path, metavar="DIR", help="folder of the training run, for its curves")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="the training's episode file (default: fresh ones)"
    )
    parser.add_argument("--task", choices=TASKS, help="default: the checkpoint's")
    parser.add_argument("--films", type=int, default=FILMS, help="problems to film, 0 for none")


def run(arguments: argparse.Namespace) -> int:
    """Measure what only a simulator shows, write the page; UserError for bad input."""
    _check(arguments)
    plots.require_matplotlib()
    torch.set_num_threads(1)
    folder = find_checkpoint(arguments.checkpoint)
    model, spec = load_checkpoint(folder)
    task = arguments.task or _task(spec)
    inputs = read_inputs(arguments.results, arguments.run, task, spec)
    name = folder.resolve().name
    filled = _sections(arguments, folder, model, spec, task, inputs)
    page = document(
        f"{name}: world model report",
        _head(name, task, model, spec, inputs),
        [*(s for s in filled if s.body is not None), *_missing(filled), _how(arguments, spec, inputs)],
    )
    write_atomically(arguments.out, page)
    print(f"report: {arguments.out} ({len(page.encode()) / 1e6:.1f} MB)")
    return 0


def write_atomically(path: Path, page: str) -> None:
    """Write a file whole or not at all; UserError where that cannot be done."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}-", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(page)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): choose another place.") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _check(arguments: argparse.Namespace) -> None:
    check_target("--out", arguments.out)
    if arguments.films < 0:
        raise UserError(f"--films must not be negative, it is {arguments.films}.")


def _task(spec: CheckpointSpec) -> str:
    task = spec.training.get("task")
    if task not in TASKS:
        raise UserError(f"the checkpoint does not say its task: give --task, one of {', '.join(TASKS)}.")
    return task


def _sections(
    arguments: argparse.Namespace,
    folder: Path,
    model: LeWorldModel,
    spec: CheckpointSpec,
    task: str,
    inputs: Inputs,
) -> list[Section]:
    """Return the sections in the order of the page; what takes long comes after all that may be refused."""
    closed = inputs.all(*CLOSED_LOOP)
    own = protocols_of(task)[0]
    main, knowledge, surprise, robustness = map(inputs.best, (own, "knowledge", "surprise", "robustness"))
    check_results(*closed, knowledge, surprise, robustness)
    body: dict[str, Html | None] = {"learning": sections.learning_section(inputs.metrics)}
    body["success"] = success.closed_loop_section(closed) if closed else None
    body["robustness"] = robustness and success.robustness_section(robustness)
    body["knowledge"] = knowledge and sections.knowledge_section(knowledge)
    measured = knowledge and knowledge.values["open_loop"]
    body["open-loop"] = measured and sections.open_loop_section(measured, spec, "held-out windows")
    body["surprise"] = surprise and sections.surprise_section(surprise, task, spec)
    script = read_script(task, str(folder), main, arguments.films)
    films = film_rollouts(script) if arguments.films else []
    body["rollouts"] = sections.rollouts_section(films, task, main is not None) if films else None
    recordings, source = episodes_to_imagine(spec, task, arguments.data)
    latents = encode_recordings(model, spec, recordings)
    dreams = dream(model, spec, recordings, latents)
    body["imagination"] = sections.imagination_section(dreams, spec, source) if dreams else None
    if knowledge is None:
        blocks = [torch.from_numpy(r.blocks) for r in recordings]
        found = open_loop(model, latents, blocks, spec.history)
        body["open-loop"] = sections.open_loop_section(found, spec, source) if found["steps"] else None

    def evaluating(protocol: str) -> str:
        file = (arguments.results or Path("results")) / f"{protocol}.json"
        which = ("--task", task, "--checkpoint", arguments.checkpoint, "--protocol", protocol)
        return _command("evaluate", *which, "--json", file)

    order = (
        ("success", "Success", evaluating(own)),
        ("rollouts", "Rollouts", f"the option --films {FILMS}"),
        ("imagination", "Imagination", "longer episodes"),
        ("open-loop", "Error of imagination", evaluating("knowledge")),
        ("knowledge", "What the latents know", evaluating("knowledge")),
        ("surprise", "Surprise", evaluating("surprise")),
        ("robustness", "Robustness", evaluating("robustness")),
        ("learning", "Learning", "the option --run with the folder that `train` wrote"),
    )
    return [Section(name, title, body[name], missing) for name, title, missing in order]


def _head(name: str, task: str, model: LeWorldModel, spec: CheckpointSpec, inputs: Inputs) -> Html:
    training = spec.training
    facts = [
        f"task {task}",
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
        f"{spec.model.encoder} encoder at {spec.image.size} px, latent of {spec.model.latent_dim}",
        f"{training['steps']} steps on {training['episodes']} episodes"
        if {"steps", "episodes"} <= training.keys()
        else None,
    ]
    sentence, figures = success.headline(inputs)
    knows = success.figures_of_the_model(inputs)
    return join(
        part
        for part in (
            tag("h1", name),
            tag("div", " · ".join(fact for fact in facts if fact), class_="muted"),
            sentence,
            _verdict(training.get("worthiness")),
            figures,
            paragraph(knows[0].upper() + knows[1:], class_="note") if knows else None,
        )
        if part is not None
    )


def _verdict(worthiness) -> Html | None:
    if not isinstance(worthiness, dict) or "verdict" not in worthiness:
        return None
    colour = {True: "good", False: "bad"}.get(worthiness.get("fit"), "")
    words = str(worthiness["verdict"])
    return tag("div", tag("strong", "Verdict: "), words.rstrip("."), ".", class_=f"verdict {colour}".strip())


def _missing(filled: list[Section]) -> list[Section]:
    rows = [
        tag("li", f"{s.title}: ", code(s.missing) if s.missing.startswith("python") else s.missing)
        for s in filled
        if s.body is None
    ]
    if not rows:
        return []
    body = join([paragraph("These parts have no input yet; this fills them:"), tag("ul", *rows)])
    return [Section("missing", "Not measured yet", body)]


def _how(arguments, spec: CheckpointSpec, inputs: Inputs) -> Section:
    training = spec.training
    words = ["report", "--checkpoint", arguments.checkpoint, "--out", arguments.out]
    for option in ("results", "run", "data", "task"):
        if getattr(arguments, option) is not None:
            words += [f"--{option}", getattr(arguments, option)]
    if arguments.films != FILMS:
        words += ["--films", arguments.films]
    commands = [training["command"]] if training.get("command") else []
    commands.append(_command(*words))
    rows = [
        f"{r.path.name}: protocol {r.protocol}, seed {r.values.get('seed', '–')}, "
        f"commit {str(r.values.get('commit') or 'unknown')[:12]}, written {r.written:%Y-%m-%d %H:%M}"
        for r in inputs.results
    ]
    made = f"{datetime.now():%Y-%m-%d %H:%M} at commit {source_commit() or 'unknown'}"
    trained = training.get("commit") or "unknown"
    body = join(
        [
            tag("pre", tag("code", "\n".join(commands))),
            paragraph(f"This page was made on {made}; the checkpoint was trained at commit {trained}."),
            tag("ul", *(tag("li", row) for row in rows)) if rows else "",
            tag("ul", *(tag("li", f"Left out: {row}") for row in inputs.ignored)) if inputs.ignored else "",
        ]
    )
    return Section("how", "How this was made", body)


def _command(*words) -> str:
    return shlex.join(["python", "-m", "world_model_ros", *map(str, words)])
