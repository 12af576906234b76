"""Check plain values (of JSON) against the annotations of a dataclass."""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_fields(kind: type, values: Any, what: str, needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the values that are fields of a dataclass; others, of a newer version, are left out.

    Raises:
        ValueError: the values are no mapping, lack a needed field, or have one of another type.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be an object, not {type(values).__name__}")
    hints = get_type_hints(kind)
    lacking = [name for name in needed if name not in values]
    if lacking:
        raise ValueError(f"{what} must be an object with the field {lacking[0]!r}")
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            wanted = getattr(hints[name], "__name__", None) if not get_args(hints[name]) else str(hints[name])
            raise ValueError(f"{name} of {what} must be {wanted}, not {str(value)[:60]!r}")
    return {str(name): value for name, value in values.items() if name in hints}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value is of an annotated type; an int is a float, a list is a tuple, a bool is no number."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if kind is None or kind is NoneType:
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if kind is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if kind is tuple:
        several = inner[-1] is Ellipsis
        same = isinstance(value, list | tuple) and (several or len(value) == len(inner))
        return same and all(fits(each, inner[0] if several else inner[n]) for n, each in enumerate(value))
    return isinstance(value, kind)
