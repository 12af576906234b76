"""Load a checkpoint that a stranger may have made: look at it first, run no code of it, take no half of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub_mim.files import check_exists, first_line, read_json
from hub_mim.method import resolve
from hub_mim.typed import fits

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
ADAPTERS = "adapter_model.safetensors"
PROCESSORS = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5")
_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # of a repository; never code, never pickles
# what transformers and its Trainer write beside a class's own fields
_USUAL = {
    "architectures",
    "auto_map",
    "dtype",
    "model_type",
    "quantization_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def load(source: str | Path, *, auto: str = "AutoModel", revision: str | None = None, **kwargs: Any) -> Any:
    """Load a checkpoint from a folder or a Hub by one of transformers' auto classes.

    Stricter than the auto class alone: damaged files, weights of another model and fields that the plugin here does not
    know are errors, and no code from a repository is run unless `trust_remote_code=True` is passed.

    Args:
        source: folder or Hub id, of a model or of adapters (peft), whose base is loaded under them.
        auto: which auto class.
        revision: of a Hub repository: branch, tag, commit, or `refs/pr/1`.
        kwargs: passed to `from_pretrained`.
    Raises:
        ValueError: not a checkpoint, a damaged one, no plugin here has its model type (the message says what to install),
            or its weights are a pickle, which can execute code and is never loaded.
    """
    import hub_mim
    from hub_mim.auto import auto_class

    hub_mim.register()
    trusted = kwargs.setdefault("trust_remote_code", False)
    folder, commit = check_loadable(source, revision, trusted=trusted)
    if not (folder / CONFIG).is_file():
        return _load_adapters(folder, auto, kwargs)
    asked, misfits = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
    method = _native(folder)
    kind = auto_class(auto)
    if method is not None and auto == "AutoModel" and "mask_ratio" in read_config(folder):
        kwargs.setdefault("mask_ratio", 0.0)  # transformers' own encoder of the kind would hide tokens
    if method is not None and auto in method.auto and auto != "AutoModel":
        kind = resolve(str(method.auto[auto]))  # not all of these are behind the auto class
    place = str(source) if commit else str(folder)
    options: dict[str, Any] = {"revision": commit} if commit else {}
    with _without_report(), _refused(source, auto):
        model, info = kind.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options, **kwargs
        )
    if info["mismatched_keys"] and not misfits:
        name, stored, wanted = min(info["mismatched_keys"], key=lambda each: each[0])
        raise ValueError(
            f"{source} holds {name} of shape {tuple(stored)}, by its config.json it would be {tuple(wanted)}; the two files are "
            "not of one model"
        )
    _check_complete(source, auto, model, sorted(info["missing_keys"]))
    return (model, info) if asked else model


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep transformers from listing the decoder's weights, which an encoder does not need; what is amiss is raised below."""
    from transformers.utils import logging

    loud = logging.get_verbosity()
    logging.set_verbosity(max(loud, logging.ERROR))
    try:
        yield
    finally:
        logging.set_verbosity(loud)


@contextmanager
def _refused(source: Any, auto: str) -> Iterator[None]:
    """Turn what transformers and the model's classes raise for files that make no sense into one sentence."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (
        StrictDataclassError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        ImportError,
        OSError,
        RuntimeError,
    ) as error:
        told = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{source} cannot be loaded by {auto}: {told}") from error


def _native(folder: Path) -> Any:
    """Return the method of a checkpoint whose classes are transformers' own, None for any other checkpoint."""
    from hub_mim import plugins

    values = read_config(folder)
    method = plugins.find_by_model_type(values.get("model_type"))
    known = method is not None and method.native and plugins.made(method, values.get("architectures"))
    return method if known else None


def _load_adapters(folder: Path, auto: str, kwargs: dict[str, Any]) -> Any:
    """Load the base of adapters, then these; transformers itself would look for the base under the adapters' revision."""
    base, revision = adapter_base(folder)
    if not (folder / ADAPTERS).is_file():
        raise ValueError(f"{folder} holds no {ADAPTERS}; adapters of another kind could be a pickle and are not loaded")
    model = load(base, auto=auto, revision=revision, **kwargs)
    with _without_report(), _refused(folder, "peft"):
        missing = sorted(model.load_adapter(str(folder)).missing_keys)
    if missing:  # peft would leave them random
        raise ValueError(
            f"{folder} lacks {len(missing)} of the adapters of {type(model).__name__} ({missing[0]}); they are of another model, "
            "or this peft does not know its weights (pip install -U peft)"
        )
    return model


