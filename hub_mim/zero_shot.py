"""Zero-shot classification: pictures are given the class whose name, in a sentence, the model puts nearest to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hub_mim.features import untrained
from hub_mim.pairs import check_dual, image_vectors, text_vectors

if TYPE_CHECKING:
    import numpy as np

TEMPLATE = "a photo of a {}."  # Radford et al. 2021 (arXiv:2103.00020), section 3.1.4


def judge(
    name: str,
    model: Any,
    processor: Any,
    rows: Any,
    *,
    source: Any = None,
    train: Any = None,
    label: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    **extraction: Any,
) -> list[dict[str, Any]]:
    """Return the accuracy of naming rows without learning from any, beside random models and the most frequent class.

    Args:
        model: one that has `get_image_features` and `get_text_features`, such as CLIP or SigLIP.
        label: column of the classes: a `datasets.ClassLabel`, or their names.
        options: `template`: sentences with `{}` for the name, parted by "|"; their vectors are averaged.
        name, processor, rows, seeds: see `protocols.judge`. source, train, extraction: not used.
    Raises:
        ValueError: the model has no text or image side; a template without `{}`; labels that have no names.
    """
    import numpy as np

    from hub_mim.protocols import PROTOCOLS, chosen_options, figure, read_labels

    protocol = PROTOCOLS[name]
    templates = chosen_options(name, protocol, options or {})["template"].split("|")
    if any("{}" not in text for text in templates):
        raise ValueError(f"the template {templates[0]!r} has no {{}} where the name of the class goes")
    check_dual(model)
    labels = read_labels(rows, label)
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    names = class_names(rows, label, classes)
    ours = _accuracy(model, processor, rows, names, templates, numbers, batch_size)
    random = [
        _accuracy(untrained(model, seed), processor, rows, names, templates, numbers, batch_size) for seed in seeds
    ]
    sources = {"": [ours], "untrained": random, "most frequent class": [float(counts.max() / counts.sum())]}
    return [figure(name, protocol, "accuracy", what, values, seeds) for what, values in sources.items()]


def class_names(rows: Any, label: str | None, classes: np.ndarray) -> list[str]:
    """Return the names of classes; see `judge`.

    Raises:
        ValueError: they are numbers without names.
    """
    from hub_mim.protocols import label_column

    column = label_column(rows, label)
    feature = (getattr(rows, "features", None) or {}).get(column)
    named = getattr(feature, "names", None)
    if named is None and classes.dtype.kind not in "US":
        raise ValueError(
            f"the labels in {column!r} are numbers without names; zero-shot needs names (text, or a datasets.ClassLabel)"
        )
    return [str(named[int(value)] if named else value).replace("_", " ") for value in classes]


def _accuracy(
    model: Any, processor: Any, rows: Any, names: list[str], templates: list[str], numbers: np.ndarray, batch_size: int
) -> float:
    import torch

    from hub_mim.data import batches

    model.eval()
    each = [text_vectors(model, processor, [text.format(name) for name in names]) for text in templates]
    texts = torch.nn.functional.normalize(torch.stack(each).mean(0), dim=-1)
    found = [(image_vectors(model, processor, part) @ texts.T).argmax(1).cpu() for part in batches(rows, batch_size)]
    return float((torch.cat(found) == torch.from_numpy(numbers)).float().mean())
