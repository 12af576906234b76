"""What the checks look at: a method, its example, models and batches made from it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import plugins, registry
from hub_mim.data import as_records, encode
from hub_mim.masking import row_seeds
from hub_mim.method import Example, Method, resolve


class SkipCheck(Exception):
    """Raised by a check that does not apply; the message says why."""


class Subject:
    """A method under test."""

    def __init__(self, name: str):
        self.name = name
        self.method: Method = plugins.get_method(name)
        registry.register_method(self.method)

    @property
    def package(self) -> str:
        """The package that the plugin's configuration lives in."""
        return self.method.config.partition(".")[0]

    @property
    def distribution(self) -> str:
        """The distribution that brings the method."""
        return plugins.origin(self.name)[0]

    @cached_property
    def example(self) -> Example:
        """The plugin's example."""
        return resolve(self.method.example)()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The example's rows, a fresh copy."""
        return copy.deepcopy(as_records(self.example.rows))

    def model_class(self, auto: str = "AutoModelForPreTraining") -> Any:
        """The class behind an auto class."""
        return resolve(self.method.auto[auto])  # type: ignore[arg-type]

    def model(self, auto: str = "AutoModelForPreTraining", seed: int = 0, **fields: Any) -> Any:
        """A model of the example's configuration in evaluation mode, its weights decided by the seed."""
        config = copy.deepcopy(self.example.config)
        for name, value in fields.items():
            setattr(config, name, value)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.model_class(auto)(config).eval()

    def batch(self, rows: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """The example's rows as tensors."""
        return encode(self.example.processor, rows if rows is not None else self.rows)

    def seeds(self, seed: int = 0) -> Tensor:
        """One seed per row."""
        return row_seeds(seed, 0, torch.arange(len(self.rows)))

    def mask(self, model: Any, seed: int = 0) -> Any:
        """A mask drawn by the model itself."""
        with torch.no_grad():
            return model(**self.batch(), row_seed=self.seeds(seed)).mask


def without_dropout(model: Any) -> Any:
    """Switch a model's dropout and drop path off, in training too, and return it."""
    from hub_mim.blocks import DropPath

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.share = 0.0
    return model


def package_folder(subject: Subject) -> Path:
    """Return the folder of the plugin's modules."""
    from importlib.util import find_spec

    spec = find_spec(subject.package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def source_folder(subject: Subject) -> Path | None:
    """Return the folder with the plugin's pyproject.toml, None where it was installed from a wheel."""
    folder = package_folder(subject)
    found = [place for place in folder.parents[:2] if (place / "pyproject.toml").is_file()]
    return found[0] if found else None


def tensors(output: Any, *, without: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an output by dotted names, those of mappings and tuples too."""
    items = output.items() if hasattr(output, "items") else enumerate(output)
    for name, value in items:
        if name in without or value is None:
            continue
        if isinstance(value, Tensor):
            yield str(name), value
        elif hasattr(value, "items") or isinstance(value, tuple | list):
            yield from ((f"{name}.{inner}", tensor) for inner, tensor in tensors(value))


def compare(ours: Any, theirs: Any, what: str, *, tolerance: float = 0.0, without: tuple[str, ...] = ()) -> None:
    """Assert that two outputs have the same tensors, bit for bit or within an absolute tolerance."""
    first, second = dict(tensors(ours, without=without)), dict(tensors(theirs, without=without))
    assert first.keys() == second.keys(), f"{what}: one output has {sorted(first)}, the other {sorted(second)}"
    for name, tensor in first.items():
        other = second[name]
        assert tensor.shape == other.shape, f"{what}: {name} has shape {tuple(tensor.shape)} and {tuple(other.shape)}"
        if tolerance == 0 or not tensor.is_floating_point():
            assert torch.equal(tensor, other), f"{what}: {name} differs{_by(tensor, other)}"
        else:
            far = _by(tensor, other)
            near = torch.allclose(tensor.double(), other.double(), rtol=0, atol=tolerance, equal_nan=True)
            assert near, f"{what}: {name} differs{far}, more than {tolerance}"


def _by(tensor: Tensor, other: Tensor) -> str:
    if not tensor.is_floating_point():
        return f" in {int((tensor != other).sum())} places"
    return f" by up to {(tensor.double() - other.double()).abs().max().item():.3g}"


@contextmanager
def global_state_kept(what: str) -> Iterator[None]:
    """Assert that the block leaves torch's global source of randomness alone."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), (
        f"{what} drew from torch's global source; draw from row_seed or generator instead"
    )


def own_fields(config: Any) -> dict[str, Any]:
    """Return the plugin's own fields of a configuration, nested configurations as plain values."""
    names = [
        name
        for kind in type(config).__mro__
        if not _of_transformers(kind)
        for name in vars(kind).get("__annotations__", {})
    ]
    values = {name: getattr(config, name) for name in names if name != "model_type"}
    return {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in values.items()}


def _of_transformers(kind: type) -> bool:
    return kind.__module__.startswith(("transformers.", "huggingface_hub.", "builtins"))


def differing(first: Any, second: Any) -> list[str]:
    """Return the names of the tensors that are not equal."""
    left = dict(tensors(first if hasattr(first, "items") else {"": first}))
    right = dict(tensors(second if hasattr(second, "items") else {"": second}))
    return [name for name in left if not torch.equal(left[name], right[name])]
