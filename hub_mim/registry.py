"""Register every plugin's classes with transformers' auto classes.

`register()` does it at once through the public `AutoX.register` and is enough by itself; `lazy.py` does the same when
transformers' auto modules are imported.
"""

from collections.abc import Mapping
from typing import Any

from hub_mim import plugins
from hub_mim.method import Method, resolve


def register() -> None:
    """Register the classes of all installed methods; a plugin that fails is set apart and named in a warning.

    Imports torch and every plugin's modules. May be called again.
    """
    for method in plugins.methods().values():
        try:
            register_method(method)
        except Exception as error:
            plugins.set_apart(method.name, error)


def register_method(method: Method) -> None:
    """Register all classes of one method.

    Raises:
        ValueError: a string does not resolve, or a class does not fit its auto class.
    """
    if method.native:
        return
    config = config_class(method)
    for auto, value in method.auto.items():
        register_class(auto, config, resolve_all(value))


def config_class(method: Method) -> Any:
    """Import, check and register the configuration class of a method, and return it.

    Raises:
        ValueError: it does not resolve, is transformers' own, or has another `model_type` than the method says.
    """
    from transformers.models.auto.configuration_auto import AutoConfig

    config = resolve(method.config)
    if config.__module__.startswith("transformers."):
        raise ValueError(
            f"method {method.name!r} uses transformers' own {config.__name__}; a plugin needs its own configuration "
            "class, because transformers ignores what is registered for its own"
        )
    if config.model_type != method.model_type:
        raise ValueError(
            f"method {method.name!r} says model_type {method.model_type!r} but {config.__name__} has "
            f"{config.model_type!r}; make them equal"
        )
    AutoConfig.register(method.model_type, config)
    return config


def register_class(auto: str, config: type, value: Any, *, module: Any = None) -> None:
    """Register a class, or a mapping of classes by backend, for a configuration class with one auto class.

    Args:
        auto: name of the auto class.
        config: configuration class.
        value: class, or classes by backend.
        module: where the auto class lives, for use while transformers itself is being imported.
    Raises:
        ValueError: transformers has no such auto class, or refuses the class.
    """
    import transformers

    from hub_mim.method import suggest

    home = transformers if module is None else module
    registrar = getattr(home, auto, None) if auto.startswith("Auto") else None
    if registrar is None and auto.startswith("AutoModelFor"):
        registrar = _ours(auto)
    if registrar is None:
        known = [name for name in dir(home) if name.startswith("Auto")]
        raise ValueError(f"transformers has no auto class called {auto!r}{suggest(auto, known)}")
    if auto == "AutoImageProcessor":
        value = value if isinstance(value, Mapping) else {"pil": value}
        registrar.register(config, image_processor_classes=dict(value), exist_ok=True)
    elif auto == "AutoVideoProcessor":
        value = value if isinstance(value, Mapping) else {"torchvision": value}
        registrar.register(config, video_processor_classes=dict(value), exist_ok=True)
    else:
        registrar.register(config, value, exist_ok=True)


def _ours(auto: str) -> Any:
    """Return one of our own auto classes; while that module registers itself, it is there without being imported anew."""
    from hub_mim import auto as own

    return getattr(own, auto, None)


def resolve_all(value: str | Mapping[str, str]) -> Any:
    """Resolve a string, or each string of a mapping by backend."""
    if isinstance(value, str):
        return resolve(value)
    return {backend: resolve(string) for backend, string in value.items()}


def missing_plugin_message(model_type: str) -> str:
    """Say what to do about a checkpoint whose `model_type` no installed plugin has.

    Names a distribution only if it is on the list shipped with the core.
    """
    from hub_mim.plugins import known_distributions

    known = known_distributions()
    if model_type in known:
        return (
            f"no installed plugin has the model type {model_type!r}; pip install {known[model_type]}, then put the line "
            "`import hub_mim` before the loading"
        )
    return (
        f"no installed plugin has the model type {model_type!r} and no known distribution brings it; install the plugin "
        "that its card names, then put the line `import hub_mim` before the loading"
    )
