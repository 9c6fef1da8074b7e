"""The parts of the page about the model itself: learning, knowledge, imagination, surprise, rollouts."""

import math

import numpy as np

from world_model_ros.evaluation.report import plots
from world_model_ros.evaluation.report.imagination import Dream
from world_model_ros.evaluation.report.inputs import Result, finite
from world_model_ros.evaluation.report.page import Html, figure, image, join, paragraph, table, tag
from world_model_ros.evaluation.report.rollouts import Film, encode_picture
from world_model_ros.evaluation.report.success import number, share
from world_model_ros.evaluation.surprise import example_pictures
from world_model_ros.model.config import CheckpointSpec
from world_model_ros.sim.worlds import PUSHED, REACHED, TURNED

_GOALS = {
    "reach": f"the tip of the stick is within {100 * REACHED:.0f} cm of its place",
    "push": f"the block is within {100 * PUSHED:.0f} cm and {math.degrees(TURNED):.0f} degrees of its pose",
}
_AROUND = 4  # frames shown before and after an event


def rollouts_section(films: list[Film], task: str, measured: bool) -> Html:
    """Return the films, each with its goal and what became of it."""
    speed = films[0].speed
    first = sum(not film.extra for film in films)
    chosen = f"The first {first} problems of the task's own protocol, not chosen ones"
    if any(film.extra for film in films):
        chosen += ", then some that ended otherwise when they were measured"
    pace = "in real time" if speed == 1 else f"{speed:g} times as fast"
    intro = (
        f"{chosen}. Left what the robot does, {pace}; right the only thing it is told: a picture of the goal."
    )
    caption = (
        f"Reached means: {_GOALS[task]}. The line under a film is its time, green while the goal is reached; "
        "good looks like green lines that stay green to the end."
        + ("" if measured else " Drawn with seed 0 and the planner's default settings.")
    )
    cards = tag("div", *(_card(film) for film in films), class_="films")
    return join([paragraph(intro), tag("figure", cards, tag("figcaption", caption))])


def _card(film: Film) -> Html:
    outcome = film.outcome
    if outcome.success:
        verdict = tag("span", f"reached after {film.seconds:.1f} s", class_="reached")
        verdict = verdict if outcome.success_at_end else join([verdict, ", then left again"], "")
    else:
        verdict = tag("span", "not reached", class_="failed")
    name = f"Problem {outcome.index}" + (" (chosen)" if film.extra else "")
    ends = [f"{1e3 * distance:.0f} mm" for distance in (outcome.start_distance, outcome.final_distance)]
    if film.turned is not None:
        ends = [f"{end} and {angle:.0f}°" for end, angle in zip(ends, film.turned, strict=True)]
    distances = f"{ends[0]} away at first, {ends[1]} at the end."
    became = "reached" if outcome.success else "not reached"
    moving = image(film.moving, f"Film of problem {outcome.index}: {became}", still=film.still)
    goal = tag(
        "div", image(film.goal, f"Goal of problem {outcome.index}"), tag("span", "goal"), class_="goal"
    )
    return tag(
        "figure",
        tag("div", tag("div", moving), goal, class_="pair"),
        tag("figcaption", name, ": ", verdict, ". ", distances),
        class_="film",
    )


def learning_section(metrics: list[dict]) -> Html | None:
    """Return the learning curves; None where nothing is noted yet."""
    training = [row for row in metrics if finite(row.get("prediction")) is not None]
    validation = [{"step": row["step"], **row["validation"]} for row in metrics if "validation" in row]
    if not training:
        return None
    caption = (
        "Strong lines are held-out episodes, faint ones the training's batches. Good looks like an error "
        "far below copying that still falls or has levelled off, held-out and training lines together, and "
        "a rank that rises: a rank that falls towards 1 is a collapse."
    )
    last = f"{training[-1]['step']} steps"
    if validation and (ratio := finite(validation[-1].get("ratio"))) is not None:
        last += f"; the held-out error of one step is {ratio:.3f} of copying"
    return join(
        [figure(plots.learning_curves(training, validation), caption), paragraph(last + ".", class_="note")]
    )


def knowledge_section(result: Result) -> Html:
    """Return probes as bars, and true against predicted."""
    values = result.values
    parts = [
        figure(
            plots.probe_bars(values["probes"]),
            "How well a small regression reads a quantity from the latent, from the pixels shrunk to 16 x "
            "16, and from the same encoder untrained. 1 is perfect, 0 as good as guessing the mean; good "
            "looks like latents near 1 and above both others, with the linear probe too.",
        )
    ]
    if values.get("scatter"):
        caption = "Held-out frames, read by the MLP probe. Good looks like points on the line."
        parts.append(figure(plots.scatter(values["scatter"]), caption))
    episodes = values.get("episodes", {})
    if {"fitted_frames", "judged_frames"} <= episodes.keys():
        parts.append(
            paragraph(
                f"Fitted on {episodes['fitted_frames']} frames ({episodes.get('fitted_on', '–')}), judged on "
                f"{episodes['judged_frames']} ({episodes.get('judged_on', '–')}).",
                class_="note",
            )
        )
    return join(parts)


def open_loop_section(found: dict, spec: CheckpointSpec, source: str) -> Html:
    """Return error against copy; ``found`` as evaluation.open_loop returns it."""
    caption = (
        f"From a full history the model imagines on without looking ({source}). Good looks like a blue line "
        "close to the ground: far below copying, and growing slowly."
    )
    drawn = plots.open_loop(found["steps"], found["error"], found["copy"], spec.period * spec.block)
    return figure(drawn, caption)


