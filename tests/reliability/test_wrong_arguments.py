"""Every verb with every kind of wrong argument, generated from the app: status 2, one sentence, nothing written.

The kinds follow from a parameter's type, its bounds and its check (`hub_mim.arguments`); a verb that a plugin adds is found
like any other. A new parameter that takes a path or a word without a check is not wrong here, but is listed by the last test.
"""

import inspect
from typing import get_args, get_type_hints

import pytest
import typer

from hub_mim import arguments as given
from hub_mim import cli
from hub_mim.plugins import register_commands

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

register_commands(cli.app)
VERBS = {
    command.name: command for command in typer.main.get_command(cli.app).commands.values()
}  # as `hub-mim --help` lists them
METHODS = ("pretrain", "convert", "check")  # verbs whose NAME is a method's
ASSIGNED = {"config": "--config", "processor": "--processor", "map": "--map", "set": "--set", "option": "--option"}


def check_of(verb, parameter):
    """Return the check that a parameter declares, None where it has none."""
    hint = get_type_hints(inspect.unwrap(VERBS[verb].callback), include_extras=True).get(parameter.name)
    return next((each.callback for each in get_args(hint)[1:] if hasattr(each, "callback")), None)


def right(verb, parameter):
    """Return a value that a required parameter takes."""
    values = {given.source: "sample:toy", given.checkpoint: "model", given.file: "file.csv", given.folder: "model"}
    values |= {given.new_file: "made.parquet", given.new_folder: "made", given.repository: "me/x"}
    return values.get(check_of(verb, parameter), "toy")


def wrong(verb, parameter):
    """Yield values that a parameter must not take."""
    kind, check = type(parameter.type).__name__, check_of(verb, parameter)
    if "Int" in kind or "Float" in kind:
        yield from ("abc", "", "1,5", "0x")
        low, high = getattr(parameter.type, "min", None), getattr(parameter.type, "max", None)
        yield from ([] if low is None else [str(low - 1)]) + ([] if high is None else [str(high + 1)])
    if "Float" in kind:
        yield from ("nan", "inf", str(check.outside))
    if hasattr(check, "names"):
        yield from ("nosuch", "", check.names[0] + "x")
    if check in (given.source, given.checkpoint):
        yield from ("nowhere.csv", "./nowhere", "model/nowhere", "a/b/c", "file.csv/x", "x" * 5000 + ".csv")
    if check is given.checkpoint:
        yield "file.csv"
    if check is given.file:
        yield from ("nowhere.csv", "model", "")
    if check is given.folder:
        yield from ("nowhere", "file.csv")
    if check is given.new_file:
        yield from ("model", "file.csv/made.parquet", ".")
    if check is given.new_folder:
        yield from ("file.csv", "file.csv/made")
    if check is given.address:
        yield from ("nonsense", "ftp://x", "https://", "")
    if check is given.repository:
        yield from ("a/b/c", "../x", "a b", "")
    if parameter.name in ASSIGNED:
        yield from ("nothing", "=value", "")
    if parameter.name == "name" and verb in (*METHODS, "info"):
        yield from ("toyy", "", "../toy")
    if parameter.name == "preset":
        yield "nosuch"
    if parameter.name == "launch":
        yield from ("none", "0", "-1")
    if verb == "new" and parameter.name == "name":
        yield from ("Upper", "with space", "class", "../x", "toy")


def line(verb, **changed):
    """Return a verb with right values, some changed; None leaves one out."""
    words = [verb]
    for parameter in VERBS[verb].params:
        value = changed.get(parameter.name, right(verb, parameter) if parameter.required else None)
        if value is not None:
            words += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
    return words


def cases(verb):
    """Yield wrong lines of a verb."""
    parameters = [each for each in VERBS[verb].params if each.name != "help"]
    yield [*line(verb), "--no-such-option"]
    yield [*line(verb), *["surplus"] * 9] if not any(each.nargs == -1 for each in parameters) else [verb]
    for parameter in parameters:
        if parameter.required:
            yield [word for word in line(verb, **{parameter.name: "\0"}) if word not in ("\0", parameter.opts[0])]
        if parameter.param_type_name == "option" and type(parameter.type).__name__ != "BoolParamType":
            yield [*line(verb), parameter.opts[0]]  # without its value
        for value in wrong(verb, parameter):
            yield line(verb, **{parameter.name: value})
        if type(parameter.type).__name__ == "BoolParamType":
            yield [*line(verb), f"{parameter.opts[0]}=perhaps"]


def written(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_wrong_arguments(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "hub_mim.plugins.register_commands", lambda app: None
    )  # they are there, and would be there again
    (tmp_path / "model").mkdir()
    (tmp_path / "file.csv").write_text("a,b\n1,\n2,3\n")
    before, tried = written(tmp_path), 0
    for words in cases(verb):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        told = capsys.readouterr()
        assert ended.value.code == 2, (words, told.err)
        assert told.out == "", words
        assert told.err.startswith("hub-mim: error: "), (words, told.err)
        assert len(told.err.splitlines()) == 1, (words, told.err)
        assert written(tmp_path) == before, words
        tried += 1
    assert tried > len(VERBS[verb].params)


FREE = {"message", "search", "split", "train_split", "label", "id", "per", "protocol", "revision", "tag", "user"}
FREE |= {"host", "add_user", *ASSIGNED}  # words that only the data, the Hub or the method can judge


def test_every_parameter_has_a_check_or_is_free():
    known = {"name", "preset", "launch"}  # checked in the verb itself
    for verb, command in VERBS.items():
        for parameter in command.params:
            if type(parameter.type).__name__ not in ("BoolParamType",) and parameter.name not in FREE | known:
                kind = type(parameter.type).__name__
                bounded = getattr(parameter.type, "min", None) is not None or parameter.name == "layer"
                assert check_of(verb, parameter) or ("Int" in kind and bounded), (verb, parameter.name)
