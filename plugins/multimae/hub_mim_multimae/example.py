"""Small aligned maps for the conformance checks: four modalities, one of them only an input, one row without depth."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.processing_multimae import MultiMAEProcessor

MODALITIES: list[dict[str, Any]] = [
    {"name": "rgb", "channels": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]},
    {"name": "depth", "channels": 1, "loss": "l1", "standardize": True, "scale": 1000.0},
    {"name": "semseg", "kind": "categorical", "num_classes": 3, "class_width": 6, "stride": 2},
    {"name": "edges", "channels": 2, "loss": "none"},
]


def rows() -> list[dict[str, Any]]:
    """Return four rows: a bright disc on a gradient, its depth, what is disc and ground, and two edge maps."""
    table = []
    for number in range(4):
        y, x = np.mgrid[:16, :24].astype(np.float32)
        inside = (y - 4 - 2 * number) ** 2 + (x - 6 - 4 * number) ** 2 < (9 + 8 * number)
        picture = np.stack([100 + 4 * x, 80 + 5 * y, np.full_like(x, 60 + 20 * number)], -1)
        picture[inside] = [220, 200 - 30 * number, 90]
        depth = 900 + 40 * y + 10 * x - 300 * inside
        classes = np.where(inside, 1 + number % 2, 0)[::2, ::2]
        row = {
            "rgb": picture.astype(np.uint8),
            "depth": depth.astype(np.uint16),
            "semseg": classes.astype(np.uint8),
            "edges": np.stack([np.gradient(depth, axis=axis) / 100 for axis in (0, 1)], -1),
        }
        table.append(row | ({"depth": None} if number == 2 else {}))
    return table


def example() -> Example:
    """Return the example of the plugin's checks."""
    config = MultiMAEConfig(
        modalities=MODALITIES,
        tasks=["rgb", "depth", "semseg", "norm_rgb", "norm_depth"],
        normalized_targets=["rgb", "depth"],
        image_size=24,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_global_tokens=2,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=20,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.1,
        drop_path_rate=0.1,
        initializer_range=0.03,
        num_visible=30,
        alphas={"rgb": 0.7},
        sample_tasks_uniformly=True,
        crop_scale=[0.8, 1.0],
        crop_ratio=[0.9, 1.1],
        flip_share=0.5,
        class_embedding="interpolate",
        learnable_positions=True,
        task_embeddings=True,
        label_smoothing=0.05,
        task_balancer="uncertainty",
        loss_weights={"depth": 0.5},
        classifier_pooling="last",
        segmentation_head="segmenter",
        depth_head="convnext",
        main_modalities=["rgb", "semseg"],
        head_hidden_size=16,
        head_num_layers=1,
        head_num_attention_heads=2,
        head_predictions_per_patch=4,
        dpt_hooks=[0, 0, 1, 1],
        dpt_sizes=[4, 4, 8, 8],
        dpt_features=4,
        classifier_init_scale=0.5,
        depth_loss="l1",
        semantic_loss_ignore_index=254,
    )
    return Example(
        config=config,
        rows=rows(),
        processor=MultiMAEProcessor(modalities=MODALITIES, image_size=[16, 24], patch_size=4, normalize=True),
        corrupt=corrupt,
        fixed=("task_embeddings",),
        hidden=hidden,
        odd_rows=odd_rows(),
        suite_overrides={
            "test_batching_equivalence": "the suite cuts tensors to one row, not a dict of masks; see check_row_alone"
        },
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the least and most patches of one modality that are hidden; all modalities together are tested elsewhere."""
    count = torch.full((len(batch["rgb"]),), 24)
    return torch.zeros_like(count), count


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge: another size, one modality alone, a grey picture, a class that is none, nothing."""
    row = rows()[0]
    return {
        "twice as large": [
            {
                name: np.kron(value, np.ones((2, 2, 1) if value.ndim == 3 else (2, 2), value.dtype))
                for name, value in row.items()
            }
        ],
        "depth alone": [{"depth": row["depth"]}],
        "a grey picture": [row | {"rgb": row["rgb"][..., 0]}],
        "a class that is none": [row | {"semseg": row["semseg"] + 9}],
        "depth without numbers": [row | {"depth": np.full((16, 24), np.nan)}],
        "not aligned": [row | {"depth": row["depth"][:, :12]}],
        "nothing": [{"text": "a"}],
    }


def corrupt(batch: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace hidden patches by noise: other values, other classes."""
    source = torch.Generator().manual_seed(1)
    noisy = dict(batch)
    for name, hidden_patches in mask.items():
        values = batch[name]
        high, wide = values.shape[-2] // 4, values.shape[-1] // 6
        grid = hidden_patches.view(-1, 4, 6).repeat_interleave(high, 1).repeat_interleave(wide, 2)
        if values.is_floating_point():
            noise = torch.randn(values.shape, generator=source)
            noisy[name] = torch.where(grid[:, None], noise, values)
        else:
            noisy[name] = torch.where(grid, (values + 1) % 3, values)
    return noisy
