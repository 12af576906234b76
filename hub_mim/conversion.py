"""Turn an authors' checkpoint into ours and back, by the rules of each method, on transformers' conversion engine.

A plugin's `conversion_<stem>` module holds a `Conversion`: rules (`WeightRenaming`, `WeightConverter`, applied in order:
all renamings, then at most one converter a name), how the configuration follows from the weights, and what is left out
on purpose. Nothing is guessed: what no rule matches is reported by name, and a wrong shape is an error.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import (
    Chunk,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
)

from hub_mim.weights import read_weights

Rules = Sequence[WeightRenaming | WeightConverter]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How one method's released weights become ours.

    Attributes:
        rules: (config) -> rules from the authors' names to ours.
        config: (weights, **fields that weights do not tell) -> configuration.
        model: the auto class the weights belong to.
        ignore: regular expressions of the authors' names that have no counterpart here, such as constant tables.
        licence: of converted weights, where it differs from the method's.
    """

    rules: Callable[[Any], Rules]
    config: Callable[..., Any]
    model: str = "AutoModelForPreTraining"
    ignore: tuple[str, ...] = ()
    licence: str | None = None


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
    """Apply the rules to every tensor; a name that no rule matches keeps its name."""
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamed, groups = {}, _Groups(converters)
    for name, tensor in weights.items():
        between = apply_renamings(name, renamings)
        final, pattern = apply_converters(between, converters)
        if pattern is None:
            renamed[final] = tensor
        else:
            groups.add(final, between, pattern, tensor)
    return renamed | groups.convert()


def rename_back(weights: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Undo `rename`: from our names and layouts to the authors'; gradients go this way for parity."""
    reverse = [rule.reverse_transform() for rule in reversed(rules)]
    renamings = [rule for rule in reverse if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in reverse if isinstance(rule, WeightConverter)]
    renamed, groups = {}, _Groups(converters)
    for name, tensor in weights.items():
        final, pattern = apply_converters(name, converters)
        if pattern is None:
            renamed[apply_renamings(name, renamings)] = tensor
        else:
            groups.add(final, name, pattern, tensor)
    return renamed | {apply_renamings(name, renamings): tensor for name, tensor in groups.convert().items()}


class _Groups:
    """Tensors that one converter takes together, by the name of its first target."""

    def __init__(self, converters: list[WeightConverter]):
        self.by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        self.groups: dict[str, WeightConverter] = {}

    def add(self, target: str, source: str, pattern: str, tensor: Any) -> None:
        group = self.groups.setdefault(target, deepcopy(self.by_pattern[pattern]))
        group.add_tensor(target, source, pattern, tensor)

    def convert(self) -> dict[str, Tensor]:
        done: dict[str, Tensor] = {}
        for target, rule in self.groups.items():
            for name, tensor in rule.convert(target).items():
                done[name] = tensor[0] if isinstance(tensor, list) else tensor
        return done


def apply(conversion: Conversion, weights: Mapping[str, Tensor], model: Any) -> Report:
    """Load an authors' weights into one of our models.

    Args:
        conversion: the method's rules.
        weights: the authors' tensors by name.
        model: a `PreTrainedModel`; what has no counterpart keeps its value and is reported as missing.
    Raises:
        ValueError: a tensor has another shape than ours of that name.
    """
    ignored = [name for name in weights if any(re.fullmatch(pattern, name) for pattern in conversion.ignore)]
    kept = {name: tensor for name, tensor in weights.items() if name not in ignored}
    renamed = rename(kept, conversion.rules(model.config))
    own = model.state_dict()
    for name in renamed.keys() & own.keys():
        if renamed[name].shape != own[name].shape:
            shapes = f"{tuple(renamed[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            raise ValueError(f"{name} has the shape {shapes}; the configuration does not fit these weights")
    model.load_state_dict({name: renamed[name] for name in renamed if name in own}, strict=False)
    return Report(
        loaded=sorted(renamed.keys() & own.keys()),
        missing=sorted(own.keys() - renamed.keys()),
        unexpected=sorted(renamed.keys() - own.keys()),
        ignored=ignored,
    )


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
    """
    import transformers

    from hub_mim import registry, sharing
    from hub_mim.files import refuse_overwrite
    from hub_mim.method import resolve
    from hub_mim.plugins import get_method

    declared = get_method(method)
    if declared.conversion is None:
        raise ValueError(f"{method} has no conversion; its authors released no weights, or none are supported yet")
    refuse_overwrite(out, overwrite)
    registry.register()
    conversion: Conversion = resolve(declared.conversion)
    weights = read_weights(file)
    model = getattr(transformers, conversion.model).from_config(conversion.config(weights, **(config or {})))
    report = apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"{Path(file).name} does not fit {method}; nothing was written.\n{report}")
    sharing.save(out, model, overwrite=overwrite)
    return report
