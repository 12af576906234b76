"""Other sizes of pictures and patches for a trained model: the last stage of the recipe (section 2.4)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from hub_mim_siglip2.towers import resized


def patch_resize_matrix(old: int, new: int) -> Tensor:
    """Return the matrix (new * new, old * old) that resizes a patch bilinearly, in float64."""
    basis = torch.eye(old * old, dtype=torch.float64).view(-1, 1, old, old)
    return interpolate(basis, size=(new, new), mode="bilinear", align_corners=False).flatten(1).T


def resized_kernel(kernel: Tensor, new: int) -> Tensor:
    """Return a patch kernel (W, C, P, P) for patches of another size, by the pseudo-inverse of their resizing.

    A patch that is resized to the new size gives, by the new kernel, what the old one gives of it (exactly if it grows).

    Source: FlexiViT (Beyer et al. 2023, arXiv:2212.08013), section 3.4.
    """
    old = kernel.shape[-1]
    if old == new:
        return kernel
    inverse = torch.linalg.pinv(patch_resize_matrix(old, new)).T.to(kernel.device)  # (new * new, old * old)
    flat = kernel.double().flatten(2) @ inverse.T
    return flat.view(*kernel.shape[:2], new, new).to(kernel.dtype)


@torch.no_grad()
def change_resolution(model: Any, image_size: int, patch_size: int | None = None) -> Any:
    """Make a fixed-resolution model take pictures of another size: positions are resized, and the patch kernel if asked.

    Args:
        model: `Siglip2MimModel`, `Siglip2MimForPreTraining` or another of this plugin; changed in place, its teacher too.
        image_size: pixels a side. patch_size: pixels a side; default as it is.
    Returns:
        The model.
    Raises:
        ValueError: the model is NaFlex, or the sizes do not fit.
    """
    config = model.config
    patch = config.patch_size if patch_size is None else patch_size
    if config.naflex:
        raise ValueError("a NaFlex model takes pictures of every size as it is; only a fixed-resolution one is changed")
    if image_size < patch or image_size % patch:
        raise ValueError(f"image size {image_size} is not a multiple of the patch size {patch}; give one that is")
    base = getattr(model, model.base_model_prefix, model)
    teacher = getattr(model, "teacher", None)
    if teacher is not None and config.local_size % patch:
        config.local_crop_size = 6 * patch
    config.vision_config.image_size, config.vision_config.patch_size = image_size, patch
    for tower in [base.vision_model, *([teacher.vision_model] if teacher is not None else [])]:
        _change(tower.embeddings, image_size, patch)
        tower.config.image_size, tower.config.patch_size = image_size, patch
    return model


def _change(embeddings: Any, image_size: int, patch: int) -> None:
    old, side = embeddings.patch_embedding, image_size // patch
    if patch != embeddings.patch_size:
        new = nn.Conv2d(
            old.in_channels, old.out_channels, patch, patch, device=old.weight.device, dtype=old.weight.dtype
        )
        new.weight = nn.Parameter(resized_kernel(old.weight, patch), requires_grad=old.weight.requires_grad)
        new.bias = old.bias
        embeddings.patch_embedding = new
    places = embeddings.position_embedding.weight
    table = places.unflatten(0, (round(len(places) ** 0.5), -1))
    fresh = nn.Embedding.from_pretrained(resized(table, (side, side)).clone(), freeze=not places.requires_grad)
    embeddings.position_embedding = fresh
    embeddings.image_size, embeddings.patch_size = image_size, patch
    embeddings.num_patches = embeddings.num_positions = side * side
    embeddings.register_buffer("position_ids", torch.arange(side * side, device=places.device)[None], persistent=False)


@torch.no_grad()
def to_naflex(model: Any) -> Any:
    """Return a NaFlex model with the weights of a fixed-resolution one: the kernel as a matrix, the rest as it is.

    The self-supervised parts are left out, since the recipe does not use them there.
    """
    config = model.config
    if config.naflex:
        return model
    fields = {name: value for name, value in copy.deepcopy(config).to_dict().items() if name != "model_type"}
    vision = dict(fields["vision_config"])
    side = config.image_size // config.patch_size
    fields |= {"naflex": True, "vision_config": {**vision, "num_patches": side * side}}
    made = type(model)(type(config)(**fields)).to(next(model.parameters()).device)
    prefix = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    kernel = f"{prefix}vision_model.embeddings.patch_embedding.weight"
    weights = {name: tensor for name, tensor in model.state_dict().items() if name in made.state_dict()}
    weights[kernel] = weights[kernel].permute(0, 2, 3, 1).flatten(1)  # (row, column, channel)
    made.load_state_dict(weights)
    return made.train(model.training)
