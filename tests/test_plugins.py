"""A broken plugin is set apart with its distribution, version and reason; the rest works."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from hub_mim import plugins, registry
from hub_mim.method import Method, resolve, suggest

_spec = importlib.util.spec_from_file_location("fakes", Path(__file__).parent / "fakes.py")
fakes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fakes)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder on the path for fake distributions; plugins are looked for anew before and after."""
    monkeypatch.syspath_prepend(tmp_path)
    plugins.reload()
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("_plugin") and name.startswith("hub_mim_fake")]:
        del sys.modules[name]
    plugins.reload()


def only_broken():
    (found,) = [plugin for plugin in plugins.broken() if plugin.distribution.startswith("hub-mim-fake")]
    return found


def test_a_good_one_is_found(place):
    fakes.distribution(place, fakes.method_source())
    assert plugins.get_method("fake").title == "a fake"
    assert plugins.origin("fake") == ("hub-mim-fake", "1.2.3")
    assert plugins.method_for_model_type("fake_mim").name == "fake"
    assert {"toy", "fake"} <= plugins.methods().keys()
    assert not [plugin for plugin in plugins.broken() if "fake" in plugin.distribution]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import nothing_like_this", "No module named 'nothing_like_this'"),
        ("raise SystemError('odd')", "SystemError: odd"),
        (fakes.method_source(name="toy", model_type="other"), "name 'toy' is already taken by hub-mim-toy"),
        (fakes.method_source(model_type="toy_mim"), "model_type 'toy_mim' is already taken by hub-mim-toy"),
        (fakes.method_source(api_version=2), "api_version 2, this hub has 1; update hub-mim"),
        (fakes.method_source(config="no_colon"), "config of method 'fake': 'no_colon' is not of the form"),
        (
            fakes.method_source(config="hub_mim_toy.nowhere:X"),
            "names the module 'hub_mim_toy.nowhere', which does not exist",
        ),
        ("from hub_mim import hookimpl\n@hookimpl\ndef hub_mim_method(): return []", "did you mean 'hub_mim_methods'"),
        (
            "from hub_mim import hookimpl\n@hookimpl\ndef hub_mim_methods(): return 3",
            "must return a list of Method, not int",
        ),
        ("from hub_mim import hookimpl\n@hookimpl\ndef hub_mim_methods(): return [3]", "not of int"),
    ],
)
def test_a_broken_one_is_set_apart(place, source, text):
    fakes.distribution(place, source, entry="zebra")  # loaded after the toy, so that a taken name is the toy's
    broken = only_broken()
    assert text in broken.error
    assert (broken.distribution, broken.version) == ("hub-mim-fake", "1.2.3")
    assert "Error" in broken.traceback
    assert "toy" in plugins.methods()


def test_asking_for_a_broken_one_says_why(place):
    fakes.distribution(place, "import nothing_like_this")
    with pytest.raises(ValueError, match="method 'fake' is set apart: .*nothing_like_this.*hub-mim doctor"):
        plugins.get_method("fake")


def test_a_verb_that_fails_adds_none(place):
    import typer

    verb = "@hookimpl\ndef hub_mim_commands(app):\n    app.command('x')(print)\n    raise OSError('no')"
    source = f"from hub_mim import hookimpl\n{verb}"
    fakes.distribution(place, source)
    app = typer.Typer()
    plugins.register_commands(app)
    assert "x" not in [command.name for command in app.registered_commands]
    assert "OSError: no" in only_broken().error


@pytest.mark.parametrize(
    ("variable", "value", "there"), [("HUB_MIM_DISABLE", "toy, other", False), ("HUB_MIM_PLUGINS", "toy", True)]
)
def test_filters(place, monkeypatch, variable, value, there):
    monkeypatch.setenv(variable, value)
    plugins.reload()
    assert ("toy" in plugins.methods()) == there
    if there:
        assert list(plugins.methods()) == ["toy"]


def test_a_misspelled_method_gets_a_suggestion():
    with pytest.raises(ValueError, match="no method called 'toyy' is installed; did you mean 'toy'"):
        plugins.get_method("toyy")


def test_a_known_method_that_is_not_installed_gets_its_distribution(absent):
    name, distribution = absent
    with pytest.raises(ValueError, match=f"pip install {distribution}"):
        plugins.get_method(name)


def test_advice_names_listed_distributions_only():
    assert "pip install hub-mim-lxmert" in registry.missing_plugin_message("lxmert_mim")
    assert "pip install" not in registry.missing_plugin_message("evil")


def test_a_wrong_config_class_is_told(place):
    fakes.distribution(place, fakes.method_source())
    with pytest.raises(ValueError, match="says model_type 'fake_mim' but ToyMimConfig has 'toy_mim'"):
        registry.config_class(plugins.get_method("fake"))


def test_transformers_own_config_class_is_told(place):
    fakes.distribution(place, fakes.method_source(config="transformers.models.vit.configuration_vit:ViTConfig"))
    with pytest.raises(ValueError, match="transformers' own ViTConfig"):
        registry.config_class(plugins.get_method("fake"))


def test_an_unknown_auto_class_is_told():
    with pytest.raises(ValueError, match="no auto class called 'AutoModle'; did you mean 'AutoModel'"):
        registry.register_class("AutoModle", object, object)


def test_listing_imports_no_torch():
    code = "import sys; from hub_mim import plugins; plugins.methods(); assert not {'torch', 'transformers'} & {*sys.modules}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_resolve_and_suggest():
    assert resolve("json:JSONDecoder.decode").__name__ == "decode"
    assert suggest("pretain", ["pretrain", "evaluate"]) == "; did you mean 'pretrain'?"
    assert suggest("xyz", ["pretrain"]) == ""
    for string, text in (
        ("json", "module:Name"),
        ("json:nope", "does not resolve"),
        ("nope_module:x", "does not resolve"),
    ):
        with pytest.raises(ValueError, match=text):
            resolve(string)


def test_a_method_is_checked_where_it_is_made():
    with pytest.raises(TypeError):
        Method(name="x")
