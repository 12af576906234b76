"""What a row tells of its picture's parts, as text: names of objects, and boxes as numbers.

How LocCa writes boxes is not public; the templates and the numbers are ours, the order of a box is PaliGemma's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hub_mim.drafting import whole_size

WRITTEN = ("text", "caption", "phrase", "sentence")  # a region's own text, the first that is there
DESCRIBED = ("size", "color", "colour", "material")  # words before the name
NAMED = ("category", "shape", "class", "name", "label")
BOXED = ("bbox", "box")


class Region(NamedTuple):
    """A part of a picture: its text, and top, left, bottom, right as shares of the picture."""

    text: str
    box: tuple[float, float, float, float]


def regions_of(row: Mapping[str, Any], names: Mapping[str, Sequence[str]], unit: str = "pixel") -> list[Region]:
    """Return the regions of a row that have a text and a box.

    Args:
        row: with `image` (PIL) and `objects`: a list of dicts, or a dict of lists, with `bbox` or `box` = left, top, right,
            bottom, and a text of their own or words that describe and name them.
        names: of classes, by the field of an object that tells their numbers. unit: "pixel" or "share" of the picture.
    Raises:
        ValueError: a box lies outside of the picture, or has no area.
    """
    found = []
    size = whole_size(row["image"]) if unit == "pixel" else (1, 1)
    for each in as_list(row.get("objects")):
        text, box = region_text(each, names), next((each[key] for key in BOXED if each.get(key) is not None), None)
        if not text or box is None:
            continue
        left, top, right, bottom = (float(value) / size[place % 2] for place, value in enumerate(box))
        if not (0 <= left < right <= 1.001 and 0 <= top < bottom <= 1.001):
            raise ValueError(
                f"the box {list(box)} of {text!r} does not lie in the picture of {size[0]}x{size[1]} ({unit})"
            )
        found.append(Region(text, (top, left, bottom, right)))
    return found


def as_list(objects: Any) -> list[Mapping[str, Any]]:
    """Return objects one by one; a column of lists is a dict of lists in some datasets."""
    if isinstance(objects, Mapping):
        return [dict(zip(objects, values, strict=True)) for values in zip(*objects.values(), strict=True)]
    return list(objects or ())


def region_text(each: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> str:
    """Return the text of an object: its own, or what describes it and then its name; "" where nothing names it."""
    own = next((each[key] for key in WRITTEN if each.get(key)), None)
    if own is not None:
        return str(own)
    name = next((_word(each, key, names) for key in NAMED if each.get(key) is not None), "")
    return (
        " ".join([*(_word(each, key, names) for key in DESCRIBED if each.get(key) is not None), name]) if name else ""
    )


def _word(each: Mapping[str, Any], key: str, names: Mapping[str, Sequence[str]]) -> str:
    value = each[key]
    return str(names[key][value] if key in names and isinstance(value, int) else value).replace("_", " ")


def write_box(box: Sequence[float], bins: int) -> str:
    """Return a box (top, left, bottom, right in [0, 1]) as four whole numbers below `bins`."""
    return " ".join(str(min(bins - 1, max(0, round(value * (bins - 1))))) for value in box)


def read_box(text: str, bins: int) -> tuple[float, float, float, float] | None:
    """Return the box that a text tells, None where it does not tell four numbers below `bins`."""
    numbers = [int(each) for each in re.findall(r"\d+", text)[:4]]
    if len(numbers) < 4 or max(numbers) >= bins:
        return None
    top, left, bottom, right = (number / (bins - 1) for number in numbers)
    return top, left, bottom, right


def parts(template: str, asked: str, text: str = "", box: str = "") -> tuple[str, str]:
    """Return a template's prompt and answer: the answer is the last of `{text}` and `{box}` and what follows.

    Args:
        template: with `{text}`, `{box}` or both. asked: which of the two the answer is.
    Raises:
        ValueError: the template lacks it, or it does not come last.
    """
    mark = "{" + asked + "}"
    prompt, found, rest = template.partition(mark)
    if not found or "{" in rest:
        raise ValueError(f"the template {template!r} must end with {mark}")
    return prompt.replace("{text}", text).replace("{box}", box), {"text": text, "box": box}[asked] + rest
