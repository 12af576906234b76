"""What a modality is: its name, what its values are, how it is cut into patches, how its prediction is judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hub_mim.method import suggest

LOSSES = {"continuous": ("mse", "l1"), "categorical": ("cross_entropy",)}


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of image that is aligned with the others.

    Attributes:
        kind: "continuous" (numbers, any number of channels) or "categorical" (one class number a pixel).
        channels: of a continuous one.
        num_classes: of a categorical one; a class "nothing" or "unknown" counts too.
        class_width: channels of the embedding of a class.
        stride: side of a pixel of its map in pixels of the picture; 4 = a map of a quarter of the side.
        loss: "mse", "l1", "cross_entropy", or "none" for what is only an input.
        mean, std: by which 8-bit values, divided by 255, are normalised, one number a channel; empty: not at all.
        standardize: whether the processor standardises each row's map by the mean and spread of its middle 80 %, as depth.
        scale: the processor divides values of more than 8 bits by this.
    """

    kind: str = "continuous"
    channels: int = 3
    num_classes: int = 0
    class_width: int = 64
    stride: int = 1
    loss: str = "mse"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    standardize: bool = False
    scale: float = 1.0

    @property
    def categorical(self) -> bool:
        """Whether values are class numbers."""
        return self.kind == "categorical"

    @property
    def depth(self) -> int:
        """Channels that enter the projection."""
        return self.class_width if self.categorical else self.channels

    @property
    def outputs(self) -> int:
        """Numbers that are predicted for a pixel of the map."""
        return self.num_classes if self.categorical else self.channels


def read(name: str, given: Mapping[str, Any]) -> Modality:
    """Make a modality of plain values, and check it.

    Raises:
        ValueError: an unknown field or a value out of range; the message names modality and field.
    """
    known = [field.name for field in fields(Modality)]
    for field in given:
        if field not in known:
            raise ValueError(
                f"modality {name!r} has no field {field!r}{suggest(field, known)}; it has {', '.join(known)}"
            )
    values = dict(given)
    if values.get("kind") == "categorical":
        values.setdefault("loss", "cross_entropy")
    made = Modality(**values | {key: tuple(values[key]) for key in ("mean", "std") if key in values})
    _check(name, made)
    return made


def _check(name: str, made: Modality) -> None:
    if not name.isidentifier():
        raise ValueError(f"modality {name!r} must have a name of letters, digits and underscores")
    if made.kind not in LOSSES:
        raise ValueError(f"kind of modality {name!r} is {made.kind!r}; it must be one of {tuple(LOSSES)}")
    if made.loss not in (*LOSSES[made.kind], "none"):
        raise ValueError(
            f"loss of {made.kind} modality {name!r} is {made.loss!r}; it may be {LOSSES[made.kind]} or 'none'"
        )
    least = {"channels": 1, "stride": 1, "class_width": 1, "num_classes": 2 if made.categorical else 0}
    for field, low in least.items():
        if getattr(made, field) < low:
            raise ValueError(f"{field} of modality {name!r} is {getattr(made, field)}; it must be at least {low}")
    for field in ("mean", "std"):
        if getattr(made, field) and len(getattr(made, field)) != made.channels:
            raise ValueError(
                f"{field} of modality {name!r} has {len(getattr(made, field))} numbers for {made.channels} channels"
            )
    if made.scale <= 0:
        raise ValueError(f"scale of modality {name!r} is {made.scale}; it must be above 0")


def named(given: Sequence[Mapping[str, Any]]) -> dict[str, Modality]:
    """Return modalities by name, in their order; each is the fields of `Modality` and a "name".

    Raises:
        ValueError: a name is missing or comes twice; see `read`.
    """
    found: dict[str, Modality] = {}
    for place, each in enumerate(given):
        if not isinstance(each, Mapping) or "name" not in each:
            raise ValueError(f"modality {place} is {each!r}; it must be fields with a 'name'")
        fields = dict(each)
        name = str(fields.pop("name"))
        if name in found:
            raise ValueError(f"there are two modalities called {name!r}")
        found[name] = read(name, fields)
    return found


RGB: dict[str, Any] = {"name": "rgb", "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DEPTH: dict[str, Any] = {"name": "depth", "channels": 1, "loss": "l1", "standardize": True, "scale": 65536.0}
SEMSEG: dict[str, Any] = {"name": "semseg", "kind": "categorical", "num_classes": 133, "class_width": 64, "stride": 4}
PAPER: tuple[dict[str, Any], ...] = (RGB, DEPTH, SEMSEG)
