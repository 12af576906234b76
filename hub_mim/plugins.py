"""Find the plugins, load them one by one, set apart whatever is broken.

A plugin is an entry point of the group `hub_mim` that names a module with hooks (see `hookspecs.py`). One that cannot be
imported, claims a taken name or model type, was made for another contract, names what is not there or misspells a hook is
set apart with its distribution, version and traceback; the others work. Nothing heavy is imported to find that out: of a
`"module:Name"` string the form and the module's file are checked here, the name itself when it is used or by `doctor`.

Environment: `HUB_MIM_PLUGINS=a,b` loads only these plugins, `HUB_MIM_DISABLE=a,b` all but these; a plugin is called by its
entry point's or its distribution's name.
"""

import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from hub_mim import hookspecs
from hub_mim.entry_points import EntryPoint, entry_points
from hub_mim.method import API_VERSION, Method, split, suggest

if TYPE_CHECKING:
    import typer

_logger = logging.getLogger("hub_mim")


@dataclass(frozen=True)
class BrokenPlugin:
    """Say what was set apart and why: the plugin's name, where it comes from, one sentence, the whole traceback."""

    name: str
    distribution: str
    version: str
    error: str
    traceback: str


@dataclass
class _Loaded:
    """Hold what one loading found; replaced as a whole, so that threads never see half of it."""

    manager: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager("hub_mim"))
    methods: dict[str, Method] = field(default_factory=dict)
    owners: dict[str, EntryPoint] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)

    def set_apart(self, entry: EntryPoint, error: BaseException) -> None:
        """Take a plugin and all its methods out, and keep the reason."""
        for name in [name for name, owner in self.owners.items() if owner is entry]:
            del self.methods[name], self.owners[name]
        if self.manager.has_plugin(entry.name):
            self.manager.unregister(name=entry.name)
        self.broken.append(_reason(entry, error))


_loaded: _Loaded | None = None
_loading: list[_Loaded] = []


def methods() -> dict[str, Method]:
    """Return the methods that work, by name."""
    return dict(_state().methods)


def broken() -> list[BrokenPlugin]:
    """Return the plugins that were set apart."""
    return list(_state().broken)


def get_method(name: str) -> Method:
    """Return the method called `name`.

    Raises:
        ValueError: there is none; the message says whether it is broken, misspelled, or which distribution brings it.
    """
    state = _state()
    if name in state.methods:
        return state.methods[name]
    for plugin in state.broken:
        if plugin.name == name:
            raise ValueError(f"method {name!r} is set apart: {plugin.error}; `hub-mim doctor` shows the traceback")
    hint = suggest(name, state.methods)
    if name in known_distributions():
        hint = f"; pip install {known_distributions()[name]}"
    raise ValueError(f"no method called {name!r} is installed{hint}; `hub-mim ls` shows all")


def method_for_model_type(model_type: str) -> Method:
    """Return the method whose configurations have this `model_type`.

    Raises:
        ValueError: no installed plugin has it.
    """
    method = find_by_model_type(model_type)
    if method is None:
        from hub_mim.registry import missing_plugin_message

        raise ValueError(missing_plugin_message(model_type))
    return method


def find_by_model_type(model_type: Any) -> Method | None:
    """Return the method whose configurations have this `model_type`, None where no installed plugin has it."""
    return next((method for method in _state().methods.values() if method.model_type == model_type), None)


def made(method: Method, architectures: Any) -> bool:
    """Tell whether a checkpoint with these class names is of a method; a native one shares its model type with others."""
    names = {value.partition(":")[2] for value in method.auto.values() if isinstance(value, str)}
    return not method.native or bool(names & set(architectures or ()))


