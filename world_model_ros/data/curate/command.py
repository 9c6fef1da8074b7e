"""The ``episodes`` verb: list, sheet, drop, trim, merge and label. A changed file leaves a backup."""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import numpy as np

from world_model_ros.data.assembly import FAILURE, NO_LABEL, SOURCES, SUCCESS, Assembly, sort_datasets
from world_model_ros.data.atomic import check_target, written
from world_model_ros.data.curate.checks import episode_warnings, idle_ends, seconds_of, summarise_actions
from world_model_ros.data.curate.sheet import WORDS, say_written, write_sheet
from world_model_ros.data.episodes import EpisodeFile, add_episodes
from world_model_ros.data.lock import WriteLock, parts_of
from world_model_ros.data.together import file_differences, layout_differences
from world_model_ros.data.words import plural
from world_model_ros.errors import UserError

LABELS = {"success": SUCCESS, "failure": FAILURE, "none": NO_LABEL}
RECIPE = ("seed", "length")  # of `collect`: its command does not make a file that was changed
LEAST_FRAMES = 2  # of an episode: an action and what came of it
_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(function=function)
        if name != "merge":
            made.add_argument("file", type=Path, metavar="FILE", help="episode file (.h5)")
        return made

    add("list", _list, "print number, frames, seconds, label, source and warnings of each episode")
    sheet = add("sheet", _sheet, "draw a strip of frames of every episode")
    sheet.add_argument(
        "--out", type=Path, required=True, help="sheet.html (one page) or .png (50 episodes a page)"
    )
    sheet.add_argument("--frames", type=int, default=8, help="frames of an episode (default: %(default)s)")
    sheet.add_argument(
        "--height", type=int, default=64, help="height of a frame in pixels (default: %(default)s)"
    )
    drop = add("drop", _drop, "remove episodes; the later ones get lower numbers")
    drop.add_argument("episodes", nargs="+", metavar="N", help="numbers and ranges, such as 3 5 7-9")
    trim = add("trim", _trim, "cut off the idle start and end of episodes, or a number of frames")
    trim.add_argument("episodes", nargs="*", metavar="N", help="numbers and ranges (default: all)")
    trim.add_argument(
        "--idle-speed",
        type=float,
        metavar="V",
        help="actions up to this are idle, in their unit (default: 2 %% of the limits)",
    )
    trim.add_argument("--first", type=int, metavar="N", help="cut off N frames at the start instead")
    trim.add_argument("--last", type=int, metavar="N", help="cut off N frames at the end instead")
    merge = add("merge", _merge, "put the episodes of several files into a new one")
    merge.add_argument("files", nargs="+", type=Path, metavar="FILE", help="episode files (.h5)")
    merge.add_argument("--out", type=Path, required=True, help="episode file to make")
    label = add("label", _label, "label episodes success, failure or none")
    label.add_argument("episodes", nargs="+", metavar="N", help="numbers and ranges, such as 3 5 7-9")
    label.add_argument("label", choices=LABELS)


def run(arguments: argparse.Namespace) -> int:
    """Carry out one action; UserError for anything that does not fit, with the file as it was."""
    arguments.function(arguments)
    return 0


def parse_episodes(words: Iterable[str], file: EpisodeFile) -> list[int]:
    """Return the episodes that words such as "3" and "7-9" name, sorted; UserError for others."""
    found = set()
    for word in filter(None, ",".join(words).split(",")):
        match = _NUMBERS.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if first > last:
            raise UserError(f"{word!r} is no episode: write numbers and ranges, such as 3 5 7-9.")
        if last >= len(file):
            raise UserError(f"{file.path} has episodes 0 to {len(file) - 1}, there is no episode {last}.")
        found.update(range(first, last + 1))
    return sorted(found)


def _opened(path: Path) -> EpisodeFile:
    """Open a file to read it, and say which episodes are not in it yet."""
    file = EpisodeFile(path)
    if file.waiting:
        print(f"note: {file.waiting}", file=sys.stderr)
    return file


@contextlib.contextmanager
def _changing(arguments: argparse.Namespace):
    """Open a file to change it; UserError while another program writes it."""
    with (
        EpisodeFile(arguments.file) as file,
        WriteLock(arguments.file, f"`episodes {arguments.action}`"),
    ):
        yield file


