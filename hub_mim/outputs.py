"""What models return."""

import dataclasses
from typing import Any, TypeVar

from transformers.utils import ModelOutput

Output = TypeVar("Output", bound=ModelOutput)


def in_order(output: Output) -> Output:
    """Return an output whose fields stand in the order of its class: with `return_dict=False` the loss comes first.

    transformers' ModelOutput puts a field that is set after it was made at its end.
    """
    kind: Any = type(output)
    made: Output = kind(**{each.name: getattr(output, each.name) for each in dataclasses.fields(kind)})
    return made
