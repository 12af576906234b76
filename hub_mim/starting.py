"""What a training starts from: processor, configuration and model of a method, weights of a checkpoint, adapters."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_mim.method import Method, resolve, suggest

PROCESSORS = ("AutoProcessor", "AutoFeatureExtractor", "AutoImageProcessor", "AutoTokenizer")


def make_processor(
    method: Method,
    rows: Any,
    init_from: str | None = None,
    fields: Mapping[str, Any] | None = None,
    given: Any = None,
) -> Any:
    """Return the method's processor, fitted to the rows where it needs that.

    One that needs no fitting, or whose class says `fit_once` (what it learnt belongs to the weights, as a vocabulary does), is
    the checkpoint's, where a run starts from a checkpoint of the method that has one.

    Args:
        method: the method.
        rows: of the training, for a processor that has `fit(rows)`.
        init_from: checkpoint that the run starts from.
        fields: of the configuration, preset and overrides, for a processor class that has `for_config(fields)`.
        given: a processor to use instead, or the arguments of its class.
    Raises:
        ValueError: the method declares none, or `given` names an argument that its class does not take.
    """
    kind = _processor_class(method)
    if kind is None:
        raise ValueError(f"{method.name} declares no processor; its `auto` needs one of {', '.join(PROCESSORS)}")
    stored = not given and init_from is not None and stored_config(init_from).get("model_type") == method.model_type
    if stored and getattr(kind, "fit_once", False):
        kept = _stored_processor(str(init_from))
        if kept is not None:
            return kept
    if given:
        new = _with_arguments(kind, given, fields or {}) if isinstance(given, Mapping) else given
    else:
        new = kind.for_config(dict(fields or {})) if hasattr(kind, "for_config") else kind(**_usual(kind, fields or {}))
    if hasattr(kind, "fit"):
        return new.fit(rows)
    return _stored_processor(str(init_from)) or new if stored else new


def _usual(kind: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a processor of transformers' for pictures is made with: as large as the model's, grey ones in colour."""
    from transformers import BaseImageProcessor

    if not issubclass(kind, BaseImageProcessor):
        return {}
    made: dict[str, Any] = {"do_convert_rgb": True} if fields.get("num_channels", 3) == 3 else {}
    size = fields.get("image_size")
    if size is not None:
        high, wide = (size, size) if isinstance(size, int) else size
        whole = {"height": high, "width": wide}
        crop = getattr(kind, "crop_size", None) is not None
        made |= {"size": {"shortest_edge": min(high, wide)}, "crop_size": whole} if crop else {"size": whole}
    return made


def _with_arguments(kind: Any, arguments: Mapping[str, Any], fields: Mapping[str, Any]) -> Any:
    import inspect

    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "kwargs")]
    known += getattr(getattr(kind, "valid_kwargs", None), "__annotations__", {})
    for name in arguments:
        if name not in known:
            raise ValueError(f"{kind.__name__} takes no argument {name!r}{suggest(name, known)}; it takes {known}")
    return kind(**{**_usual(kind, fields), **arguments})


def unfitted_processor(method: Method, config: Any, given: Mapping[str, Any] | None = None) -> Any:
    """Return the method's processor for a configuration; None where it has none, or one that is fitted to rows.

    Args:
        given: arguments of its class, where it is one of transformers' own.
    """
    kind = _processor_class(method)
    if kind is None or hasattr(kind, "fit"):
        return None
    fields = config.to_dict()
    return kind.for_config(fields) if hasattr(kind, "for_config") else _with_arguments(kind, given or {}, fields)


def _processor_class(method: Method) -> Any:
    declared = next((method.auto[key] for key in PROCESSORS if key in method.auto), None)
    if declared is None:
        return None
    return resolve(declared if isinstance(declared, str) else declared[_backend(declared)])


def _backend(declared: Mapping[str, str]) -> str:
    from transformers.utils import is_torchvision_available

    wanted = "torchvision" if is_torchvision_available() else "pil"
    return wanted if wanted in declared else next(iter(declared))


def _stored_processor(source: str) -> Any:
    """Return the processor beside a checkpoint, None where there is none."""
    from transformers.utils import cached_file

    from hub_mim import loading

    for name in loading.PROCESSORS:
        if cached_file(source, name, _raise_exceptions_for_missing_entries=False):
            return loading.load_processor(source)
    return None


def stored_config(source: str) -> dict[str, Any]:
    """Return the configuration beside some weights, empty where a folder has none."""
    from hub_mim import loading

    if Path(source).is_dir() and not (Path(source) / loading.CONFIG).is_file():
        return {}
    return loading.read_config(source)


def choose_preset(method: Method, preset: str | None, init_from: str | None) -> str | None:
    """Return the size to build: the one asked for, none where a checkpoint of the method tells, else the first.

    Raises:
        ValueError: the method has no such preset.
    """
    if preset is not None and preset not in method.presets:
        raise ValueError(
            f"{method.name} has no preset {preset!r}{suggest(preset, method.presets)}; it has {', '.join(method.presets)}"
        )
    if preset is None and init_from is not None and stored_config(init_from).get("model_type") == method.model_type:
        return None
    return preset or next(iter(method.presets), None)


