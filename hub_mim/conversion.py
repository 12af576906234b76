"""Turn an authors' checkpoint into ours and back, by the rules of each method, on transformers' conversion engine.

A plugin's `conversion_<stem>` module holds a `Conversion`: rules (`WeightRenaming`, `WeightConverter`, applied in order:
all renamings, then at most one converter a name), how the configuration follows from the weights, and what is left out
on purpose. Nothing is guessed: what no rule matches is reported by name, and a wrong shape is an error.

What to call: `split_qkv` and `Reshape` to write rules; `apply` to load an authors' weights into a model; `rename_back`
to give gradients or weights the authors' names and layouts; `convert` to turn a file into a folder.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import (
    Chunk,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    dot_natural_key,
)

from hub_mim.weights import read_weights

Rules = Sequence[WeightRenaming | WeightConverter]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How one method's released weights become ours.

    Attributes:
        rules: (config) -> rules from the authors' names to ours.
        config: (weights, **fields that weights do not tell) -> configuration.
        model: the auto class the weights belong to, or (weights) -> auto class where the authors released several kinds.
        ignore: regular expressions of the authors' names that have no counterpart here, such as constant tables.
        prepare: (weights) -> weights in the one layout that the rules know, where the authors released several.
        licence: of converted weights, where it differs from the method's.
        processor: arguments of the processor that the weights were trained with, where it is one of transformers' own.
    """

    rules: Callable[[Any], Rules]
    config: Callable[..., Any]
    model: str | Callable[[Mapping[str, Tensor]], str] = "AutoModelForPreTraining"
    ignore: tuple[str, ...] = ()
    prepare: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    licence: str | None = None
    processor: Mapping[str, Any] = field(default_factory=dict)

    def auto_class(self, weights: Mapping[str, Tensor]) -> str:
        """Return the auto class that these weights belong to."""
        return self.model if isinstance(self.model, str) else self.model(weights)


@dataclass
class Report:
    """What a conversion did: names loaded (ours), missing (ours), unexpected and ignored (theirs)."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every tensor found its place and every place its tensor."""
        return not self.missing and not self.unexpected

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"complete": self.complete}

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.ignored)} left out on purpose"]
        for title, names in (("no counterpart in the file", self.missing), ("unmatched in the file", self.unexpected)):
            lines += [f"{title}: {len(names)}", *(f"  {name}" for name in names)] if names else []
        return "\n".join(lines)


class Reshape(ConversionOps):
    """Give a tensor another shape; `back` is the shape that reverses it."""

    def __init__(self, shape: Sequence[int], back: Sequence[int]):
        self.shape, self.back = tuple(shape), tuple(back)

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Return the one tensor in its new shape, under the target's name."""
        (tensor,) = (value[0] if isinstance(value, list) else value for value in input_dict.values())
        return {target_patterns[0]: tensor.reshape(self.shape)}

    @property
    def reverse_op(self) -> ConversionOps:
        """Return the operation that undoes this one."""
        return Reshape(self.back, self.shape)


def split_qkv(source: str, target: str, names: Sequence[str] = ("q_proj", "k_proj", "v_proj")) -> list[WeightConverter]:
    """Return the rules that part one fused projection into several, for weights and biases.

    Args:
        source: the fused layer's name in the authors' file, a pattern such as "attn.qkv".
        target: where the parts live, such as "attention".
        names: the parts, in the order in which they are stacked.
    """
    return [
        WeightConverter(f"{source}.{kind}", [f"{target}.{name}.{kind}" for name in names], operations=[Chunk(0)])
        for kind in ("weight", "bias")
    ]


