"""Compute the fixture's numbers: same weights, masks and labels, our code.

`outputs/ssl_*` are numbers of an independent float64 reference, since the authors released no code for them; all others are the
authors' code.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import conversion as engine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_siglip2 import distillation
from hub_mim_siglip2.contrast import row_losses, sigmoid_loss
from hub_mim_siglip2.conversion_siglip2 import authors_name, config_from, conversion, prepare, rules
from hub_mim_siglip2.distillation import Head
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining
from hub_mim_siglip2.towers import encode_masked

NOT_COMPARED: dict[str, str] = {}
TEMPERATURES, CENTER_MOMENTUM, WEIGHTS_B = (0.1, 0.04), 0.9, (0.25, 0.25)  # of the reference


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads*/` of the fixture at `path`, computed by our model."""
    names, given, _ = read_fixture(path)
    values = _towers(given) | _captions(given) | _naflex(given) | _masked(given) | _self_supervised(given)
    return {name: _as_stored(values[name]) for name in names if name in values}


def _as_stored(value: Tensor) -> Tensor:
    """Scalars are stored as one number in a list."""
    return value.detach().reshape(-1) if value.dim() == 0 else value.detach()


def build(given: dict[str, Tensor], decoder: bool = False, naflex: bool = False) -> Siglip2MimForPreTraining:
    """Return our model with the authors' weights.

    Raises:
        ValueError: the weights do not fit.
    """
    weights = under("weights/", given)
    if naflex:  # the same weights in the layout of NaFlex files
        kernel, places = weights["img/embedding/kernel"], weights["img/pos_embedding"]
        side = round(places.shape[1] ** 0.5)
        weights |= {
            "img/embedding/kernel": kernel.flatten(0, 2),
            "img/pos_embedding": places.view(side, side, -1),
        }
    if decoder:
        weights |= {f"decoder/{name}": value for name, value in under("weights_decoder/", given).items()}
    prepared = prepare(weights)
    model = Siglip2MimForPreTraining(config_from(prepared, pad_token_id=0))
    report = engine.apply(conversion, prepared, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _gradients(model: Any, loss: Tensor, prefix: str) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward(retain_graph=True)
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    back = engine.rename_back(found, rules(model.config))
    return {f"{prefix}/{authors_name(name)}": value for name, value in back.items()}


def _images(given: dict[str, Tensor]) -> Tensor:
    return given["inputs/image"].permute(0, 3, 1, 2).contiguous()


def _stem(model: Any, pixels: Tensor) -> Tensor:
    """Return the patch embedding before positions."""
    embeddings = model.siglip.vision_model.embeddings
    made: Tensor = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    return made


def _towers(given: dict[str, Tensor]) -> dict[str, Tensor]:
    model, pixels, text = build(given), _images(given), given["inputs/text"]
    towers = model.siglip
    out = towers(pixels, text, output_hidden_states=True)
    scale, bias = towers.logit_scale, towers.logit_bias
    loss = sigmoid_loss(out.image_embeds, out.text_embeds, scale, bias, chunk=3)
    found = {
        "outputs/img_stem": _stem(model, pixels),
        "outputs/img_with_posemb": out.hidden_states[0],
        "outputs/img_encoded": out.last_hidden_state,
        "outputs/img_pooled": out.pooler_output,
        "outputs/txt_encoded": out.text_hidden,
        "outputs/txt_pooled": towers.get_text_features(text).pooler_output,
        "outputs/zimg": out.image_embeds,
        "outputs/ztxt": out.text_embeds,
        "outputs/logits": out.logits_per_image,
        "outputs/sigmoid_loss": loss,
        "outputs/sigmoid_loss_rows": row_losses(out.logits_per_image),
    }
    for number, state in enumerate(out.hidden_states[1:]):
        found[f"outputs/img_block{number}"] = state
    for number, state in enumerate(out.text_hidden_states[1:]):
        found[f"outputs/txt_block{number}"] = state
    return found | _gradients(model, loss, "grads")


def _captions(given: dict[str, Tensor]) -> dict[str, Tensor]:
    model, text, parallel = build(given, decoder=True), given["inputs/text"], given["masks/cap_parallel"]
    found: dict[str, Tensor] = {}
    for name, chosen in (
        ("ar", torch.zeros_like(parallel)),
        ("parallel", torch.ones_like(parallel)),
        ("mixed", parallel),
    ):
        out = model(_images(given), text, parallel=chosen, return_pairs=True)
        found[f"outputs/cap_{name}_loss"] = out.losses["caption"]
        found[f"outputs/cap_{name}_logits"] = out.caption_logits
    found["outputs/siglip_plus_cap"] = out.loss
    return found | _gradients(model, out.loss, "grads_cap")


def _naflex(given: dict[str, Tensor]) -> dict[str, Tensor]:
    model = build(given, naflex=True)
    out = model.siglip(
        given["inputs/naflex_patches"],
        given["inputs/text"],
        pixel_attention_mask=given["inputs/naflex_mask"],
        spatial_shapes=given["inputs/naflex_spatial_shapes"],
        output_hidden_states=True,
    )
    loss = sigmoid_loss(out.image_embeds, out.text_embeds, model.siglip.logit_scale, model.siglip.logit_bias)
    found = {
        "outputs/naflex_with_posemb": out.hidden_states[0],
        "outputs/naflex_encoded": torch.where(out.valid[..., None], out.last_hidden_state, _padding(model, out)),
        "outputs/naflex_pooled": out.pooler_output,
        "outputs/naflex_zimg": out.image_embeds,
        "outputs/naflex_logits": out.logits_per_image,
        "outputs/naflex_sigmoid_loss": loss,
    }
    return found | _gradients(model, loss, "grads_naflex")


@torch.no_grad()
def _padding(model: Any, out: Any) -> Tensor:
    """Return the features that big_vision gives at padding, which means nothing: there padding looks at all places alike."""
    vision, x = model.siglip.vision_model, out.hidden_states[0]
    seen = (out.valid[:, None] & out.valid[..., None])[:, None]
    away = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(x.dtype).min)
    features: Tensor = vision.post_layernorm(vision.encoder(inputs_embeds=x, attention_mask=away).last_hidden_state)
    return features