def imagination_section(dreams: list[Dream], spec: CheckpointSpec, source: str) -> Html:
    """Return what was seen and what was imagined, frame under frame."""
    seconds = spec.period * spec.block
    strips = [_strip(dream, number, seconds) for number, dream in enumerate(dreams, 1)]
    caption = (
        "The model sees frames up to 'now' and the actions that follow, nothing else. Under every real "
        "frame, from other episodes, the frame whose latent is nearest to the real one (what a perfect "
        "imagination would find) and to the imagined one. This is a nearest neighbour, not a decoder: it "
        "can only show what the other episodes hold. The numbers are the squared error over that of copying "
        "'now'. Good looks like a third row that follows the first, and small numbers."
    )
    intro = (
        f"The first {len(dreams)} of {source}, each from the moment on in which most happens, "
        f"{seconds:g} s from frame to frame."
    )
    return join([paragraph(intro), tag("figure", *strips, tag("figcaption", caption))])


def _strip(dream: Dream, number: int, seconds: float) -> Html:
    columns = len(dream.real)
    cells = [tag("span", f"episode {number}", class_="row")]
    cells += [tag("span", "now" if k == 0 else f"+{k * seconds:.2f} s") for k in range(columns)]
    for title, name, frames in (
        ("seen", "real frame", dream.real),
        ("nearest to seen", "nearest neighbour of the real latent", dream.nearest_real),
    ):
        cells.append(tag("span", title, class_="row"))
        cells += [_picture(frame, f"Episode {number}, {name}, step {k}") for k, frame in enumerate(frames)]
    cells += [tag("span", "nearest to imagined", class_="row"), tag("span")]
    cells += [
        _picture(frame, f"Episode {number}, nearest neighbour of the imagined latent, step {k}", "imagined")
        for k, frame in enumerate(dream.nearest_imagined, 1)
    ]
    cells += [tag("span", "error / copy", class_="row"), tag("span")]
    cells += [tag("span", f"{ratio:.3f}") for ratio in dream.ratio]
    return tag(
        "div", *cells, class_="strip", style=f"grid-template-columns: 86px repeat({columns}, minmax(0, 1fr))"
    )


def surprise_section(result: Result, task: str, spec: CheckpointSpec) -> Html:
    """Return scores by kind of event, a table, and one episode over time with its pictures."""
    values = result.values
    threshold = finite(values.get("threshold"))
    scores = {"normal": values["scores"]["normal"], **values["scores"]}
    parts = [
        figure(
            plots.surprise_scores({k: v for k, v in scores.items() if len(v)}, threshold),
            "One dot is one model step, an upright line the median. Good looks like normal steps left of the "
            "threshold, events right of it; 'replaced' takes the scene apart and puts it together again "
            "and must look normal.",
        ),
        _surprise_table(values),
    ]
    if isinstance(values.get("example"), dict):
        parts.append(_example(values["example"], task, spec, threshold))
    return join(parts)


def _surprise_table(values: dict) -> Html:
    detected, medians = values.get("detected") or {}, values.get("medians") or {}
    counts = values.get("counts") or {}
    normal = finite(medians.get("normal"))
    rows = []
    for kind, area in values["auroc"].items():
        median = finite(medians.get(kind))
        times = None if not normal or median is None else median / normal
        rows.append(
            [
                kind.replace("_", " "),
                counts.get(kind, "–"),
                number(area, "{:.3f}"),
                share(detected.get(kind)),
                number(times, "{:.1f}"),
            ]
        )
    head = ["event", "n", "AUROC", "above the threshold", "median, times a normal step"]
    parts = [table(head, rows, numbers=(1, 2, 3, 4))]
    alarms, holds = values.get("false_alarms"), values.get("holds")
    if isinstance(alarms, dict):
        stopped = ""
        if isinstance(holds, dict):
            stopped = f"; monitor_node would have stopped the robot {holds['holds']} times"
        parts.append(
            paragraph(
                f"False alarms: {alarms['alarms']} of {alarms['steps']} normal steps{stopped}. AUROC is the "
                "chance that an event surprises more than a normal step does: 1 is perfect, 0.5 is blind.",
                class_="note",
            )
        )
    return join(parts)


def _example(example: dict, task: str, spec: CheckpointSpec, threshold: float | None) -> Html:
    seconds = spec.period * spec.block
    event_frame = int(example["step"]) + 1  # the first that shows it
    pictures = example_pictures(task, example)
    rows = range(max(0, event_frame - _AROUND), min(len(pictures), event_frame + _AROUND))
    cells = [tag("span", f"{k * seconds:.2f} s") for k in rows]
    cells += [
        _picture(pictures[k], f"Frame at {k * seconds:.2f} s", "event" if k == event_frame else None)
        for k in rows
    ]
    strip = tag(
        "div", *cells, class_="strip", style=f"grid-template-columns: repeat({len(rows)}, minmax(0, 1fr))"
    )
    kind = str(example.get("kind", "event")).replace("_", " ")
    drawn = plots.surprise_over_time(
        int(example["first_frame"]), np.asarray(example["scores"], float), event_frame, threshold, seconds
    )
    peak = "a peak" if threshold is None else "a peak above the threshold"
    caption = (
        f"One episode with the event '{kind}', framed in red where it is first seen. Good looks like {peak} "
        "there and nowhere else."
    )
    return join([tag("h3", "Surprise over time"), figure(join([drawn, strip]), caption)])


def _picture(frame: np.ndarray, alt: str, class_: str | None = None) -> Html:
    return image(encode_picture(np.ascontiguousarray(frame)), alt, class_=class_)
