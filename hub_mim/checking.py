"""Say no to wrong arguments: one line above a function tells the kinds, shapes and ranges of what it takes.

    @takes(x="float B T D", mask="bool B T", ids="int >=0 <vocab_size B T")
    def forward(self, x, mask=None, ids=None): ...

What is said of an argument, parted by spaces:

- a kind: `float`, `int`, `bool`, `mask` (bool, or the 0 and 1 of a tokenizer), `number` (float or int),
  `label` (also text, in arrays) or `any`;
- bounds of its values: `>=0`, `<vocab_size`; `|-100` is outside of them and allowed, too. Values of tensors are looked at on
  the CPU alone: elsewhere a look would wait for the device;
- `filled`: it may not be empty; `finite`: its values are no NaN and not infinite, looked at where bounds are;
- its dimensions, in order: a number; a name in capitals, the same size wherever it stands in the call; a name in small
  letters, an argument of the call or a field of `self.config`; `*` for any size; `...` for any further ones, first or last.
  Of a sequence of numbers these are its values: `shape="B T"`.

The values of a mapping and of a named tuple are each checked so. Arguments that are annotated as numbers are checked without
a word: whole numbers are whole, others finite. An argument may be None where its default is None. All tensors must be on one
device, the model's if `self` is one. NaN in a tensor is not looked for, save where its values are looked at: the trainer tells
of a loss that is no number.

A call from within such a call of the same thread is not checked again, where that takes tensors: what a model passes on costs
nothing, and steps of small models would feel it. Under `torch.compile` and `torch.export` kinds and shapes are checked, at the
time of tracing; values and devices are not.
"""

import functools
import inspect
import math
import numbers
import operator
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

KINDS = {  # the letters of numpy's kinds, and how it is told
    "float": ("f", "of floating-point numbers"),
    "int": ("iu", "of whole numbers"),
    "bool": ("b", "of bool"),
    "mask": ("biu", "of bool, or of 0 and 1"),
    "number": ("fiu", "of numbers"),
    "any": ("fiub", "of numbers or bool"),
    "label": ("fiubUSO", "of classes or quantities"),
}
SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_BOUND = re.compile(r"(>=|<=|>|<)(.+)")
_NUMBERS = re.compile(r"((?:[\w.]+\.)?(?:Sequence|tuple|list|Mapping)\[(?:str, )?)?(int|float)\b[^|]*")


_running = threading.local()  # `inside`: whether a function that was checked and takes tensors is being called


@dataclass(frozen=True, kw_only=True)
class Argument:
    """What one argument must be; see the module for the words.

    holds: "Tensor" or "ndarray", None where it may be neither. number: "int" or "float", None where it may be neither.
    many: a sequence or a mapping of such numbers. dtypes: torch's, of the kind. dims: empty for any shape. further: "before" or
    "after", where there may be other dimensions. parts: what a mapping must hold, by key; empty where it may have any keys.
    """

    name: str
    optional: bool
    holds: str | None = None
    number: str | None = None
    many: bool = False
    kind: str = "any"
    dtypes: tuple[Any, ...] = ()
    bounds: tuple[tuple[str, str], ...] = ()
    apart: int | None = None
    filled: bool = False
    finite: bool = False
    dims: tuple[int | str, ...] = ()
    further: str | None = None
    parts: Mapping[str, "Argument"] = field(default_factory=dict)

    @property
    def shape(self) -> str:
        """The dimensions, as they are told."""
        words = list(map(str, self.dims))
        if self.further is not None:
            words.insert(0 if self.further == "before" else len(words), "...")
        return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


# --- what is said --------------------------------------------------------------------------------------------------


