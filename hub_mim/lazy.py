"""Register plugins when transformers' auto modules are imported, and not before.

`install()` puts one finder before all others. It lets the usual finders find transformers' auto modules and wraps their
loaders, so that right after such a module was executed the classes that belong to it are registered through the public
`AutoX.register`. Configurations, image processors and tokenizers are registered for real; models, processors and
feature extractors as stand-ins, which import the real class when it is first used and register it in their place.
"""

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PREFIX = "transformers.models.auto."
REAL = ("AutoImageProcessor", "AutoVideoProcessor", "AutoTokenizer")  # transformers looks into these classes at once
MODULES = {
    "configuration_auto": ("AutoConfig",),
    "image_processing_auto": ("AutoImageProcessor",),
    "video_processing_auto": ("AutoVideoProcessor",),
    "feature_extraction_auto": ("AutoFeatureExtractor",),
    "tokenization_auto": ("AutoTokenizer",),
    "processing_auto": ("AutoProcessor",),
}


def install() -> None:
    """Watch for transformers' auto modules; those that are imported already are served at once. May be called again."""
    if not any(isinstance(finder, AutoFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AutoFinder())
    for name in ("configuration_auto", *[name for name in MODULES if name != "configuration_auto"], "modeling_auto"):
        module = sys.modules.get(PREFIX + name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            serve(module)


class AutoFinder(importlib.abc.MetaPathFinder):
    """Find transformers' auto modules by the other finders, with a loader that serves them afterwards."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's own spec with its loader wrapped, None for every other module."""
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) not in {*MODULES, "modeling_auto"}:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Run the usual loader, then register."""

    def __init__(self, usual: Any):
        self.usual = usual

    def __getattr__(self, name: str) -> Any:
        return getattr(self.usual, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.usual.exec_module(module)
        serve(module)


def serve(module: ModuleType) -> None:
    """Register what belongs to one auto module, for every method; a plugin that fails is set apart."""
    from hub_mim import plugins

    if plugins.loading():
        return  # a plugin module imports transformers while plugins are loaded; `install` runs again afterwards
    name = module.__name__.removeprefix(PREFIX)
    for method in plugins.methods().values():
        if method.native:
            continue
        autos = MODULES.get(name) or tuple(auto for auto in method.auto if hasattr(module, auto))
        try:
            _serve_method(method, module, autos)
        except Exception as error:
            plugins.set_apart(method.name, error)


def _serve_method(method: Any, module: ModuleType, autos: Sequence[str]) -> None:
    from hub_mim import registry

    config = registry.config_class(method)
    for auto in autos:
        if auto in method.auto:
            value = method.auto[auto]
            real = auto in REAL
            registry.register_class(
                auto, config, registry.resolve_all(value) if real else stand_in(value, auto, config), module=module
            )


def stand_in(string: str, auto: str, config: type) -> type:
    """Return a class that passes for the one that `string` names until it is used.

    It has the name, the module and the configuration class of the real one, and what the auto classes call:
    `from_pretrained`, `_from_config`, `register_for_auto_class`, construction. The first use registers the real one.
    """
    module_name, _, name = string.partition(":")

    def real() -> Any:
        from hub_mim import registry
        from hub_mim.method import resolve

        value = resolve(string)
        registry.register_class(auto, config, value)
        return value

    def call(attribute: str) -> Any:
        return classmethod(lambda _cls, *args, **kwargs: getattr(real(), attribute)(*args, **kwargs))

    body = {key: call(key) for key in ("from_pretrained", "_from_config", "register_for_auto_class")}
    body |= {"__module__": module_name, "config_class": config, "hub_mim_stand_in": string}
    body["__new__"] = lambda _cls, *args, **kwargs: real()(*args, **kwargs)
    return type(name, (), body)
