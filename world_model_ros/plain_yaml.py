"""YAML as configuration needs it: plain data, each part written out. Importing this imports PyYAML."""

from pathlib import Path

import yaml

LONGEST = 1 << 20  # bytes of a file, unless a caller says less
LONGEST_NUMBER = 1000  # characters; much longer ones take minutes to compute, or cannot be printed


class NotPlainError(ValueError):
    """Why a text is no plain YAML: ``problem``, a phrase, and its ``line``, from 1, where that is known."""

    def __init__(self, problem: str, line: int | None = None):
        super().__init__(problem)
        self.problem, self.line = problem, line


class PlainLoader(yaml.SafeLoader):
    """Makes no objects, and refuses aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent, index):
        """Return the next node; MarkedYAMLError for an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} stands for another part, write that out",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node):
        """Return the number; MarkedYAMLError for one that is too long."""
        self._check_length(node)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node):
        """Return the number; MarkedYAMLError for one that is too long."""
        self._check_length(node)
        return super().construct_yaml_float(node)

    @staticmethod
    def _check_length(node) -> None:
        if len(node.value) > LONGEST_NUMBER:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} characters is too long", problem_mark=node.start_mark
            )


for _kind in ("int", "float"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(PlainLoader, f"construct_yaml_{_kind}"))


def parse(text: str, loader: type[PlainLoader] = PlainLoader):
    """Return what a YAML text says. Raises NotPlainError, whatever the text."""
    try:
        return yaml.load(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise NotPlainError(what, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise NotPlainError("it is nested too deeply") from None
    except (TypeError, ValueError, OverflowError) as error:  # of a date or a number that cannot be
        raise NotPlainError(" ".join(str(error).split())) from None


def read(path: Path, loader: type[PlainLoader] = PlainLoader, longest: int = LONGEST):
    """Return what a YAML file says. Raises NotPlainError, whatever the file holds, and OSError."""
    with path.open("rb") as file:  # no more than needed of what has no end
        content = file.read(longest + 1)
    if len(content) > longest:
        raise NotPlainError(f"it has more than {longest} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise NotPlainError("it is not text") from None
    return parse(text, loader)
