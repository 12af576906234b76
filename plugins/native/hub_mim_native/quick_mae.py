"""MAE's training step in less time, with the same loss and gradients: transformers' modules and weights, run otherwise.

Only patches that are seen are embedded; the decoder's tokens stay in the order seen, hidden, so nothing is put back in
place; its last layer, the prediction and the loss are computed for hidden patches alone, which alone are scored; attention is
what `hub_mim.blocks` measured as fastest for the device and number format.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTraining, ViTMAEForPreTrainingOutput

from hub_mim.blocks import attention_function
from hub_mim.losses import normalize_patches

KNOWN = {"return_dict", "return_loss"}


def quicken(model: Any) -> None:
    """Let a `ViTMAEForPreTraining` take quick steps in training, which return loss and mask without `logits`.

    It stays as it is in evaluation, with gradient checkpointing, for pictures of another size and with further arguments.
    """
    if type(model) is ViTMAEForPreTraining:
        model.forward = MethodType(_forward, model)


def _forward(model: Any, pixel_values: Tensor | None = None, noise: Tensor | None = None, **kwargs: Any) -> Any:
    usual = not model.training or model.is_activation_checkpointing or set(kwargs) - KNOWN
    if usual or pixel_values is None or not _fits(model, pixel_values):
        return type(model).forward(model, pixel_values, noise=noise, **kwargs)
    patches = _patches(pixel_values, model.config.patch_size)
    rows, count = patches.shape[:2]
    noise = torch.rand(rows, count, device=patches.device) if noise is None else noise
    order = noise.argsort(1)
    seen, hidden = order.split([kept := int(count * (1 - model.config.mask_ratio)), count - kept], 1)
    encoded = _encode(model.vit, _take(patches, seen), seen)
    prediction = _decode(model.decoder, encoded, order, kept)
    # transformers' targets have the channels last
    target = _take(patches, hidden).unflatten(-1, (model.config.num_channels, -1)).transpose(2, 3).flatten(2)
    target = normalize_patches(target) if model.config.norm_pix_loss else target
    loss = (prediction - target).square().mean()
    places: dict[str, Any] = {"mask": torch.ones_like(noise).scatter(1, seen, 0.0), "ids_restore": order.argsort(1)}
    out = ViTMAEForPreTrainingOutput(loss=loss, **places)
    return out if kwargs.get("return_dict", True) else out.to_tuple()


def _fits(model: Any, pixels: Tensor) -> bool:
    """Tell whether pictures are of the model's own size; transformers has the words for others."""
    return tuple(pixels.shape[1:]) == (model.config.num_channels, *model.vit.embeddings.image_size)


def _patches(pixels: Tensor, side: int) -> Tensor:
    """Cut (B, C, H, W) into (B, N, C * side * side)."""
    rows, channels, high, wide = pixels.shape
    parts = pixels.reshape(rows, channels, high // side, side, wide // side, side)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, channels * side * side)


def _take(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def _encode(vit: Any, patches: Tensor, seen: Tensor) -> Tensor:
    table, projection = vit.embeddings.position_embeddings[0], vit.embeddings.patch_embeddings.projection
    x = F.linear(patches, projection.weight.flatten(1), projection.bias) + table[1:][seen]
    x = torch.cat([(vit.embeddings.cls_token + table[:1]).expand(len(x), -1, -1), x], 1)
    for layer in vit.layers:
        x = _layer(layer, x)
    return vit.layernorm(x)


def _decode(decoder: Any, encoded: Tensor, order: Tensor, kept: int) -> Tensor:
    """Return predictions of the hidden patches, in the order in which they are hidden."""
    table, x = decoder.decoder_pos_embed[0], decoder.decoder_embed(encoded)
    fill = decoder.mask_token.expand(len(x), order.shape[1] - kept, -1)
    x = torch.cat([x, fill], 1) + torch.cat([table[:1].expand(len(x), 1, -1), table[1:][order]], 1)
    for layer in decoder.decoder_layers[:-1]:
        x = _layer(layer, x)
    x = _layer(decoder.decoder_layers[-1], x, since=1 + kept)
    return decoder.decoder_pred(decoder.decoder_norm(x))


def _layer(layer: Any, x: Tensor, since: int = 0) -> Tensor:
    """Run a layer; returns the tokens from `since` on."""
    y = layer.layernorm_before(x)
    x = x[:, since:]
    x = x + layer.dropout(_attend(layer.attention, y[:, since:], y))
    return x + layer.dropout(layer.mlp(layer.layernorm_after(x)))


def _attend(attention: Any, asking: Tensor, context: Tensor) -> Tensor:
    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    query = heads(attention.q_proj(asking))
    key, value = heads(attention.k_proj(context)), heads(attention.v_proj(context))
    rate = attention.attention_dropout if attention.training else 0.0
    attend = attention_function(attention.config, key)
    out, _ = attend(attention, query, key, value, None, dropout=rate, scaling=attention.scaling)
    return attention.o_proj(out.flatten(2))
