"""What the paper looks at: how far and how evenly each head attends, and whether heads of one window agree across layers.

Shapes: B rows, N patches, H heads, L layers of the decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim_mwmae.windows import head_weights


@dataclass(frozen=True)
class HeadStatistics:
    """Of each head of each layer, float (L, H), means over rows and patches.

    distance: patches of the flat sequence between what looks and what is looked at, weighted by attention.
    entropy: of the attention, in nats. outputs: (L, H, B * N, d), what each head gives.
    attention: (L, H, N, N), a line for each patch that looks.
    """

    distance: Tensor
    entropy: Tensor
    outputs: Tensor
    attention: Tensor


def head_statistics(
    model: Any, input_values: Tensor, mask: Tensor | None = None, row_seed: Tensor | None = None
) -> HeadStatistics:
    """Run a pre-training model and look at its decoder's heads.

    Args:
        model: `MwMaeForPreTraining`; put into evaluation mode.
        input_values, mask, row_seed: see its `forward`.
    Source: section 5 of the paper.
    """
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        layer.attention.register_forward_hook(lambda module, inputs, _: seen.append(head_weights(module, inputs[0])))
        for layer in model.decoder.layers
    ]
    try:
        with torch.no_grad():
            model.eval()(input_values, mask=mask, row_seed=row_seed, return_loss=False)
    finally:
        for handle in handles:
            handle.remove()
    places = torch.arange(seen[0][0].shape[-1], device=input_values.device)
    far = (places[:, None] - places).abs().float()
    distance = torch.stack([(weights * far).sum(-1).mean((0, 2)) for weights, _ in seen])
    entropy = torch.stack([-(weights * weights.clamp(min=1e-30).log()).sum(-1).mean((0, 2)) for weights, _ in seen])
    outputs = torch.stack([out.transpose(0, 1).flatten(1, 2) for _, out in seen])
    return HeadStatistics(distance, entropy, outputs, torch.stack([weights.mean(0) for weights, _ in seen]))


def pwcca(first: Tensor, second: Tensor) -> float:
    """Return how alike two sets of features are (n, d) and (n, e), between 0 and 1: projection-weighted CCA.

    Source: Morcos, Raghu, Bengio 2018 (arXiv:1806.05759), eq. 5; canonical correlations weighted by how much of `first` each
    direction explains.
    Raises:
        ValueError: different numbers of rows, or fewer rows than features.
    """
    if len(first) != len(second) or len(first) <= max(first.shape[1], second.shape[1]):
        raise ValueError(
            f"features of {len(first)} and {len(second)} rows, {first.shape[1]} and {second.shape[1]} wide: there must be as "
            "many rows of both, and more than features"
        )
    x, y = (part.double() - part.double().mean(0) for part in (first, second))
    bases = []
    for part in (x, y):
        left, values, _ = torch.linalg.svd(part, full_matrices=False)
        bases.append(left[:, values > 1e-8 * values[0]])
    left, correlations, _ = torch.linalg.svd(bases[0].T @ bases[1], full_matrices=False)
    weights = ((bases[0] @ left).T @ x).abs().sum(1)
    return float((weights * correlations.clamp(max=1)).sum() / weights.sum())


def agreement(outputs: Tensor) -> Tensor:
    """Return PWCCA between the same head of every two layers, (H, L, L), of `HeadStatistics.outputs`."""
    layers, heads = outputs.shape[:2]
    found = torch.eye(layers).repeat(heads, 1, 1)
    for head in range(heads):
        for one in range(layers):
            for other in range(layers):
                if one != other:
                    found[head, one, other] = pwcca(outputs[one, head], outputs[other, head])
    return found


def draw_windows(
    statistics: HeadStatistics, path: str | Path, *, windows: Sequence[int] = (), overwrite: bool = False
) -> Path:
    """Draw where the heads attend, a row of pictures a layer: windows are blocks along the diagonal.

    Args:
        statistics, windows, path, overwrite: see `draw_heads`.
    """
    from hub_mim.pictures import attention_matrices

    layers, heads = statistics.attention.shape[:2]
    titles = [f"window {window or 'all'}" for window in windows] or [f"head {head}" for head in range(heads)]
    names = [f"layer {layer}" for layer in range(layers)]
    shown = (statistics.attention / statistics.attention.amax((-2, -1), keepdim=True)).cpu().numpy()
    return attention_matrices(shown, path, names=names, titles=titles, overwrite=overwrite)


def draw_heads(
    statistics: HeadStatistics, path: str | Path, *, windows: Sequence[int] = (), overwrite: bool = False
) -> Path:
    """Draw distance and entropy as maps, layers by heads, and the agreement of each head across layers.

    Args:
        statistics: see `head_statistics`. windows: of the heads, for their names.
        path: picture to write. overwrite: replace one that is there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hub_mim.files import new_file

    layers, heads = statistics.distance.shape
    names = [str(window or "all") for window in windows] or [str(head) for head in range(heads)]
    pairs = [(one, other) for one in range(layers) for other in range(one + 1, layers)]
    alike = agreement(statistics.outputs)
    tables = [
        ("distance, in patches", statistics.distance, [str(layer) for layer in range(layers)], "layer"),
        ("entropy, in nats", statistics.entropy, [str(layer) for layer in range(layers)], "layer"),
        (
            "PWCCA of layers",
            torch.stack([alike[:, a, b] for a, b in pairs]) if pairs else alike[:, 0],
            [f"{a}-{b}" for a, b in pairs] or ["0"],
            "layers",
        ),
    ]
    figure = Figure(figsize=(11, 1.6 + 0.35 * max(layers, len(pairs))), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, table, rows, label) in zip(figure.subplots(1, 3), tables, strict=True):
        shown = axis.imshow(table.cpu().numpy().reshape(len(rows), heads), aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(heads), names, fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_xlabel("window of the head", fontsize=8)
        axis.set_ylabel(label, fontsize=8)
        figure.colorbar(shown, ax=axis).ax.tick_params(labelsize=7)
    with new_file(path, overwrite=overwrite) as partial:
        figure.savefig(partial, dpi=130)
    return Path(path)
