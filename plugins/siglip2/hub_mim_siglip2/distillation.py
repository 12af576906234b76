"""Self-distillation from small crops and prediction of hidden patches, against a slow copy of the student.

Sources: SILC (Naeem et al. 2023, arXiv:2310.13355), TIPS (Maninis et al. 2024, arXiv:2410.16512), with the loss of DINO
(arXiv:2104.14294, eq. 2) and its centring. The heads' sizes and the temperatures of SigLIP 2 are not published. Shapes: B rows,
V views, N patches, W channels, K prototypes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from transformers import initialization as init

from hub_mim.gathering import gather_rows
from hub_mim.losses import joint_mean
from hub_mim_siglip2.towers import vision_tower


class HeadLinear(nn.Linear):
    """A layer of a head; has a class of its own, by which it is filled."""

    @torch.no_grad()
    def reset(self) -> None:
        """Fill as DINO does."""
        init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            init.zeros_(self.bias)


class Head(nn.Module):
    """Three layers with exact GELU, a vector of length 1, its cosines with the prototypes; DINO's, with gain 1."""

    def __init__(self, width: int, inner: int, bottleneck: int, prototypes: int):
        super().__init__()
        self.mlp = nn.Sequential(
            HeadLinear(width, inner), nn.GELU(), HeadLinear(inner, inner), nn.GELU(), HeadLinear(inner, bottleneck)
        )
        self.last_layer = HeadLinear(bottleneck, prototypes, bias=False)

    def embed(self, x: Tensor) -> Tensor:
        """Map (..., W) to vectors of length 1."""
        out: Tensor = normalize(self.mlp(x), dim=-1)
        return out

    def score(self, vectors: Tensor) -> Tensor:
        """Return the cosines (..., K) of vectors with the prototypes."""
        return linear(vectors, normalize(self.last_layer.weight, dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., W) to (..., K)."""
        return self.score(self.embed(x))


def make_head(config: Any) -> Head:
    """Return a head of the configuration's size."""
    sizes = config.head_hidden_size, config.head_bottleneck_size, config.num_prototypes
    return Head(config.vision_config.hidden_size, *sizes)


class Teacher(nn.Module):
    """A slow copy of the student's tower and heads, and the means of what it says."""

    def __init__(self, config: Any):
        super().__init__()
        self.vision_model = vision_tower(config)
        self.global_head, self.patch_head = make_head(config), make_head(config)
        self.register_buffer("global_center", torch.zeros(config.num_prototypes))
        self.register_buffer("patch_center", torch.zeros(config.num_prototypes))
        self.requires_grad_(False)


def soft_targets(logits: Tensor, center: Tensor, temperature: float) -> Tensor:
    """Return what the teacher says, centred and sharpened: softmax((logits - centre) / temperature), detached."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    return ((logits.detach().to(kind) - center.to(kind)) / temperature).softmax(-1)


def cross_entropy(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return -sum_k targets_k log softmax(logits / temperature)_k, over the last axis."""
    return -(targets * (logits.to(targets.dtype) / temperature).log_softmax(-1)).sum(-1)


def local_to_global(targets: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return the loss of each small view (B, V), against its picture's one large view (B, K)."""
    return cross_entropy(targets[:, None], logits, temperature)


def masked_loss(errors: Tensor, mask: Tensor) -> Tensor:
    """Average over the hidden patches of each picture, then over pictures.

    Args:
        errors: (M,), of the hidden patches, row by row. mask: bool (B, N).
    """
    each = torch.zeros(mask.shape, dtype=errors.dtype, device=errors.device).masked_scatter(mask, errors)
    return joint_mean(each.sum(1) / mask.sum(1).clamp(min=1))


@torch.no_grad()
def moved_center(center: Tensor, head: Head, vectors: Tensor, momentum: float) -> Tensor:
    """Return the centre after a batch: momentum * centre + (1 - momentum) * mean of the raw scores of all processes.

    Args:
        head: of the teacher. vectors: (..., E), its `embed` of the batch; the mean of scores is the score of the mean.
    """
    flat = vectors.detach().flatten(0, -2).to(center.dtype)
    told = torch.cat([flat.sum(0), flat.new_tensor([len(flat)])])
    every = gather_rows(told[None]).sum(0)
    mean = head.score((every[:-1] / every[-1]).to(head.last_layer.weight.dtype))
    return momentum * center + (1 - momentum) * mean.to(center.dtype)


@torch.no_grad()
def average(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move a teacher's weights towards the student's; momentum 0 copies."""
    for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
        old.lerp_(new.to(old.dtype), 1 - momentum) if momentum else old.copy_(new)