def rename(weights: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Apply the rules to every tensor.

    A name that no rule matches keeps its name, and so do the parts of a merger of which one is missing.

    Raises:
        ValueError: two tensors would get one name, or an operation does not fit a tensor.
    """
    renamings, converters = _parted(rules)
    groups, found = _Groups(converters), []
    for name in sorted(weights, key=dot_natural_key):
        between = apply_renamings(name, renamings)
        if not groups.take(name, between, weights[name]):
            found.append((name, between, weights[name]))
    return _by_name(chain(found, groups.convert()))


def rename_back(weights: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Undo `rename`: from our names and layouts to the authors'; gradients go this way for parity.

    Raises:
        ValueError: as `rename`.
    """
    renamings, converters = _parted([rule.reverse_transform() for rule in reversed(rules)])
    groups, found = _Groups(converters), []
    for name in sorted(weights, key=dot_natural_key):
        if not groups.take(name, name, weights[name]):
            found.append((name, name, weights[name]))
    whole = chain(found, groups.convert())
    return _by_name((old, apply_renamings(between, renamings), tensor) for old, between, tensor in whole)


Found = tuple[str, str, Tensor]  # old name, new name, tensor


def _parted(rules: Sequence[Any]) -> tuple[list[WeightRenaming], list[WeightConverter]]:
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    return renamings, [rule for rule in rules if isinstance(rule, WeightConverter)]


def _by_name(found: Iterable[Found]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for old, new, tensor in found:
        if new in weights:
            raise ValueError(f"{origin[new]} and {old} would both become {new}; a rule matches more than it should")
        weights[new], origin[new] = tensor, old
    return weights


class _Groups:
    """Tensors that one converter takes together, by the converter and the name of its first target."""

    def __init__(self, converters: list[WeightConverter]):
        self.converters = converters
        self.rules: dict[tuple[int, str], WeightConverter] = {}
        self.members: dict[tuple[int, str], list[Found]] = {}

    def take(self, old: str, name: str, tensor: Any) -> bool:
        """Put a tensor aside for the first converter that matches its name; tell whether there is one."""
        for number, converter in enumerate(self.converters):
            target, pattern = converter.rename_source_key(name)
            if pattern is not None:
                rule = self.rules.setdefault((number, target), deepcopy(converter))
                rule.add_tensor(target, name, pattern, tensor)
                self.members.setdefault((number, target), []).append((old, name, tensor))
                return True
        return False

    def convert(self) -> Iterator[Found]:
        """Give every converted tensor, and those of incomplete groups as they are."""
        for key, rule in self.rules.items():
            members = self.members[key]
            if set(rule.source_patterns) - set(rule.collected_tensors):
                yield from members
                continue
            names = ", ".join(old for old, _, _ in members)
            try:
                done = rule.convert(key[1])
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{names} cannot become {key[1]}: {error}") from error
            for name, tensor in done.items():
                yield names, name, tensor[0] if isinstance(tensor, list) else tensor


def apply(conversion: Conversion, weights: Mapping[str, Tensor], model: Any) -> Report:
    """Load an authors' weights into one of our models.

    Args:
        conversion: the method's rules.
        weights: the authors' tensors by name.
        model: a `PreTrainedModel`; what has no counterpart keeps its value and is reported as missing.
    Raises:
        ValueError: tensors have other shapes than ours of those names (all are named), or see `rename`.
    """
    ignored = [name for name in weights if any(re.fullmatch(pattern, name) for pattern in conversion.ignore)]
    kept = {name: tensor for name, tensor in weights.items() if name not in ignored}
    renamed = _without_prefix(rename(kept, conversion.rules(model.config)), model)
    own = model.state_dict()
    wrong = [
        f"{name} has the shape {tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the model"
        for name, tensor in renamed.items()
        if name in own and tensor.shape != own[name].shape
    ]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; the configuration does not fit these weights")
    model.load_state_dict({name: renamed[name] for name in renamed if name in own}, strict=False)
    return Report(
        loaded=sorted(renamed.keys() & own.keys()),
        missing=sorted(own.keys() - renamed.keys()),
        unexpected=sorted(renamed.keys() - own.keys()),
        ignored=ignored,
    )


def _without_prefix(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Take the encoder's prefix off the names, where the model is the encoder itself."""
    prefix = f"{model.base_model_prefix}."
    if hasattr(model, model.base_model_prefix):
        return weights
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}


def convert(
    method: str,
    file: str | Path,
    out: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Report:
    """Convert an authors' checkpoint file into a folder that `AutoModel.from_pretrained` loads.

    Args:
        method: name of an installed method that has a conversion.
        file: see `hub_mim.weights.read_weights`.
        out: folder to write.
        config: configuration fields that the weights do not tell.
        overwrite: replace what is in `out`.
    Raises:
        ValueError: no such method or conversion, an unreadable file, a shape that does not fit, or names unmatched in
            either direction (the message is the report).
        FileExistsError: `out` holds something and `overwrite` is false.

    The method's processor is saved beside the weights, unless it has to be fitted to rows; `conversion.json` keeps the
    name and the hash of the file and the licence of its weights.
    """
    import transformers

    from hub_mim import registry, sharing
    from hub_mim.files import refuse_overwrite, sha256
    from hub_mim.method import resolve
    from hub_mim.plugins import get_method, origin
    from hub_mim.starting import unfitted_processor

    declared = get_method(method)
    if declared.conversion is None:
        raise ValueError(f"{method} has no conversion; its authors released no weights, or none are supported yet")
    refuse_overwrite(out, overwrite)
    registry.register()
    conversion: Conversion = resolve(declared.conversion)
    weights = read_weights(file)
    if conversion.prepare is not None:
        weights = dict(conversion.prepare(weights))
    model = getattr(transformers, conversion.auto_class(weights)).from_config(
        conversion.config(weights, **(config or {}))
    )
    report = apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"{Path(file).name} does not fit {method}; nothing was written.\n{report}")
    source = {
        "file": Path(file).name,
        "sha256": sha256(Path(file)),
        "licence": conversion.licence or declared.licence,
        "distribution": " ".join(origin(method)),
    }
    processor = unfitted_processor(declared, model.config, conversion.processor)
    sharing.save(out, model, processor, converted_from=source, overwrite=overwrite)
    return report
