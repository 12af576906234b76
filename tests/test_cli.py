"""The command line as a user meets it: help, wrong usage, errors in one sentence, JSON alone on stdout."""

import json
import subprocess
import sys

import pytest

from hub_mim import cli
from hub_mim.commands import options
from hub_mim.plugins import register_commands


def hub(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "hub_mim", *arguments], capture_output=True, text=True, **options)


def inside(capsys, *arguments):
    """Run the command in this process; returns exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


def verbs():
    register_commands(cli.app)
    return sorted({command.name or command.callback.__name__ for command in cli.app.registered_commands})


def test_help_starts_without_torch():
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hub_mim", "--help"], capture_output=True, text=True
    )
    assert told.returncode == 0
    assert not [line for line in told.stderr.splitlines() if line.endswith((" torch", " transformers"))]
    for verb in ("demo", "ls", "info", "doctor", "pretrain", "evaluate", "convert", "check", "impute"):
        assert f"  {verb} " in told.stdout


@pytest.mark.parametrize("verb", ["demo", "ls", "info", "doctor", "pretrain", "evaluate", "convert", "check", "impute"])
def test_every_verb_has_help_with_an_example(capsys, verb):
    assert verb in verbs()
    code, out, _ = inside(capsys, verb, "--help")
    assert code == 0
    assert f"Example: hub-mim {verb}" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nosuchverb"], "nosuchverb"),
        (["pretrain", "toy"], "--data"),
        (["pretrain", "toyy", "--data", "sample:toy", "--out", "x"], "did you mean 'toy'"),
        (["check", "toyy"], "did you mean 'toy'"),
        (["pretrain", "toy", "--data", "sample:toy", "--out", "x", "--config", "nothing"], "takes field=value"),
        (["pretrain", "toy", "--data", "sample:toy", "--out", "x", "--map", "a"], "takes column=argument"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(capsys, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = inside(capsys, *arguments)
    assert code == 2
    assert text in " ".join(err.replace("│", " ").split())
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_wrong_usage_in_one_sentence(capsys, tmp_path):
    code, out, err = inside(
        capsys, "pretrain", "toy", "--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "o")
    )
    assert code == 2
    assert err.startswith("hub-mim: error: invalid value for '--data': no file or folder")
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_failure_exits_1_with_one_sentence(capsys, tmp_path):
    (tmp_path / "none.csv").touch()
    code, out, err = inside(
        capsys, "pretrain", "toy", "--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "o")
    )
    assert code == 1
    assert err.startswith("hub-mim: error: ")
    assert "is empty (0 bytes)" in err
    assert len(err.strip().splitlines()) == 1
    assert not out


def test_debug_shows_the_traceback(tmp_path):
    (tmp_path / "none.csv").touch()
    told = hub("pretrain", "toy", "--data", str(tmp_path / "none.csv"), "--out", str(tmp_path / "o"), "--debug")
    assert "Traceback" in told.stderr


def test_ls_and_info(capsys):
    code, out, _ = inside(capsys, "ls", "--json")
    listed = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert listed["toy"]["distribution"].startswith("hub-mim-toy")
    code, out, _ = inside(capsys, "info", "toy", "--json")
    facts = json.loads(out)
    assert facts["paper"] == "https://arxiv.org/abs/2111.06377"
    assert set(facts["presets"]) == {"tiny", "wide"}
    code, out, _ = inside(capsys, "info", "toy")
    assert "presets" in out


def test_pretrain_evaluate_convert_from_the_command_line(capsys, tmp_path):
    out = tmp_path / "run"
    code, told, err = inside(
        capsys, "pretrain", "toy", "--data", "sample:toy", "--out", str(out), "--steps", "4", "--json"
    )
    assert code == 0, err
    assert json.loads(told)["steps"] == 4
    assert "hub-mim evaluate" in err
    code, told, err = inside(capsys, "evaluate", str(out), "--data", "sample:toy", "--protocol", "mean-error", "--json")
    assert code == 0, err
    measures = {row["metric_type"] for row in json.loads(told)}
    assert {"loss", "mae"} <= measures
    code, told, _ = inside(capsys, "info", str(out), "--json")
    assert json.loads(told)["method"] == "toy"
    code, told, err = inside(capsys, "evaluate", str(out), "--data", "sample:toy", "--protocol", "meanerror")
    assert code == 1
    assert "did you mean 'mean-error'" in err


def test_values_are_json_where_they_are():
    assert options.assignments(["a=1", "b=0.5", "c=[1, 2]", "d=text", "e=True", "f=a=b"], "--config") == {
        "a": 1, "b": 0.5, "c": [1, 2], "d": "text", "e": True, "f": "a=b",
    }  # fmt: skip


def test_check_prints_one_line_a_check(capsys, monkeypatch):
    from hub_mim.testing import checks

    monkeypatch.setattr(checks, "ALL", (checks.BY_NAME["check_package_files"], checks.BY_NAME["check_flops"]))
    code, out, err = inside(capsys, "check", "toy")
    assert code == 0
    assert out.splitlines()[0].split() == ["passed", "check_package_files"]
    assert "1 passed, 0 failed, 1 skipped" in err


def test_demo_without_a_showing_method_is_told(capsys, monkeypatch):
    from hub_mim import plugins

    monkeypatch.setenv("HUB_MIM_PLUGINS", "toy")
    plugins.reload()
    try:
        code, _, err = inside(capsys, "demo", "--out", "nowhere")
    finally:
        plugins.reload()
    assert code == 1
    assert "no installed method has a demo" in err
