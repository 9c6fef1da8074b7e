"""A contact sheet: a strip of frames of every episode, as pictures or as one HTML page."""

import base64
import html
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from world_model_ros.data.assembly import FAILURE, NO_LABEL, SUCCESS
from world_model_ros.data.atomic import write_text
from world_model_ros.data.curate.checks import seconds_of
from world_model_ros.data.episodes import EpisodeFile
from world_model_ros.errors import UserError

WORDS = {SUCCESS: "success", FAILURE: "failure", NO_LABEL: "none"}
COLOURS = {SUCCESS: (0, 130, 0), FAILURE: (180, 0, 0), NO_LABEL: (90, 90, 90)}  # RGB
PER_PAGE = 50  # episodes of a picture: taller ones are no use on a screen
_MARGIN = 4
_CAPTION = 150  # pixels

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 1em; background: #fff; color: #111 }}
table {{ border-collapse: collapse }}
td {{ padding: 2px 8px; border-bottom: 1px solid #ddd; vertical-align: middle }}
.success {{ color: #080 }} .failure {{ color: #b00 }} .warning {{ color: #a50 }}
img {{ display: block }}
</style></head><body>
<h1>{title}</h1>
<p>{summary}</p>
<table>
{rows}
</table>
</body></html>
"""


def write_sheet(file: EpisodeFile, out: Path, columns: int, height: int, notes: dict[int, list[str]]) -> list:
    """Write a contact sheet to ``out`` (.png, .html); return the paths, of pictures one per ``PER_PAGE``.

    ``columns`` frames of each episode, evenly spaced, ``height`` pixels high. ``notes`` are warnings of an
    episode, shown on the HTML page. Raises UserError where the file cannot be written.
    """
    episodes = tqdm(range(len(file)), desc="sheet", unit="episode", leave=False, disable=None)
    if out.suffix.lower() in (".html", ".htm"):
        rows = [_html_row(file, e, columns, height, notes.get(e, [])) for e in episodes]
        frames = int(file.lengths.sum())
        summary = f"{len(file)} episodes, {frames} frames; {columns} frames of each, from first to last"
        title = html.escape(str(file.path.name))
        write_text(out, _PAGE.format(title=title, summary=summary, rows="\n".join(rows)))
        return [out]
    strips, paths = [], []
    pages = -(-len(file) // PER_PAGE)
    for episode in episodes:
        strips.append(_captioned(file, episode, columns, height))
        if len(strips) == PER_PAGE or episode == len(file) - 1:
            page = len(paths) + 1
            path = out if pages == 1 else out.with_name(f"{out.stem}-{page:0{len(str(pages))}d}{out.suffix}")
            _write_picture(path, np.concatenate(strips))
            paths.append(path)
            strips = []
    return paths


def _write_picture(path: Path, picture: np.ndarray) -> None:
    done, content = cv2.imencode(".png", picture[..., ::-1])
    if not done:
        raise UserError(f"{path}: the sheet cannot be encoded, choose fewer --frames or a smaller --height.")
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"{path} cannot be written ({error.strerror}): free some space there.") from None


def strip(file: EpisodeFile, episode: int, columns: int, height: int) -> np.ndarray:
    """Return ``columns`` evenly spaced frames of an episode side by side, uint8 (height, W, 3), RGB."""
    rows = np.linspace(0, int(file.lengths[episode]) - 1, columns).astype(int)
    frames = [_rgb(file.pixels(episode, slice(int(row), int(row) + 1))[0]) for row in rows]
    width = max(1, round(height * frames[0].shape[1] / frames[0].shape[0]))
    small = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    gap = np.full((height, _MARGIN, 3), 255, np.uint8)
    return np.concatenate([part for frame in small for part in (frame, gap)], axis=1)


def _rgb(frame: np.ndarray) -> np.ndarray:
    """Return a frame (H, W, channels) as uint8 (H, W, 3)."""
    three = frame[..., :3] if frame.shape[-1] >= 3 else np.repeat(frame[..., :1], 3, axis=-1)
    return np.ascontiguousarray(three.astype(np.uint8))


def _captioned(file: EpisodeFile, episode: int, columns: int, height: int) -> np.ndarray:
    label = int(file.labels[episode])
    caption = np.full((height, _CAPTION, 3), 255, np.uint8)
    seconds = seconds_of(file, int(file.lengths[episode]) - 1)
    lines = (
        (f"{episode}", 0.6, (0, 0, 0)),
        (
            f"{file.lengths[episode]} frames, {seconds:.1f} s",
            0.35,
            (0, 0, 0),
        ),
        (WORDS[label] if label != NO_LABEL else "", 0.4, COLOURS[label]),
    )
    for number, (text, size, colour) in enumerate(lines):
        place = (6, round((number + 0.8) * height / 3.2))
        cv2.putText(caption, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
    row = np.concatenate([caption, strip(file, episode, columns, height)], axis=1)
    return np.concatenate([row, np.full((_MARGIN, row.shape[1], 3), 255, np.uint8)])


def _html_row(file: EpisodeFile, episode: int, columns: int, height: int, notes: list[str]) -> str:
    label = WORDS[int(file.labels[episode])]
    picture = strip(file, episode, columns, height)
    _, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    data = base64.b64encode(content.tobytes()).decode()
    seconds = seconds_of(file, int(file.lengths[episode]) - 1)
    words = "<br>".join(html.escape(note) for note in notes)
    return (
        f'<tr id="{episode}"><td>{episode}</td><td>{file.lengths[episode]} frames<br>'
        f'{seconds:.1f} s</td><td class="{label}">'
        f"{label if label != 'none' else ''}</td>"
        f'<td><img loading="lazy" width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'alt="episode {episode}" src="data:image/jpeg;base64,{data}"></td>'
        f'<td class="warning">{words}</td></tr>'
    )


def say_written(paths: list[Path]) -> None:
    """Print where the sheet is."""
    more = "" if len(paths) == 1 else f" to {paths[-1]}, {len(paths)} pages (an .html sheet is one page)"
    print(f"{paths[0]}{more}", file=sys.stdout)