def takes(**words: str | Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check the arguments of a function at each call; see the module.

    Args:
        words: what is said of an argument, by its name; of a mapping that has certain keys, by these.
    Returns:
        A decorator. The function raises TypeError for a wrong type or dtype, ValueError for a wrong shape, value or device,
        each with the argument's name.
    Raises:
        ValueError: the function has no argument of that name.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        strange = sorted(set(words) - set(parameters))
        if strange:
            raise ValueError(f"{function.__qualname__} has no arguments {strange}")
        found = (_argument(each, words.get(name)) for name, each in parameters.items())
        arguments = tuple(each for each in found if each is not None)
        return _checked(function, tuple(parameters), arguments)

    return decorate


def _checked(function: Callable[P, R], names: tuple[str, ...], arguments: tuple[Argument, ...]) -> Callable[P, R]:
    """Return the function with its check; torch is not imported for one without tensors."""

    @functools.wraps(function)
    def plain(*args: P.args, **kwargs: P.kwargs) -> R:
        check(arguments, {**dict(zip(names, args, strict=False)), **kwargs})
        return function(*args, **kwargs)

    if not any(each.holds == "Tensor" for each in arguments):
        return plain
    from torch.compiler import is_compiling

    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_compiling():
            check(arguments, {**dict(zip(names, args, strict=False)), **kwargs}, True)
            return function(*args, **kwargs)
        if getattr(_running, "inside", False):
            return function(*args, **kwargs)
        check(arguments, {**dict(zip(names, args, strict=False)), **kwargs})
        _running.inside = True
        try:
            return function(*args, **kwargs)
        finally:
            _running.inside = False

    return once


def check_tensors(given: Mapping[str, Any], owner: Any = None, **words: str) -> None:
    """Check tensors whose names only a call knows, as `takes` does; one that is None or not there is left out.

    Args:
        given: by name. owner: what has the fields that small letters name, such as a model. words: see `takes`.
    """
    import torch

    if torch.compiler.is_compiling():  # what is said of names is read anew in each call, which no compiler need trace
        return
    arguments = tuple(_of_words(name, said) for name, said in words.items())
    check(arguments, {**given, "self": owner})


def _argument(parameter: inspect.Parameter, words: str | Mapping[str, str] | None) -> Argument | None:
    """Return what an argument must be, by its annotation and what is said of it; None where that is nothing."""
    hint = parameter.annotation
    hint = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    number = next((found for part in hint.split(" | ") if (found := _NUMBERS.fullmatch(part))), None)
    facts: dict[str, Any] = {"optional": parameter.default is None}
    if number is not None:
        facts |= {"number": number[2], "many": bool(number[1])}
    if words is None and (number is None or number[1]):
        return None
    facts["holds"] = "ndarray" if "ndarray" in hint else None if number and "Tensor" not in hint else "Tensor"
    if words is None:
        words = "any ..." if facts["holds"] else ""
    if not isinstance(words, str):
        parts = {key: _of_words(key, said) for key, said in words.items()}
        return Argument(name=parameter.name, parts=parts, **facts)
    return _of_words(parameter.name, words, **facts)


@functools.lru_cache(1024)
def _of_words(name: str, words: str, *, optional: bool = True, holds: str | None = "Tensor", **facts: Any) -> Argument:
    """Return what is said of an argument."""
    kind, bounds = "any", []
    dims: list[int | str] = []
    for word in words.split():
        if word in KINDS:
            kind = word
        elif match := _BOUND.fullmatch(word):
            bounds.append((match[1], match[2]))
        elif word.startswith("|"):
            facts["apart"] = int(word[1:])
        elif word in ("filled", "finite"):
            facts[word] = True
        elif word == "...":
            facts["further"] = "after" if dims else "before"
        else:
            dims.append(int(word) if word.isdigit() else word)
    if holds == "Tensor":
        facts["dtypes"] = _dtypes(KINDS[kind][0])
    facts |= {"kind": kind, "dims": tuple(dims), "bounds": tuple(bounds)}
    return Argument(name=name, optional=optional, holds=holds, **facts)


@functools.cache
def _dtypes(letters: str) -> tuple[Any, ...]:
    """Return torch's types of numbers of the kinds with numpy's letters."""
    import torch

    every = {each for each in vars(torch).values() if isinstance(each, torch.dtype) and not each.is_complex}
    kinds = {each: "f" if each.is_floating_point else "b" if each is torch.bool else "i" for each in every}
    return tuple(each for each, letter in kinds.items() if letter in letters)


# --- a call --------------------------------------------------------------------------------------------------------


class _Call:
    """One call: its arguments, and the sizes and the device that those seen so far have decided, each with its argument."""

    __slots__ = ("compiling", "given", "place", "sizes")

    def __init__(self, given: Mapping[str, Any], compiling: bool):
        self.given, self.compiling = given, compiling
        self.sizes: dict[int | str, tuple[int, str]] = {}
        self.place: tuple[Any, str] | None = None

    def limit(self, word: str) -> Any:
        """Return the number that a word stands for, None where it stands for none."""
        if word in self.sizes:
            return self.sizes[word][0]
        if word in self.given or word.isupper():
            return self.given.get(word)
        found = self.given.get("self")
        found = getattr(found, "config", found)
        for part in word.split("."):
            found = getattr(found, part, None)
        return found


def check(arguments: Sequence[Argument], given: Mapping[str, Any], compiling: bool = False) -> None:
    """Raise TypeError or ValueError, with the argument's name, unless a call's arguments are what they must be."""
    call = _Call(given, compiling)
    for argument in arguments:
        name = argument.name
        if name in given:  # else its default, or Python's own word for what is missing
            value = given[name]
            if not (value is None and argument.optional) and not _fits(call, argument, value):
                _check_one(call, argument, name, value)


def _fits(call: _Call, argument: Argument, value: Any) -> bool:
    """Tell whether a tensor is plainly what it must be; where not, `_check_one` looks closer. Steps of small models count."""
    if argument.bounds or argument.finite or not argument.dims or getattr(value, "dtype", None) not in argument.dtypes:
        return False
    dims, shape, sizes = argument.dims, value.shape, call.sizes
    if len(shape) != len(dims) or argument.filled:
        return False
    for word, size in zip(dims, shape, strict=True):
        if word in sizes:
            if sizes[word][0] != size:
                return False
        elif word != size:
            if isinstance(word, int) or not word.isupper():
                return False
            sizes[word] = size, argument.name
    return call.compiling or (call.place is not None and value.device == call.place[0])


def _check_one(call: _Call, argument: Argument, name: str, value: Any) -> None:
    if argument.holds is not None and _holds(value, argument.holds):
        _check_array(call, argument, name, value)
    elif isinstance(value, Mapping) and (argument.holds is not None or argument.many):
        if argument.parts and value.keys() != argument.parts.keys():
            raise ValueError(f"{name} has {sorted(value)}; it must have {sorted(argument.parts)}")
        for key, each in value.items():
            if argument.holds is None:
                _check_number(call, argument, f"{name}[{key!r}]", each)
            else:
                _check_one(call, argument.parts.get(key, argument), f"{name}[{key!r}]", each)
    elif argument.parts and hasattr(value, "_asdict"):
        _check_one(call, argument, name, value._asdict())
    elif argument.many and isinstance(value, Sequence) and not isinstance(value, str):
        for place, each in enumerate(value):
            _check_number(call, argument, f"{name}[{place}]", each)
        _check_shape(call, argument, name, value)
        if argument.filled and not value:
            raise ValueError(f"{name} is empty; it needs one value at least")
    elif argument.number is not None and not argument.many:
        _check_number(call, argument, name, value)
    else:
        wanted = "a sequence" if argument.many else "a tensor" if argument.holds == "Tensor" else "an array"
        raise TypeError(f"{name} is {_told(value)}; it must be {wanted} {KINDS[argument.kind][1]}")


def _holds(value: Any, what: str) -> bool:
    """Tell whether a value is a tensor or an array, by an attribute that only these have: neither library is imported here."""
    return hasattr(value, "requires_grad" if what == "Tensor" else "__array_interface__")


def _told(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _check_array(call: _Call, argument: Argument, name: str, value: Any) -> None:
    letters, told = KINDS[argument.kind]
    right = value.dtype in argument.dtypes if argument.holds == "Tensor" else value.dtype.kind in letters
    if not right:
        raise TypeError(f"{name} is of {value.dtype}; it must be {told}")
    _check_shape(call, argument, name, value.shape)
    if argument.filled and 0 in value.shape:
        raise ValueError(f"{name} is empty, of the shape {tuple(value.shape)}; it needs one value at least")
    if call.compiling:
        return
    if argument.holds == "Tensor" and value.ndim:
        _check_device(call, name, value.device)
    if (argument.bounds or argument.finite) and (argument.holds == "ndarray" or value.device.type == "cpu"):
        _check_values(call, argument, name, value)


def _check_shape(call: _Call, argument: Argument, name: str, shape: Any) -> None:
    beyond = len(shape) - len(argument.dims)
    if (not argument.dims and argument.further is None) or (not shape and argument.number is not None):
        return
    found = f"{name} {'is' if shape is call.given.get(argument.name) else 'has the shape'} {tuple(shape)}"
    if beyond < 0 or (beyond and argument.further is None):
        raise ValueError(f"{found}; it must be {argument.shape}")
    sizes = call.sizes
    for word, size in zip(argument.dims, shape[beyond:] if argument.further == "before" else shape, strict=False):
        if isinstance(word, str) and word not in sizes and word.isupper():
            sizes[word] = size, name
        wanted = word if isinstance(word, int) else call.limit(word)
        if wanted is not None and size != wanted:
            source = f", as in {sizes[word][1]}" if word in sizes else ""
            told = "" if isinstance(word, int) else f" with {word} = {wanted}{source}"
            raise ValueError(f"{found}; it must be {argument.shape}{told}")


def _check_device(call: _Call, name: str, device: Any) -> None:
    if call.place is None:
        parameters = getattr(call.given.get("self"), "parameters", None)
        weight = next(parameters(), None) if parameters is not None else None
        # weights that are offloaded stand on no device until they are used
        if weight is None or weight.device.type == "meta":
            call.place = device, name
        else:
            call.place = weight.device, "the model"
    if device != call.place[0]:
        raise ValueError(f"{name} is on {device}, but {call.place[1]} on {call.place[0]}; move one with .to(...)")


def _check_values(call: _Call, argument: Argument, name: str, value: Any) -> None:
    if argument.apart is not None:
        value = value[value != argument.apart]
    if 0 in value.shape or getattr(value.dtype, "kind", "f") not in "fiu":
        return
    for extreme in value.aminmax() if hasattr(value, "aminmax") else (value.min(), value.max()):
        if argument.finite and not math.isfinite(extreme):
            raise ValueError(f"{name} holds {extreme.item()}; its values must be finite numbers")
        _check_bounds(call, argument, f"{name} holds", extreme.item())


def _check_bounds(call: _Call, argument: Argument, told: str, value: Any) -> None:
    for sign, word in argument.bounds:
        limit = float(word) if _is_number(word) else call.limit(word)
        if isinstance(limit, numbers.Real) and not SIGNS[sign](value, limit):
            source = f", as in {call.sizes[word][1]}" if word in call.sizes else ""
            raise ValueError(
                f"{told} {value}; it must be {sign} {word if _is_number(word) else f'{limit} ({word}{source})'}"
            )


def _is_number(word: str) -> bool:
    return word.lstrip("-").replace(".", "", 1).isdigit()


def _check_number(call: _Call, argument: Argument, name: str, value: Any) -> None:
    if call.compiling:
        return
    whole = argument.number == "int"
    if not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise TypeError(f"{name} is {_told(value)}; it must be a {'whole ' if whole else ''}number")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be a finite number")
    _check_bounds(call, argument, f"{name} is", value)