def method_or_native(model_type: str, architectures: Any = None) -> Method:
    """Return the method of a model type, or what stands for a model of transformers' own.

    Args:
        model_type: of a configuration. architectures: the class names that it carries.
    Raises:
        ValueError: neither a plugin nor transformers has it.
    """
    from transformers import CONFIG_MAPPING

    try:
        method = method_for_model_type(model_type)
        if made(method, architectures):
            return method
    except ValueError:
        if model_type not in CONFIG_MAPPING:
            raise
    kind = CONFIG_MAPPING[model_type]
    return Method(
        name=model_type,
        title=f"{model_type}, a model of transformers' own",
        paper="",
        licence="unknown",
        modalities=(),
        config=f"{kind.__module__}:{kind.__name__}",
        auto={"AutoModel": "transformers:AutoModel"},
        example="",
    )


def is_installed(method: Method) -> bool:
    """Tell whether a method comes from a plugin, not from transformers itself."""
    return method.name in _state().methods


def origin(name: str) -> tuple[str, str]:
    """Return the distribution and the version that bring the method called `name`, or the model type of transformers'."""
    if name not in _state().methods and "transformers" in sys.modules:
        from transformers import CONFIG_MAPPING, __version__

        if name in CONFIG_MAPPING:
            return "transformers", __version__
    get_method(name)
    owner = _state().owners[name]
    return owner.distribution, owner.version


