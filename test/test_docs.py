"""What README and docs name exists: links, pictures, verbs, options, make's targets, launch arguments, files.

A code block is a command for each line; a text in backticks counts too, where it begins like a command.
"""

import ast
import contextlib
import functools
import importlib.util
import io
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import cv2
import pytest

from world_model_ros.cli import VERBS, verb_parser
from world_model_ros.nodes.__main__ import NODES

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("models/*/card.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"(!?)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
PLACEHOLDERS = {"S", "N", "TASK", "FILE", "NAME", "E", "I", "P", "FOLDER_OR_FILE", "..."}
OTHERS_OPTIONS = {"--system-site-packages", "--help", "--debug"}
README_LINES = 120  # of prose


@functools.cache
def reference():
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parser_of = functools.cache(verb_parser)


def options_of(parser):
    return {
        *(name for action in parser._actions for name in action.option_strings),
        *(name for sub in reference().subcommands(parser).values() for name in options_of(sub)),
    }


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    found, text = [], FENCE.sub("", page.read_text())
    for heading in re.findall(r"^#{1,6} (.+)$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def link_problems(page):
    for picture, target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: {file.name} has no such heading"
        elif picture and not is_picture(file):
            yield f"{target} is no picture"


def is_picture(file):
    if file.suffix == ".svg":
        return ET.parse(file).getroot().tag.endswith("svg")
    return cv2.imread(str(file)) is not None


def commands(page):
    """Return (words of a command, whether it is complete) for each command on a page."""
    text = page.read_text()
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            for line in block.replace("\\\n", " ").split("\n"):
                with contextlib.suppress(ValueError):  # a quote that is not closed: output, no command
                    yield shlex.split(line, comments=True), True
    for span in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        with contextlib.suppress(ValueError):
            yield shlex.split(span), False


def command_problems(words, complete):
    """Return what is wrong with a command of this package; nothing for other commands."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if not words:
        return []
    if words[0] == "make" and len(words) > 1:
        return make_problems(words[1:])
    if words[:3] == ["ros2", "launch", "world_model_ros"] and len(words) > 3:
        return launch_problems(words[3], words[4:])
    if words[:3] == ["ros2", "run", "world_model_ros"] and len(words) > 3 and words[3] != "wm":
        return [] if words[3] in NODES else [f"ros2 run: there is no {words[3]}"]
    module = next((word for word in words if re.fullmatch(r"world_model_ros\.[\w.]+", word)), None)
    if module and "-m" in words:
        return [] if importlib.util.find_spec(module) else [f"there is no module {module}"]
    if words[:4] == ["ros2", "run", "world_model_ros", "wm"]:
        rest = words[4:]
    elif "world_model_ros" in words[1:] and "-m" in words:
        rest = words[words.index("world_model_ros") + 1 :]
    elif words[0] == "W" or (not complete and words[0] in VERBS and any(w[0] == "-" for w in words[1:] if w)):
        rest = words if words[0] in VERBS else words[1:]
    else:
        return []
    return verb_problems(rest, complete)


def verb_problems(words, complete):
    if not words or words[0].startswith("-") or words[0] in PLACEHOLDERS | {"VERB", "<verb>"}:
        return []
    verb, *given = words
    if verb not in VERBS:
        return [f"there is no verb {verb}"]
    parser = parser_of(verb)
    names = (word.partition("=")[0] for word in given if re.match(r"-{1,2}[a-z]", word))
    known = options_of(parser) | {"--help", "--debug"}
    unknown = [f"{verb} has no option {name}" for name in names if name not in known]
    if unknown or not complete or PLACEHOLDERS & set(given):
        return unknown
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parser.parse_args(given)
    except SystemExit:
        return [said.getvalue().strip().splitlines()[-1]]
    return []


def make_problems(words):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.M))
    return [
        f"make has no {word}"
        for word in words
        if ("=" in word and word.partition("=")[0] not in variables)
        or ("=" not in word and word not in targets)
    ]


def launch_problems(file, words):
    declared = reference().launch_arguments()
    if file in PLACEHOLDERS:
        return []
    if file not in declared:
        return [f"there is no launch file {file}"]
    names = {name for name, _, _ in declared[file]}
    given = [word.partition(":=")[0] for word in words if ":=" in word]
    return [f"{file} has no argument {name}" for name in given if name not in names]


def name_problems(page):
    """Return the files of this package in backticks that are not there, and ``--options`` of no verb."""
    text = FENCE.sub("", page.read_text())
    for span in re.findall(r"`([^`\s]+)`", text):
        path = span.removeprefix("share/world_model_ros/")
        if (
            re.match(r"(config|launch|docs|test|world_model_ros)/[\w./]*\w\.\w+$", path)
            and not (ROOT / path).exists()
        ):
            yield f"{span}: there is no such file"
    every = set().union(*(options_of(parser_of(verb)) for verb in VERBS)) | OTHERS_OPTIONS
    yield from (
        f"no verb has an option {name}"
        for span in re.findall(r"`(-[^`]+)`", text)
        for name in re.findall(r"(?:^|\s)(--[a-z][\w-]*)", span)
        if name not in every
    )


def problems(page):
    return [
        *link_problems(page),
        *(problem for words, complete in commands(page) for problem in command_problems(words, complete)),
        *name_problems(page),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    assert not problems(page)


def test_the_code_in_python_is_python():
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text()):
            if language == "python":
                ast.parse(block)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[a](docs/nothing.md)", "there is no such file"),
        ("[a](docs/reference.md#nothing)", "no such heading"),
        ("![a](docs/nothing.png)", "there is no such file"),
        ("![a](README.md)", "is no picture"),
        ("```\nmake nothing\n```", "make has no nothing"),
        ("```\nmake sim TASKS=push\n```", "make has no TASKS=push"),
        ("```\npython -m world_model_ros fly\n```", "no verb fly"),
        ("```\n.venv/bin/python -m world_model_ros sim --viewer\n```", "sim has no option --viewer"),
        ("```\nW train --data a.h5\n```", "required: --out"),
        ("```\nW evaluate --seed one\n```", "invalid int value"),
        ("```\nW episodes drop a.h5 3 --frames 2\n```", "unrecognized arguments"),
        ("```\npython -m world_model_ros evaluate \\\n    --budgets 3\n```", "no option --budgets"),
        ("```\ntorchrun --nproc-per-node 2 -m world_model_ros train --dato a\n```", "no option --dato"),
        ("```\nros2 launch world_model_ros sim.launch.py goal:=5\n```", "no argument goal"),
        ("```\nros2 launch world_model_ros simulation.launch.py\n```", "no launch file"),
        ("```\nros2 run world_model_ros sum_node\n```", "there is no sum_node"),
        ("```\npython -m world_model_ros.nodes.snapshots x y\n```", "no module"),
        ("`evaluate --task push --protokoll far`", "no option --protokoll"),
        ("`make tests`", "make has no tests"),
        ("`config/robots.yaml`", "there is no such file"),
        ("with `--objects-steps 3`", "no verb has an option"),
    ],
)
def test_a_mistake_is_found(tmp_path, text, wanted):
    page = tmp_path / "README.md"
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    page.write_text(text)
    found = problems(page)
    assert len(found) == 1
    assert wanted in found[0]


def test_the_generated_parts_of_the_reference_are_up_to_date():
    page = (ROOT / "docs" / "reference.md").read_text()
    assert page == reference().generated(page), "run make reference"


def test_the_reference_has_every_node_topic_and_service():
    page = (ROOT / "docs" / "reference.md").read_text()
    tables = page[: page.index("## States")]
    services, topics = set(), set()
    for file in (ROOT / "world_model_ros" / "nodes").glob("*_node.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            into = {
                "create_service": services,
                "serve": services,
                "publisher": topics,
                "create_publisher": topics,
            }
            name = node.args[1] if len(node.args) > 1 else None
            if node.func.attr in into and isinstance(name, ast.Constant):
                into[node.func.attr].add(name.value)
    assert len(services) >= 7
    assert len(topics) >= 15
    missing = [name for name in sorted({*services, *topics, *NODES}) if f"`{name}`" not in tables]
    assert not missing


def test_the_index_links_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    linked = {target for _, target in LINK.findall(index)}
    unlinked = {page.name for page in (ROOT / "docs").glob("*.md")} - linked - {"README.md"}
    assert not unlinked


def test_readme_is_a_front_page():
    text = FENCE.sub("", (ROOT / "README.md").read_text())
    prose = [line for line in text.split("\n") if line.strip() and not line.startswith("|")]
    assert len(prose) <= README_LINES
    moving = ROOT / re.search(r"!\[[^\]]*\]\((docs/[^)]*\.webp)\)", text)[1]
    assert moving.stat().st_size < 2e6
    read, animation = cv2.imreadanimation(str(moving))
    assert read
    assert len(animation.frames) > 20
