import signal
import sys
import types

import pytest

from world_model_ros import cli
from world_model_ros.errors import UserError


@pytest.fixture
def verb(monkeypatch):
    """Return a function that makes a function a verb of the command line; Ctrl-C is the command's own."""

    def make(run):
        module = types.ModuleType("a_verb")
        module.add_arguments, module.run = lambda parser: None, run
        monkeypatch.setitem(sys.modules, "a_verb", module)
        monkeypatch.setitem(cli.VERBS, "try", ("a_verb", "try something"))

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # any but the default is replaced
    yield make
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", [UserError, ImportError])
def test_an_interruption_that_became_another_error_is_called_one(verb, capsys, kind):
    def run(arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise kind("the report needs matplotlib: install it.") from None

    verb(run)
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interruption_ends_the_verb(verb, capsys):
    verb(lambda arguments: signal.raise_signal(signal.SIGINT))
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_errors_of_the_user_are_a_sentence_and_those_of_ours_a_traceback(verb, capsys):
    def run(arguments):
        raise UserError("the report needs matplotlib: install it.")

    verb(run)
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == "error: the report needs matplotlib: install it.\n"
    assert cli.main(["try", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    verb(lambda arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])