def source(name: str) -> str:
    """Return where the distribution of a method was installed from, as its installer noted it: an address, or "an index"."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution

    from hub_mim.secrets import LOGIN

    try:
        noted = distribution(origin(name)[0]).read_text("direct_url.json")
    except PackageNotFoundError:
        return "unknown"
    return LOGIN.sub("", str(json.loads(noted).get("url", "unknown"))) if noted else "an index"


def register_commands(app: "typer.Typer") -> None:
    """Let every plugin add its own verbs to the command line; one that fails is set apart and adds none."""
    state = _state()
    for implementation in list(state.manager.hook.hub_mim_commands.get_hookimpls()):
        before = list(app.registered_commands), list(app.registered_groups)
        try:
            implementation.function(*[app][: len(implementation.argnames)])
        except Exception as error:
            app.registered_commands, app.registered_groups = before
            state.set_apart(_entry_of(implementation.plugin_name), error)


def set_apart(name: str, error: BaseException) -> None:
    """Set the plugin of the method `name` apart after all, because it failed in use; say so once."""
    state = _state()
    state.set_apart(state.owners[name], error)
    last = state.broken[-1]
    _logger.warning(
        "%s (%s %s) is set apart: %s; see hub-mim doctor", last.name, last.distribution, last.version, last.error
    )


def reload() -> None:
    """Forget the plugins, so that they are looked for again; for tests."""
    global _loaded
    _loaded = None


def loading() -> bool:
    """Tell whether the plugins are being loaded right now."""
    return bool(_loading)


@cache
def known_distributions() -> dict[str, str]:
    """Return method or model type -> distribution for the distributions on the shipped list."""
    lines = (Path(__file__).parent / "distributions.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: row[0] for row in rows for name in row[1:]}


def _state() -> _Loaded:
    global _loaded
    if _loading:
        return _loading[-1]
    if _loaded is None:
        state = _Loaded()
        _loading.append(state)
        try:
            _load_all(state)
        finally:
            _loading.remove(state)
        _loaded = state
    return _loaded


def _load_all(state: _Loaded) -> None:
    state.manager.add_hookspecs(hookspecs)
    for entry in sorted(_wanted(), key=lambda entry: (_rank(entry), entry.name)):
        try:
            _load_one(state, entry)
        except Exception as error:
            state.set_apart(entry, error)


def _load_one(state: _Loaded, entry: EntryPoint) -> None:
    if state.manager.has_plugin(entry.name):
        raise ValueError(f"another distribution already has an entry point called {entry.name!r}")
    module = import_module(entry.value)
    state.manager.register(module, entry.name)
    for caller in state.manager.get_hookcallers(module) or []:
        if not caller.has_spec():
            known = suggest(caller.name, ("hub_mim_methods", "hub_mim_commands"))
            raise ValueError(f"{entry.value} implements a hook called {caller.name!r}, which does not exist{known}")
    found = [impl for impl in state.manager.hook.hub_mim_methods.get_hookimpls() if impl.plugin is module]
    for method in _called(found, entry):
        _check(method, state)
        state.methods[method.name] = method
        state.owners[method.name] = entry


def _called(implementations: list[Any], entry: EntryPoint) -> Iterable[Method]:
    for implementation in implementations:
        value = implementation.function()
        if not isinstance(value, (list, tuple)):
            raise TypeError(
                f"hub_mim_methods of {entry.value} must return a list of Method, not {type(value).__name__}"
            )
        yield from value


def _check(method: Method, state: _Loaded) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"hub_mim_methods must return a list of Method, not of {type(method).__name__}")
    if method.api_version != API_VERSION:
        raise ValueError(
            f"method {method.name!r} was made for api_version {method.api_version!r}, this hub has {API_VERSION}; "
            f"update {'hub-mim' if str(method.api_version) > str(API_VERSION) else 'the plugin'}"
        )
    for other in state.methods.values():
        for what in ("name", "model_type"):
            if getattr(other, what) == getattr(method, what):
                owner = state.owners[other.name]
                taken = f"{what} {getattr(method, what)!r} is already taken by {owner.distribution} {owner.version}"
                raise ValueError(f"{taken}; uninstall one of the two, or name one in HUB_MIM_DISABLE")
    for place, string in method.strings():
        try:
            module_name, _ = split(string)
        except ValueError as error:
            raise ValueError(f"{place} of method {method.name!r}: {error}") from error
        if not _exists(module_name):
            raise ValueError(
                f"{place} of method {method.name!r} names the module {module_name!r}, which does not exist"
            )


def _exists(module_name: str) -> bool:
    """Tell whether there is a file for a module, without importing it or its parents."""
    if module_name in sys.modules:
        return True
    top, *rest = module_name.split(".")
    spec = None if top in sys.modules else _find(top)
    if spec is None and top not in sys.modules:
        return False
    # a module that is imported tells its folders itself: transformers replaces its own module and its spec tells none
    folders = getattr(sys.modules[top], "__path__", None) if spec is None else spec.submodule_search_locations
    for i in range(len(rest)):
        found = None if folders is None else PathFinder.find_spec(".".join([top, *rest[: i + 1]]), list(folders))
        if found is None:
            return False
        folders = found.submodule_search_locations
    return True


def _find(top: str) -> ModuleSpec | None:
    from importlib.util import find_spec

    return find_spec(top)


def _wanted() -> list[EntryPoint]:
    only, without = _names("HUB_MIM_PLUGINS"), _names("HUB_MIM_DISABLE") or set()
    entries = entry_points("hub_mim")
    if only is not None:
        entries = [entry for entry in entries if only & _labels(entry)]
    return [entry for entry in entries if not without & _labels(entry)] if without else entries


def _names(variable: str) -> set[str] | None:
    text = os.environ.get(variable)
    return None if text is None else {name.strip() for name in text.split(",") if name.strip()}


def _labels(entry: EntryPoint) -> set[str]:
    return {entry.name, entry.distribution}


def _rank(entry: EntryPoint) -> bool:
    """Put distributions on the shipped list first, so that no other can take their methods' names."""
    known = known_distributions().get(entry.name)
    return known is None or known != entry.distribution  # reading a distribution's name costs, so only where it decides


def _entry_of(name: str) -> EntryPoint:
    return next(entry for entry in entry_points("hub_mim") if entry.name == name)


def _reason(entry: EntryPoint, error: BaseException) -> BrokenPlugin:
    from traceback import format_exception

    sentence = str(error) if type(error) in (ValueError, TypeError) else f"{type(error).__name__}: {error}"
    return BrokenPlugin(
        entry.name, entry.distribution, entry.version, sentence, "".join(format_exception(error)).rstrip()
    )
