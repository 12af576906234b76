"""What a plugin declares: a `Method` made of strings, and the `Example` that its checks run on.

Every class or function is named by a `"module:Name"` string, so that listing the methods imports nothing heavy.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

API_VERSION = 1

_STRING = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_SINGLE = (
    "config",
    "example",
    "collator",
    "on_step",
    "on_finish",
    "flops",
    "conversion",
    "parity",
    "sample_data",
    "demo",
    "picture",
    "draws",
    "on_create",
    "quicken",
    "load",
    "hold_out",
)


@dataclass(frozen=True, kw_only=True)
class Method:
    """Describe one method: where its classes are, how big its models are, how it is trained.

    Attributes:
        name: as its authors spell it, in lower case; what the command line takes.
        title: one line for people.
        paper: link or reference. citation: its BibTeX entry.
        licence: of the method's code and weights, as an SPDX identifier.
        modalities: kinds of input, such as ("table",) or ("image", "text").
        model_type: the configuration's `model_type`; default the name. Stated here so that two plugins that claim one
            are found without importing torch; registration checks it against the configuration class.
        api_version: of this contract; a plugin made for another one is set apart.
        config: string of the configuration class.
        auto: transformers' auto class -> string of the class; for AutoImageProcessor and AutoVideoProcessor a mapping
            by backend ("pil", "torchvision").
        example: string of an `Example`.
        presets: configuration arguments by size ("tiny", "base").
        parameters: preset -> exact number of parameters of the pre-training model, as the paper or its code counts it.
        recipe: the paper's training defaults, by the names of transformers' TrainingArguments.
        collator: string of a callable that makes a batch of encoded rows.
        on_step: string of a callable (model, step, total), called after the optimiser.
        on_finish: string of a callable (model, batches, seed), called once after training with the held-out batches, where
            there are any: what is calibrated on rows that training did not see.
        evaluators: name -> string of a callable (model, processor, rows, **options) -> list of results.
        flops: string of a callable (config, batch) -> floating-point operations of one forward pass.
        conversion: string of a `hub_mim.conversion.Conversion`.
        parity: string of a callable (path) -> tensors, compared with the authors' numbers.
        sample_data: string of a callable (count, seed) -> rows.
        picture: string of a callable (model, processor, rows, path, *, start, seed, overwrite) -> path, run by `hub-mim show`.
        native: the classes are transformers' own: nothing is registered, and the next two make up for what those lack.
        draws: string of a callable (model, batch, row_seed) -> arguments of forward that decide each row's mask, for models
            that take no `row_seed`.
        on_create: string of a callable (model), called once on a model that was built from a configuration.
        quicken: string of a callable (model), called before training unless `plain_steps` or FSDP is asked for: lets the model
            take its steps in less time, with the same loss and gradients up to rounding.
        augments: crops and flips that training may be asked for: argument of `augmenting.Augmentation` -> its value in the
            paper's recipe. They are of pictures alone: nothing else of a row may tell a place or a side.
        load: string of a callable (source, *, features=None, **options) -> rows, in place of `data.load_rows`: for sources that
            the core does not read, and for rows that are made from whole tables (a graph from its edges).
        hold_out: string of a callable (rows, share, seed) -> rows to learn from, held-out rows; in place of `data.split_rows`.
        embeds: what `hub-mim embed --per` can write besides one vector a row: name, which is that of a column as well ->
            string of a callable (model, processor, row, *, batch_size, dtype) -> iterator of (names, vectors), for one row.
        embed_per: what it writes unless told otherwise.
        demo: string of a callable (out, seed) -> `hub_mim.demo.Demo`, run by `hub-mim demo`.
        lora_targets: names of the linear layers that get adapters.
        tags: further tags of the card.
    """

    name: str
    title: str
    paper: str
    citation: str = ""
    licence: str
    modalities: tuple[str, ...]
    model_type: str = ""
    api_version: int = API_VERSION
    config: str
    auto: Mapping[str, str | Mapping[str, str]]
    example: str
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    collator: str | None = None
    on_step: str | None = None
    on_finish: str | None = None
    evaluators: Mapping[str, str] = field(default_factory=dict)
    flops: str | None = None
    conversion: str | None = None
    parity: str | None = None
    sample_data: str | None = None
    demo: str | None = None
    picture: str | None = None
    native: bool = False
    draws: str | None = None
    on_create: str | None = None
    quicken: str | None = None
    augments: Mapping[str, Any] = field(default_factory=dict)
    load: str | None = None
    hold_out: str | None = None
    embeds: Mapping[str, str] = field(default_factory=dict)
    embed_per: str = "row"
    lora_targets: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.model_type:
            object.__setattr__(self, "model_type", self.name)

    def strings(self) -> Iterator[tuple[str, str]]:
        """Yield every `"module:Name"` string with the place it stands, such as `auto[AutoModel]`."""
        for place in _SINGLE:
            if getattr(self, place) is not None:
                yield place, getattr(self, place)
        for table in ("auto", "evaluators", "embeds"):
            for key, value in getattr(self, table).items():
                nested = value.items() if isinstance(value, Mapping) else [("", value)]
                for backend, text in nested:
                    yield f"{table}[{key}{'.' if backend else ''}{backend}]", text


@dataclass(frozen=True, kw_only=True)
class Example:
    """Give the checks something small to run on.

    Attributes:
        config: a small configuration with no field at its default, so that a field lost in saving is noticed.
        rows: at least four rows of raw data.
        processor: turns the rows into tensors.
        corrupt: (batch, mask) -> batch with every hidden input replaced by noise; the mask is True where hidden.
        fixed: fields of the configuration that can only have their default, because the processor makes nothing else.
        hidden: (batch) -> least and most number of hidden places in each row, int64 (B,) each; equal where the method
            hides an exact share.
        odd_rows: name -> rows at the edge of what users have (an odd size, one channel, no text); the processor takes
            them, or says in a ValueError what it needs.
        suite_overrides: beginning of a name in transformers' own model tests -> why the method cannot pass these.
        processor_overrides: the same of transformers' processor tests.
    """

    config: Any
    rows: Any
    processor: Any
    corrupt: Callable[[Any, Any], Any]
    fixed: tuple[str, ...] = ()
    hidden: Callable[[Any], tuple[Any, Any]] | None = None
    odd_rows: Mapping[str, Any] = field(default_factory=dict)
    suite_overrides: Mapping[str, str] = field(default_factory=dict)
    processor_overrides: Mapping[str, str] = field(default_factory=dict)


def split(string: str) -> tuple[str, str]:
    """Part `"module:Name"` into the module and the name in it.

    Raises:
        ValueError: the string has another form.
    """
    match = _STRING.fullmatch(string) if isinstance(string, str) else None
    if match is None:
        raise ValueError(f"{string!r} is not of the form 'module:Name'")
    return match[1], match[2]


def resolve(string: str) -> Any:
    """Import what `"module:Name"` names.

    Raises:
        ValueError: the string has another form, its module cannot be imported, or the module has no such name.
    """
    from importlib import import_module

    module_name, name = split(string)
    try:
        value: Any = import_module(module_name)
        for part in name.split("."):
            value = getattr(value, part)
    except Exception as error:
        raise ValueError(f"{string!r} does not resolve: {type(error).__name__}: {error}") from error
    return value


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the known name nearest to `name`, or "" where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
