"""The picture of what the model imagines: now, the plan step by step, the goal; below it, standing still.

Pictures are RGB, uint8 (H, W, 3).
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

BACKGROUND, TEXT, DIM = (24, 26, 30), (235, 235, 235), (150, 150, 150)
GOAL, ARRIVAL = (80, 200, 90), (240, 170, 40)  # colours of frames
MISSING = (52, 55, 60)
GAP, LINE, BORDER = 4, 20, 2  # pixels
SCALE = 0.38  # of the font, for tiles of 128 pixels
LEAST = 96  # pixels of a tile below which its caption would not fit


@dataclass(frozen=True)
class Row:
    """One line of tiles under a title. A tile's picture is None where there is none."""

    title: str
    tiles: list[np.ndarray | None]
    captions: list[str]
    frames: dict[int, tuple[int, int, int]]  # tile -> colour of its frame


def two_rows(
    seconds: float,
    camera: np.ndarray | None,
    now: np.ndarray,
    planned: np.ndarray | None,
    still: np.ndarray,
    goal: np.ndarray | None,
    distances: tuple[np.ndarray | None, np.ndarray | None],
    arrival: int,
) -> list[Row]:
    """Return the row of the plan and the row of standing still.

    ``seconds`` is the time between two of the pictures planned (N, ...) and still (N, ...); planned is None
    without a plan. distances are those of the two rows, (N + 1,) each from now on, None without a goal.
    ``arrival`` is the number of model steps until the plan has ended.
    """
    count = len(still)
    blank = [None] * count
    titles = (
        "no plan: is planner_node planning?"
        if planned is None
        else f"plan: ends in {arrival * seconds:.2f} s (marked), then the robot stands still",
        "nothing is done: the robot stands still from now on",
    )
    rows = []
    for which, pictures in enumerate((planned, still)):
        first = "camera" if which == 0 and camera is not None else "now, decoded"
        known = distances[which] if pictures is not None else None
        captions = [_caption(first, known, 0)]
        captions += [_caption(f"+{(k + 1) * seconds:.2f} s", known, k + 1) for k in range(count)]
        tiles = [now if which or camera is None else camera, *(blank if pictures is None else pictures)]
        frames = {}
        if which == 0:
            tiles.append(goal)
            captions.append("no goal" if goal is None else "goal, decoded")
            frames = {} if goal is None else {count + 1: GOAL}
            if planned is not None and 1 <= arrival <= count:
                frames[arrival] = ARRIVAL
        rows.append(Row(titles[which], tiles, captions, frames))
    return rows


def _caption(what: str, distances: np.ndarray | None, index: int) -> str:
    return what if distances is None else f"{what}  d {number(float(distances[index]))}"


def number(value: float) -> str:
    """Return a number in at most five characters, where it is one."""
    if not math.isfinite(value):
        return "?"
    return f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}" if abs(value) < 1e5 else f"{value:.0e}"


def headline(
    distance: float | None, reached: float | None, surprise: float | None, usual: float | None
) -> str:
    """Return the first line: distance to the goal and surprise now, with the checkpoint's thresholds."""
    parts = []
    for name, value, words, threshold in (
        ("distance d", distance, "reached at", reached),
        ("surprise", surprise, "usual up to", usual),
    ):
        text = f"{name} -" if value is None else f"{name} {number(value)}"
        parts.append(text if threshold is None else f"{text} ({words} {number(threshold)})")
    return "     ".join(parts)


def draw(text: str, rows: list[Row], tile: int) -> np.ndarray:
    """Return the picture: ``text``, then the rows, with tiles of ``tile`` pixels a side."""
    tile = max(tile, LEAST)
    columns = max(len(row.tiles) for row in rows)
    width = GAP + columns * (tile + GAP)
    height = LINE + GAP + len(rows) * (2 * LINE + tile + 2 * GAP)
    picture = np.full((height, width, 3), BACKGROUND, np.uint8)
    _write(picture, text, GAP, 0, TEXT)
    top = LINE + GAP
    for row in rows:
        _write(picture, row.title, GAP, top, DIM)
        for column, (shown, caption) in enumerate(zip(row.tiles, row.captions, strict=True)):
            left, above = GAP + column * (tile + GAP), top + LINE
            place = picture[above : above + tile, left : left + tile]
            place[:] = MISSING if shown is None else fitted(shown, tile)
            if column in row.frames:
                corner = (left + tile - 1, above + tile - 1)
                cv2.rectangle(picture, (left, above), corner, row.frames[column], BORDER)
            _write(picture, caption, left, above + tile, TEXT)
        top += 2 * LINE + tile + 2 * GAP
    return picture


def fitted(shown: np.ndarray, tile: int) -> np.ndarray:
    """Return a square picture with ``tile`` pixels a side."""
    larger = shown.shape[0] < tile
    return cv2.resize(shown, (tile, tile), interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)


def square(pixels: np.ndarray) -> np.ndarray:
    """Return the central square of a frame: what the encoder sees of it."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def message_picture(text: str, width: int = 900) -> np.ndarray:
    """Return a picture that has nothing but a sentence, broken into lines."""
    lines, words = [""], text.split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if cv2.getTextSize(longer, cv2.FONT_HERSHEY_SIMPLEX, SCALE, 1)[0][0] > width - 4 * GAP:
            lines.append(word)
        else:
            lines[-1] = longer
    picture = np.full(((len(lines) + 1) * LINE, width, 3), BACKGROUND, np.uint8)
    for index, line in enumerate(lines):
        _write(picture, line, 2 * GAP, LINE // 2 + index * LINE, TEXT)
    return picture


def _write(picture: np.ndarray, text: str, left: int, top: int, colour) -> None:
    place = (left, top + round(0.7 * LINE))
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, SCALE, colour, 1, cv2.LINE_AA)