def _masked(given: dict[str, Tensor]) -> dict[str, Tensor]:
    vision = build(given).siglip.vision_model
    with torch.no_grad():
        out = encode_masked(vision, _images(given), given["masks/patch_mask"], given["weights_ssl/mask_token"])
    return {"outputs/masked_encoded": out}


def _head(given: dict[str, Tensor], name: str) -> Head:
    weights = under(f"weights_ssl/{name}.", given)
    inner, width = weights["mlp.0.weight"].shape
    bottleneck, prototypes = weights["mlp.4.weight"].shape[0], weights["last_layer.weight"].shape[0]
    head = Head(width, inner, bottleneck, prototypes).double()
    head.load_state_dict(weights)
    return head


def _self_supervised(given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of given features, in float64 as the reference."""
    student, teacher = TEMPERATURES
    heads = {
        name: _head(given, name)
        for name in ("student_head", "teacher_head", "student_patch_head", "teacher_patch_head")
    }
    centers = {name: given[f"inputs/ssl_center_{name}"] for name in ("global", "patch")}
    local = given["inputs/ssl_student_local"].clone().requires_grad_()
    said = heads["teacher_head"](given["inputs/ssl_teacher_global"])
    scores = heads["student_head"](local)
    each = distillation.local_to_global(distillation.soft_targets(said, centers["global"], teacher), scores, student)
    (gradient,) = torch.autograd.grad(each.mean(), local)
    targets = distillation.soft_targets(
        heads["teacher_patch_head"](given["inputs/ssl_teacher_patches"]), centers["patch"], teacher
    )
    mask = given["masks/patch_mask"]
    errors = distillation.cross_entropy(
        targets, heads["student_patch_head"](given["inputs/ssl_student_patches"]), student
    )
    masked = distillation.masked_loss(errors[mask], mask)
    found = {
        "outputs/ssl_teacher_logits": said,
        "outputs/ssl_student_logits": scores,
        "outputs/ssl_local_global": each,
        "outputs/ssl_distill_loss": each.mean(),
        "outputs/ssl_patch_ce": errors,
        "outputs/ssl_mask_loss": masked,
        "outputs/ssl_mask_loss_global_mean": errors[mask].mean(),
        "outputs/ssl_total_B": WEIGHTS_B[0] * (each.mean() + WEIGHTS_B[1] * masked),
        "grads_ssl/student_local": gradient,
    }
    for name, head, features in (
        ("global", heads["teacher_head"], given["inputs/ssl_teacher_global"]),
        ("patch", heads["teacher_patch_head"], given["inputs/ssl_teacher_patches"]),
    ):
        center = distillation.moved_center(centers[name], head, head.embed(features), CENTER_MOMENTUM)
        found[f"outputs/ssl_center_{name}_next"] = center
    return found
