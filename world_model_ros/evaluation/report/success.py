"""How often goals are reached: the figures at the top, the closed-loop table, the disturbed one."""

from collections.abc import Iterator
from typing import NamedTuple

from world_model_ros.evaluation.report.inputs import CLOSED_LOOP, Inputs, Result, finite
from world_model_ros.evaluation.report.page import Html, figure, interval_bar, join, paragraph, table, tag
from world_model_ros.evaluation.statistics import wilson_interval

_PROTOCOL_NAMES = {"random": "random problems", "lewm": "LeWM's protocol", "far": "far goals"}
_IN_A_SENTENCE = _PROTOCOL_NAMES | {"lewm": "problems of LeWM's protocol"}
_NO_BREAK = "\u00a0"
_WHEN = {"any": "at some moment", "end": "at the end"}


class Rate(NamedTuple):
    """How often a criterion was met."""

    criterion: str  # "" for the task's own
    when: str  # any or end
    rate: float
    interval: tuple[float, float] | None
    floors: dict[str, float]


def rates(result: Result) -> list[Rate]:
    """Return all success rates of closed-loop results, the task's own criterion first."""
    values = result.values
    found = [_own(values, "any"), _own(values, "end")]
    for name, rate in values.get("criteria", {}).items():
        for when in _WHEN:
            if finite(rate.get(when)) is None:
                continue
            floors = {
                floor: finite(theirs.get("criteria", {}).get(name, {}).get(when))
                for floor, theirs in values.get("floors", {}).items()
            }
            found.append(
                Rate(name, when, float(rate[when]), _pair(rate.get(f"{when}_interval")), _present(floors))
            )
    # A named criterion that is the task's own says it better.
    own = {(r.when, r.rate, r.interval) for r in found[2:]}
    return [r for i, r in enumerate(found) if i > 1 or (r.when, r.rate, r.interval) not in own]


def _own(values: dict, when: str) -> Rate:
    rate_key, interval_key = {
        "any": ("success_rate", "interval"),
        "end": ("success_at_end", "interval_at_end"),
    }[when]
    floors = {name: finite(floor.get(rate_key)) for name, floor in values.get("floors", {}).items()}
    return Rate("", when, float(values[rate_key]), _pair(values.get(interval_key)), _present(floors))


def headline(inputs: Inputs) -> tuple[Html | None, Html | None]:
    """Return the sentence and the small table at the top; None where no closed loop was measured."""
    measured = inputs.all(*CLOSED_LOOP)
    if not measured:
        return None, None
    first = measured[0]
    any_time = _own(first.values, "any")
    floor = any_time.floors.get("random")
    sentence = (
        f"From its camera alone it solves {percent(any_time.rate, any_time.interval)} of {first.values['n']} "
        f"{_IN_A_SENTENCE[first.protocol]}, {_timing(first)}"
        + ("." if floor is None else f"; random actions solve {percent(floor)}.")
    )
    rows = []
    for result in measured:
        own, end = _own(result.values, "any"), _own(result.values, "end")
        planning = result.values.get("planning_ms", {})
        rows.append(
            [
                f"{_PROTOCOL_NAMES[result.protocol]}, {_timing(result)}",
                result.values["n"],
                tag("strong", percent(own.rate, own.interval)),
                percent(end.rate, end.interval),
                ", ".join(f"{name} {percent(rate)}" for name, rate in own.floors.items()) or "–",
                number(planning.get("p50"), "{:.0f} ms"),
            ]
        )
    head = ["", "problems", "success [95 %]", "still there at the end", "floors", "one plan, p50"]
    return paragraph(sentence, class_="lead"), table(head, rows, numbers=(1, 5))


def figures_of_the_model(inputs: Inputs) -> str:
    """Return in a sentence what was measured of the model itself; "" where nothing was."""
    found = []
    knowledge, surprise = inputs.best("knowledge"), inputs.best("surprise")
    if knowledge is not None:
        ahead = knowledge.values["open_loop"]
        if ahead["steps"]:
            at = min(range(len(ahead["steps"])), key=lambda i: abs(ahead["steps"][i] - 5))
            found.append(f"{ahead['steps'][at]} steps ahead its error is {ahead['ratio'][at]:.2f} of copying")
        probes = knowledge.values["probes"].get("mlp", {}).get("latent", {})
        read = ", ".join(f"{name} {number(value, '{:.2f}')}" for name, value in probes.items())
        found += [f"R² read from its latents: {read}"] if read else []
    if surprise is not None:
        areas = surprise.values["auroc"]
        told = ", ".join(
            f"{kind.replace('_', ' ')} {areas[kind]:.2f}"
            for kind in ("teleport", "pass_through", "stuck")
            if finite(areas.get(kind)) is not None
        )
        found += [f"surprise tells from normal steps (AUROC): {told}"] if told else []
    return "; ".join(found) + "." if found else ""