def _list(arguments: argparse.Namespace) -> None:
    with _opened(arguments.file) as file:
        actions, labels = summarise_actions(file), file.labels
        sources = _sources(file)
        width = max(len("source"), *map(len, sources))
        print(f"episode  frames  seconds  label    {'source':<{width}}  warnings")
        for episode, (source, label) in enumerate(zip(sources, labels, strict=True)):
            frames = int(file.lengths[episode])
            notes = ", ".join(episode_warnings(file, actions, episode))
            line = (
                f"{episode:<7}  {frames:>6}  {seconds_of(file, frames - 1):>7.1f}  {WORDS[int(label)]:<7}  "
                f"{source:<{width}}  {notes}"
            )
            print(line.rstrip())


def _sources(file: EpisodeFile) -> list[str]:
    """Return where each episode came from."""
    stored = file._file.get(SOURCES)
    if isinstance(stored, h5py.Dataset) and stored.shape == (len(file),):
        return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in stored[()]]
    return [str(file.attributes.get("source", "unknown"))] * len(file)


def _sheet(arguments: argparse.Namespace) -> None:
    if arguments.out.suffix.lower() not in (".png", ".html", ".htm"):
        raise UserError(f"--out {arguments.out}: a sheet is a .png or an .html file.")
    if not 1 <= arguments.frames <= 100 or not 8 <= arguments.height <= 1000:
        raise UserError("--frames is a number from 1 to 100, --height one from 8 to 1000.")
    check_target("--out", arguments.out)
    with _opened(arguments.file) as file:
        actions = summarise_actions(file)
        notes = {e: episode_warnings(file, actions, e) for e in range(len(file))}
        say_written(write_sheet(file, arguments.out, arguments.frames, arguments.height, notes))