def make_model(method: Method, preset: str | None, fields: Mapping[str, Any], init_from: str | None = None) -> Any:
    """Build a model of a preset, or of a checkpoint's size where there is no preset, with some fields overridden.

    Raises:
        ValueError: a field the configuration does not have.
    """
    kind = resolve(method.config)
    known = kind().to_dict()
    for name in fields:
        if name not in known and not hasattr(kind, name):
            raise ValueError(f"the configuration of {method.name} has no field {name!r}{suggest(name, known)}")
    base: Mapping[str, Any] = method.presets[preset] if preset else {}
    if preset is None and init_from is not None:
        base = {name: value for name, value in stored_config(init_from).items() if name in known}
    hints = {each.name: each.type for each in dataclasses.fields(kind)}
    given = {**base, **{name: _as_floats(value, hints.get(name)) for name, value in fields.items()}}
    config = kind.from_dict(given) if preset is None else kind(**given)
    config._name_or_path = ""
    model = resolve(method.auto["AutoModelForPreTraining"])(config)  # type: ignore[arg-type]
    if method.on_create:
        resolve(method.on_create)(model)
    return model


def _as_floats(value: Any, hint: Any) -> Any:
    """Return whole numbers as the floats that a field holds, alone or in a dict: who types 0 means 0.0."""
    if hint is float and type(value) is int:
        return float(value)
    if hint == dict[str, float] and isinstance(value, Mapping):
        return {name: _as_floats(each, float) for name, each in value.items()}
    return value


def fresh_model(model: Any) -> Any:
    """Return a model of the same class and configuration with new weights, as pre-training would begin with."""
    import copy

    from hub_mim import plugins

    made = type(model)(copy.deepcopy(model.config)).to(model.device)
    method = plugins.find_by_model_type(model.config.model_type)
    if method is not None and method.on_create:
        resolve(method.on_create)(made)
    return made


def load_matching(model: Any, source: str) -> int:
    """Copy every weight of a checkpoint whose name and shape fit into a model, and say on stderr what did not.

    Args:
        model: a `PreTrainedModel`.
        source: folder or Hub id with safetensors weights; names may lack or carry the model's base prefix.
    Returns:
        Number of tensors copied.
    Raises:
        ValueError: none fits.
    """
    from hub_mim.loading import checkpoint_weights

    own = model.state_dict()
    prefix = f"{model.base_model_prefix}."
    fitting, unused = {}, []
    stored = _loaded_weights(type(model), source) if _is_native(model) else checkpoint_weights(source)
    for name, tensor in stored.items():
        names = (name, prefix + name, name.removeprefix(prefix))
        place = next((n for n in names if n in own and own[n].shape == tensor.shape), None)
        if place is None:
            unused.append(f"{name} {tuple(tensor.shape)}")
        else:
            fitting[place] = tensor
    if not fitting:
        kind = type(model).__name__
        raise ValueError(f"no weight of {source} fits {kind}; give a checkpoint of the same method and size")
    model.load_state_dict(fitting, strict=False)
    _say_what_fits(source, fitting, unused, list(own))
    return len(fitting)


def _is_native(model: Any) -> bool:
    return type(model).__module__.startswith("transformers.")


def _loaded_weights(kind: Any, source: str) -> dict[str, Any]:
    """Return what a checkpoint of one of transformers' own classes holds, by the names of today: files keep old ones.

    Of a checkpoint of another type, such as MAE for a ViT, it is the encoder.
    """
    if stored_config(source).get("model_type") != kind.config_class.model_type:
        from transformers import AutoModel

        kind = AutoModel
    model, info = kind.from_pretrained(source, output_loading_info=True, ignore_mismatched_sizes=True)
    absent = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in absent}


def _say_what_fits(source: str, fitting: Mapping[str, Any], unused: list[str], own: list[str]) -> None:
    from hub_mim.console import say

    if int(os.environ.get("RANK", "0")):
        return
    say(f"starting from {source}: {len(fitting)} of {len(own)} tensors")
    for what, names in (("new", [name for name in own if name not in fitting]), ("not used", unused)):
        if names:
            say(f"  {what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))


def add_adapters(model: Any, method: Method, init_from: str | None, whole: tuple[str, ...] = ()) -> Any:
    """Return the model with low-rank adapters on `Method.lora_targets`, the only weights that will be trained.

    Args:
        model: to adapt. method: declares the targets. init_from: checkpoint that it has the weights of.
        whole: names of modules that are trained whole beside the adapters: a new head.

    Raises:
        ValueError: there is nothing to adapt, or the method declares no targets.
    """
    if init_from is None:
        raise ValueError("lora needs a checkpoint to adapt: pass init_from (--init-from)")
    if not method.lora_targets:
        raise ValueError(f"{method.name} declares no lora_targets; train it whole")
    from peft import LoraConfig, get_peft_model

    return get_peft_model(
        model, LoraConfig(target_modules=list(method.lora_targets), modules_to_save=list(whole) or None)
    )