def closed_loop_section(results: list[Result]) -> Html:
    """Return every protocol and criterion with intervals and floors."""
    rows, seen = [], None
    for result in results:
        values = result.values
        for rate in rates(result):
            name = join(
                [
                    tag("strong", _PROTOCOL_NAMES[result.protocol]),
                    tag("div", _timing(result), class_="muted"),
                    tag("div", f"n = {values['n']}, seed {values.get('seed', '–')}", class_="muted"),
                ],
                "",
            )
            rows.append(
                [
                    name if seen is not result else "",
                    (rate.criterion or "the task's own").replace("_", " "),
                    _WHEN[rate.when],
                    percent(rate.rate, rate.interval),
                    interval_bar(rate.rate, rate.interval, rate.floors, good=rate.when == "any"),
                    join((f"{floor} {percent(found)}" for floor, found in rate.floors.items()), ", ") or "–",
                ]
            )
            seen = result
    head = ["protocol", "criterion", "when", "success [95 %]", "0 to 100 %", "floors"]
    caption = (
        "Good looks like bars near the right end, whiskers (95 % Wilson intervals) far away from the hollow "
        "diamonds, which are what policies without a model reach on the same problems, and little lost "
        "between 'at some moment' and 'at the end'."
    )
    return figure(table(head, rows), caption)


def robustness_section(result: Result) -> Html:
    """Return success under every disturbance beside the undisturbed one."""
    rows = []
    for name, level in _levels(result.values["perturbations"]):
        rate, n = finite(level.get("success_rate")), level.get("n")
        if rate is None:
            continue
        interval = _pair(level.get("interval"))
        if interval is None and isinstance(n, int) and n > 0:
            interval = wilson_interval(round(rate * n), n)
        rows.append(
            [
                name.replace("_", " "),
                _plain(level.get("level")),
                "–" if n is None else n,
                percent(rate, interval),
                interval_bar(rate, interval),
                share(level.get("of_clean")),
                share(level.get("success_at_end")),
                number(level.get("drift"), "{:.2f}"),
            ]
        )
    head = ["disturbance", "level", "n", "success [95 %]", "0 to 100 %", "of clean", "at the end", "drift"]
    caption = (
        "The same problems, disturbed. Good looks like bars as long as the undisturbed one; 'of clean' is "
        "the share of the undisturbed success that is left, drift is how far the disturbance alone moves "
        "the latents."
    )
    return figure(table(head, rows, numbers=(2, 5, 6, 7)), caption)


def _timing(result: Result) -> str:
    return "planning while moving" if result.values.get("pipelined", True) else "waiting for each plan"


def percent(rate: float, interval=None) -> str:
    """Return a rate in 0..1 for people."""
    if interval is None:
        return f"{100 * rate:.0f}{_NO_BREAK}%"
    low, high = (f"{100 * bound:.0f}" for bound in interval)
    return f"{percent(rate)}{_NO_BREAK}[{low},{_NO_BREAK}{high}]"


def share(value) -> str:
    """Return a rate that may be missing."""
    found = finite(value)
    return "–" if found is None else percent(found)


def number(value, pattern: str) -> str:
    """Return a number as ``pattern`` says; a dash for anything else."""
    found = finite(value)
    return "–" if found is None else pattern.format(found)


def _levels(perturbations: dict) -> Iterator[tuple[str, dict]]:
    for name, found in perturbations.items():
        for level in found if isinstance(found, list) else [found]:
            yield name, level


def _plain(level) -> str:
    if level is None:
        return ""
    return f"{level:g}" if finite(level) is not None else str(level)


def _pair(interval) -> tuple[float, float] | None:
    if interval is None:
        return None
    low, high = interval
    return float(low), float(high)


def _present(floors: dict) -> dict[str, float]:
    return {name: rate for name, rate in floors.items() if rate is not None}
