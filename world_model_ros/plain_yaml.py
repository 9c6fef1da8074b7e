"""YAML as configuration needs it: plain data, each part written out. Importing this imports PyYAML."""

from pathlib import Path

import yaml

LONGEST = 1 << 20  # bytes of a file, unless a caller says less
LONGEST_NUMBER = 1000  # characters; much longer ones take minutes to compute, or cannot be printed
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


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

    def construct_object(self, node, deep=False):
        """Return what a node stands for; MarkedYAMLError for one that its kind cannot be made of.

        PyYAML looks for a digit in an empty number and for a year in any text that is called a time.
        """
        try:
            return super().construct_object(node, deep)
        except (TypeError, ValueError, OverflowError) as error:  # which say what is wrong
            problem = " ".join(str(error).split())
        except (LookupError, AttributeError):
            problem = f"{node.value!r:.50} is no {node.tag.rpartition(':')[2]}"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def construct_mapping(self, node, deep=False):
        """Return a mapping; MarkedYAMLError for a key that stands twice: YAML would keep the last."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key!r:.50} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node):
        """Return the text of a node; MarkedYAMLError for a number that is too long, or half a character."""
        value = super().construct_scalar(node)
        problem = ""
        if node.tag in _NUMBERS and len(value) > LONGEST_NUMBER:
            problem = f"a number of {len(value)} characters is too long"
        elif not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            problem = "half of a character cannot be printed"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return value


def parse(text: str):
    """Return what a YAML text says. Raises NotPlainError, whatever the text."""
    try:
        return yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise NotPlainError(what, mark.line + 1 if mark else None) from None
    except RecursionError:
        raise NotPlainError("it is nested too deeply") from None
    except (TypeError, ValueError, OverflowError) as error:  # of a key or a character that cannot be
        raise NotPlainError(" ".join(str(error).split())) from None


def read(path: Path, longest: int = LONGEST):
    """Return what a YAML file says. Raises NotPlainError, whatever the file holds, and OSError."""
    with path.open("rb") as file:  # no more than needed of what has no end
        content = file.read(longest + 1)
    if len(content) > longest:
        raise NotPlainError(f"it has more than {longest} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise NotPlainError("it is not text") from None
    return parse(text)