def _check_complete(source: Any, auto: str, model: Any, missing: list[str]) -> None:
    """Raise where weights are missing, which transformers would fill with random numbers and a warning.

    A new head on an encoder is meant to be random; the encoder, and all of a pre-training model, are not.
    """
    from hub_mim import plugins

    method = plugins.find_by_model_type(model.config.model_type)
    ours = method is not None and not method.native
    prefix = f"{model.base_model_prefix}."
    if auto not in ("AutoModel", "AutoModelForPreTraining") and hasattr(model, model.base_model_prefix):
        missing = [name for name in missing if name.startswith(prefix)]
    if missing and (ours or len(missing) >= len(model.state_dict())):
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{source} lacks {len(missing)} of the weights of {type(model).__name__} ({names}); it is of another model, or "
            "was saved without them"
        )


def load_processor(source: str | Path, *, revision: str | None = None) -> Any:
    """Load the processor saved beside a checkpoint; see `load`."""
    import transformers

    import hub_mim

    hub_mim.register()
    read_config(source, revision)
    if Path(source).is_dir():
        present = [Path(source) / name for name in PROCESSORS if (Path(source) / name).is_file()]
        if not present:
            raise ValueError(f"{source} holds no processor ({', '.join(PROCESSORS)})")
        for path in present:
            _read_object(path)
    with _refused(source, "AutoProcessor"):
        return transformers.AutoProcessor.from_pretrained(
            str(source), revision=revision or "main", trust_remote_code=False
        )


