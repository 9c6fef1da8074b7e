"""``python docs/reference.py`` (``make reference``): writes the generated parts of docs/reference.md."""

import argparse
import ast
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from world_model_ros.cli import VERBS, verb_parser  # noqa: E402
from world_model_ros.nodes import deploy, parameters, starter  # noqa: E402

PAGE = DOCS / "reference.md"
CHECKPOINT = ("checkpoint", "the task", "checkpoint folder, or the name of a shipped one")  # of sim.launch.py


def launch_arguments() -> dict[str, list[tuple[str, str, str]]]:
    """Return name, default and meaning of the arguments of each launch file; needs no ROS."""
    found = {}
    for path in sorted((DOCS.parent / "launch").glob("*.launch.py")):
        declared = next(
            (
                node.value.elts
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"
            ),
            None,
        )
        if path.name == "robot.launch.py":  # it has the options of the verb deploy
            found[path.name] = [(name, value, words) for name, value, _, words in deploy.ARGUMENTS]
        elif declared is None:  # it has the options of the verb sim
            every = (*starter.ARGUMENTS, *starter.VIEW_ARGUMENTS)
            found[path.name] = [*((name, value, words) for name, value, _, words in every), CHECKPOINT]
        else:
            found[path.name] = [tuple(map(_text, argument.elts)) for argument in declared]
    return found


def _text(node: ast.expr) -> str:
    """Return a string in a launch file; of a path in the package's share, the part below it."""
    if isinstance(node, ast.Constant):
        return node.value
    return "/".join(re.findall(r"'([^']*)'", ast.unparse(node)))


def launch_tables() -> str:
    """Return the launch files' arguments as Markdown."""
    lines = []
    for file, rows in launch_arguments().items():
        lines += [f"### {file}", "", "| argument | default | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {_code(default)} | {_cell(words)} |" for name, default, words in rows]
        lines.append("")
    return "\n".join(lines)


def verb_tables() -> str:
    """Return the options of all verbs as Markdown."""
    lines = []
    for verb in VERBS:
        parser = verb_parser(verb)
        lines += [f"### {verb}", "", parser.description, "", *option_rows(parser), ""]
        for name, action in subcommands(parser).items():
            lines += [f"`{verb} {name}`: {action.description[0].lower()}{action.description[1:]}", ""]
            lines += [*option_rows(action), ""]
    return "\n".join(lines)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the actions that a verb has, by name."""
    found = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return next(found, {})


def option_rows(parser: argparse.ArgumentParser) -> list[str]:
    """Return the table of a parser's options; nothing where it has none of its own."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{_metavar(action)}`"
        needed = "required" if action.required and action.option_strings else ""
        silent = action.default in (None, argparse.SUPPRESS, []) or isinstance(action.default, bool)
        default = needed if silent else _code(str(action.default))
        words = (action.help or "").replace(" (default: %(default)s)", "").replace("%%", "%")
        if action.choices and not all(str(choice) in words for choice in action.choices):
            words = f"{words} ({', '.join(map(str, action.choices))})".strip()
        rows.append(f"| {names} | {default} | {_cell(words)} |")
    return ["| option | default | meaning |", "|---|---|---|", *rows] if rows else []


def _metavar(action: argparse.Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


PARTS = {"verbs": verb_tables, "launch": launch_tables, "parameters": parameters.table}


def generated(page: str) -> str:
    """Return the page with its generated parts made anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        head, rest = page.split(begin)
        page = f"{head}{begin}\n{make().strip()}\n\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
    print(f"{PAGE}: written")
