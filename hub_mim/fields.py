"""Fields of configurations that know their range.

`transformers.utils.type_validators` has the like, and costs seconds to import.
"""

from typing import Any

from huggingface_hub.dataclasses import validated_field


def between(low: float | None = None, high: float | None = None, *, below: bool = False) -> Any:
    """Return what makes a field of numbers within a range: `num_layers: int = between(1)(3)`.

    Args:
        low, high: bounds, both allowed; None for none.
        below: whether `high` itself is not allowed.
    Returns:
        A function of the field's default.
    Raises:
        ValueError: by the configuration, for a value outside; the error names the field.
    """

    def check(value: float | None) -> None:
        if value is None:
            return
        too_high = high is not None and (value >= high if below else value > high)
        if (low is not None and value < low) or too_high:
            bounds = [f"at least {low}"] if low is not None else []
            bounds += [f"{'below' if below else 'at most'} {high}"] if high is not None else []
            raise ValueError(f"it is {value}; it must be {' and '.join(bounds)}")

    return lambda default: validated_field(check, default=default)