def read_config(source: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Return the `config.json` of a checkpoint as plain values; of adapters that of their base.

    Raises:
        ValueError: there is none.
        FileNotFoundError: a path that does not exist.
    """
    from transformers.utils import cached_file

    check_exists(source)
    if Path(source).is_file():
        raise ValueError(f"{source} is a file; give the folder of a checkpoint (hub-mim convert makes one of it)")
    folder = Path(source)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        if (folder / ADAPTER).is_file():
            return read_config(*adapter_base(folder))
        raise ValueError(f"{source} is no checkpoint: it holds no config.json")
    try:
        path = cached_file(str(source), CONFIG, revision=revision, _raise_exceptions_for_missing_entries=False)
        if path is None:
            adapters = cached_file(str(source), ADAPTER, revision=revision, _raise_exceptions_for_missing_entries=False)
            if adapters is None:
                raise ValueError(f"{source} is no checkpoint: it holds no config.json")
            return read_config(*adapter_base(Path(adapters).parent))
    except OSError as error:
        raise ValueError(
            f"{source} is neither a folder nor a repository that the Hub gave: {first_line(error)}"
        ) from error
    return _read_object(path, f"config.json of {source}")


def _read_object(path: str | Path, name: str = "") -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        ValueError: it is no JSON, or no object.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{name or path} must be an object, not {type(values).__name__}")
    return values


def adapter_base(folder: Path) -> tuple[str, str | None]:
    """Return the model that adapters belong to, and its revision.

    Raises:
        ValueError: they do not say.
    """
    values = read_json(folder / ADAPTER)
    base = values.get("base_model_name_or_path") if isinstance(values, dict) else None
    if not base or not isinstance(base, str):
        raise ValueError(f"{ADAPTER} in {folder} does not say which model its adapters belong to")
    return base, values.get("revision")


def check_loadable(
    source: str | Path, revision: str | None = None, *, trusted: bool = False
) -> tuple[Path, str | None]:
    """Look at a checkpoint without running anything of it; a Hub's is fetched into the cache, code and pickles left out.

    Args:
        source: folder or Hub id.
        revision: of a Hub repository.
        trusted: whether the caller allows the repository's own code.
    Returns:
        Its folder, and the commit where it is from a Hub.
    Raises:
        ValueError: it cannot or must not be loaded here; see `load`.
    """
    values = read_config(source, revision)
    folder, commit = fetch(source, revision)
    if (folder / CONFIG).is_file():
        if not (trusted and "auto_map" in values):
            _check_known(source, values)
    elif (folder / ADAPTER).is_file():
        check_loadable(*adapter_base(folder))
    tensors = check_weights(folder, source)
    for name, value in _layers(values):
        if value > tensors and not folder.joinpath(ADAPTER).is_file():
            raise ValueError(
                f"config.json of {source} asks for {name} = {value}, and its weights are {tensors} tensors"
            )
    return folder, commit


def _kernels(values: Any) -> Iterator[tuple[str, str]]:
    """Yield every implementation in a configuration that transformers would fetch as code: "owner/name"."""
    for name, value in values.items() if isinstance(values, dict) else ():
        yield from _kernels(value)
        if "implementation" in name and "/" in str(value):
            yield name, str(value)


def _layers(values: Any) -> Iterator[tuple[str, int]]:
    """Yield every number of layers in a configuration: so many modules would be built before anything is compared."""
    for name, value in values.items() if isinstance(values, dict) else ():
        yield from _layers(value)
        if isinstance(value, int) and ("layers" in name or "depth" in name):
            yield name, value


def fetch(source: str | Path, revision: str | None = None) -> tuple[Path, str | None]:
    """Return the folder of a checkpoint and, where it is from a Hub, the commit; only what loading reads is fetched."""
    from huggingface_hub import snapshot_download

    if Path(source).is_dir():
        return Path(source), None
    folder = Path(snapshot_download(str(source), revision=revision, allow_patterns=_READ, ignore_patterns=["*/*"]))
    return folder, folder.name


def _check_known(source: Any, values: dict[str, Any]) -> None:
    """Raise unless a plugin or transformers has the model type, and the plugin's configuration knows every field."""
    from transformers import CONFIG_MAPPING

    from hub_mim import plugins
    from hub_mim.registry import missing_plugin_message

    model_type = values.get("model_type")
    for name, kernel in _kernels(values):
        raise ValueError(
            f"config.json of {source} asks for {name} = {kernel!r}, which is code from a Hub and is not run"
        )
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        code = "; the code that its repository carries is not run" if "auto_map" in values else ""
        raise ValueError(missing_plugin_message(str(model_type)) + code)
    method = plugins.find_by_model_type(model_type)
    if method is None:
        return
    kind: Any = CONFIG_MAPPING[method.model_type]
    known = {*kind.__dataclass_fields__, *kind().to_dict(), *_USUAL, *getattr(kind, "attribute_map", {})}
    known |= {name for fields in method.presets.values() for name in fields}  # a native method may need one of its own
    unknown = [name for name in values if name not in known and not name.startswith("_")]
    if unknown:
        distribution, version = plugins.origin(method.name)
        raise ValueError(
            f"config.json of {source} has the field {unknown[0]!r}, which {distribution} {version} does not know; it is of "
            f"a newer version: pip install -U {distribution}"
        )


def check_weights(folder: Path, source: Any = None) -> int:
    """Raise unless a folder's weights are safetensors files, whole, and all that their index names are there.

    Returns:
        How many tensors they hold.
    """
    from safetensors import SafetensorError, safe_open

    source = folder if source is None else source
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        found = f"only {pickles[0]}, a pickle, which could execute code" if pickles else "no weights"
        raise ValueError(f"{source} holds {found}; safetensors are needed (hub-mim convert makes them)")
    tensors = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as stored:
                tensors += len(stored.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path.name} of {source} is damaged: {first_line(error)}; fetch or save it again"
            ) from error
    for index in folder.glob("*.safetensors.index.json"):
        names = _read_object(index).get("weight_map", {})
        if not fits(names, dict[str, str]):
            raise ValueError(f"weight_map in {index.name} of {source} must name a file for each tensor")
        for name in sorted(set(names.values())):
            if name not in {path.name for path in files}:
                raise ValueError(f"{index.name} of {source} names the file {name!r}, which is not in it")
    return tensors


def checkpoint_weights(source: str | Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint's safetensors files by name, from a folder or a Hub."""
    from hub_mim.weights import read_weights

    folder, _ = fetch(source)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{source} holds no safetensors weights")
    return {name: tensor for file in files for name, tensor in read_weights(file).items()}