def _drop(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as file:
        dropped = set(parse_episodes(arguments.episodes, file))
        kept = [e for e in range(len(file)) if e not in dropped]
        if not kept:
            raise UserError(f"these are all episodes of {file.path}: delete the file instead.")
        backup = _replace(file, kept)
    print(f"{arguments.file}: {len(dropped)} dropped, {plural(len(kept), 'episode')} left; before: {backup}")


def _trim(arguments: argparse.Namespace) -> None:
    by_number = arguments.first is not None or arguments.last is not None
    if by_number and arguments.idle_speed is not None:
        raise UserError("--idle-speed finds the frames to cut off, --first and --last name them: use one.")
    if by_number and not arguments.episodes:
        raise UserError("--first and --last cut off frames of the episodes that you name, such as 3 5 7-9.")
    if min(arguments.first or 0, arguments.last or 0, arguments.idle_speed or 0) < 0:
        raise UserError("--first, --last and --idle-speed must not be negative.")
    with _changing(arguments) as file:
        chosen = parse_episodes(arguments.episodes, file) or list(range(len(file)))
        actions = summarise_actions(file)
        cut, still = {}, []
        for episode in chosen:
            if by_number:
                ends = arguments.first or 0, arguments.last or 0
            else:
                ends = idle_ends(file, episode, actions, arguments.idle_speed)
            if None in ends:
                still.append(episode)
            elif any(ends):
                cut[episode] = ends
                if file.lengths[episode] - sum(ends) < LEAST_FRAMES:
                    raise UserError(
                        f"{file.path}: episode {episode} has {file.lengths[episode]} frames, after cutting "
                        f"{sum(ends)} nothing would be left: drop it, or cut fewer."
                    )
        if still:
            print(
                f"never moving, left as they are: {' '.join(map(str, still))} (`episodes drop` removes them)"
            )
        if not cut:
            print(f"{file.path}: nothing to cut off, the file is as it was")
            return
        rows = sum(map(sum, cut.values()))
        seconds = seconds_of(file, rows)
        backup = _replace(file, range(len(file)), cut)
    print(
        f"{arguments.file}: {rows} frames ({seconds:.1f} s) cut off {len(cut)} of {len(chosen)} episodes; "
        f"before: {backup}"
    )


def _label(arguments: argparse.Namespace) -> None:
    with _changing(arguments) as file:
        chosen = parse_episodes(arguments.episodes, file)
        labels = file.labels
        labels[chosen] = LABELS[arguments.label]
        backup = _replace(file, range(len(file)), labels=labels)
    counts = ", ".join(f"{int((labels == value).sum())} {word}" for word, value in LABELS.items())
    print(f"{arguments.file}: {counts}; before: {backup}")


def _replace(file: EpisodeFile, kept: Iterable[int], cut: dict | None = None, labels=None) -> Path:
    """Write the episodes ``kept`` instead of ``file``; return the name of the backup.

    The new file replaces the old one when it is complete. Raises UserError where it cannot be written, and
    while a recording of this file is not finished.
    """
    parts = parts_of(file.path)
    if any(parts.glob("episode-*.h5")):
        raise UserError(
            f"{parts} holds episodes that are not in {file.path} yet: finish it with the command that began "
            f"it, or with `record --finish --out {file.path}`."
        )
    path = file.path.resolve()  # of a link, the file and not the link is replaced
    backup = _backup_name(path)
    with _readable(file.path), written(path, f"{file.path} is as it was", backup) as (out, check):
        assembly = Assembly(out, check)
        add_episodes(assembly, file, kept, cut)
        if labels is not None:
            assembly.labels = [int(label) for label in labels]
        else:
            _forget_recipe(out)
        assembly.close()
    return backup


def _backup_name(path: Path) -> Path:
    """Return FILE.bak, or where that exists, FILE.1.bak, FILE.2.bak and so on."""
    names = [path.with_name(f"{path.name}.bak")]
    while names[-1].exists():
        names.append(path.with_name(f"{path.name}.{len(names)}.bak"))
    return names[-1]


@contextlib.contextmanager
def _readable(path: Path):
    """Turn what HDF5 raises for damaged contents into a UserError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read completely ({error}): copy a damaged file again, install hdf5plugin for "
            "one compressed with Blosc; nothing was changed."
        ) from None


def _forget_recipe(out: h5py.File) -> None:
    for name in RECIPE:
        out.attrs.pop(name, None)


def _merge(arguments: argparse.Namespace) -> None:
    if len(arguments.files) < 2:
        raise UserError("merge needs two files or more: episodes merge A.h5 B.h5 --out C.h5.")
    check_target("--out", arguments.out)
    if arguments.out.exists():
        raise UserError(f"--out {arguments.out} exists: choose another name, or delete it.")
    with WriteLock(arguments.out, "`episodes merge`"):
        _write_merged(arguments)


def _write_merged(arguments: argparse.Namespace) -> None:
    files: list[EpisodeFile] = []
    try:
        for path in arguments.files:
            files.append(_opened(path))
        _check_mergeable(files)
        with _readable(arguments.out), written(arguments.out, "all files are as they were") as (out, check):
            assembly = Assembly(out, check)
            sources = []
            for file in files:
                add_episodes(assembly, file, range(len(file)))
                sources += [f"{file.path.name} {e}: {s}" for e, s in enumerate(_sources(file))]
            _merge_attributes(out, [file._file for file in files])
            assembly.close()
            if SOURCES in out:
                del out[SOURCES]
            out.create_dataset(SOURCES, data=sources, dtype=h5py.string_dtype())
    finally:
        for file in files:
            file.close()
    episodes = " + ".join(str(len(file)) for file in files)
    print(f"{arguments.out}: {episodes} = {len(sources)} episodes")


def _check_mergeable(files: list[EpisodeFile]) -> None:
    """Raise UserError where files do not fit into one, with the values of both."""
    first = files[0]
    if len({file.path.resolve() for file in files}) < len(files):
        raise UserError("a file is named twice: its episodes would be in the merged one twice.")
    for file in files[1:]:
        differing = file_differences(first, file) + layout_differences(first, file)
        if differing:
            raise UserError(
                f"{first.path} and {file.path} cannot be merged: {'; '.join(differing)}. Convert or record "
                "one of them like the other."
            )
        for name in sort_datasets(first._file, len(first._file["pixels"]), len(first))[2]:
            here, there = first._file[name], file._file.get(name)
            if not isinstance(there, h5py.Dataset) or not np.array_equal(here[()], there[()]):
                raise UserError(
                    f"{first.path} and {file.path} cannot be merged: they differ in {name}, which belongs to "
                    "the whole file."
                )


def _merge_attributes(out: h5py.File, files: list[h5py.File]) -> None:
    """Keep the attributes that all files share, and of ``source`` all values."""
    sources = list(dict.fromkeys(str(f.attrs.get("source", "unknown")) for f in files))
    for name in list(out.attrs):
        values = [f.attrs.get(name) for f in files]
        # limits of single precision may differ a little, as in `file_differences`
        close = name.startswith("action_") or name == "period"
        if not close and not all(np.array_equal(values[0], value) for value in values[1:]):
            del out.attrs[name]
            if name not in ("source", *RECIPE):
                print(f"note: the attribute {name} is left out: the files differ in it")
    for name in filter(lambda n: n.startswith("action_") or n in ("period", "block"), files[0].attrs):
        out.attrs[name] = files[0].attrs[name]
    if len(sources) > 1:
        out.attrs["source"] = "; ".join(sources)
    _forget_recipe(out)
