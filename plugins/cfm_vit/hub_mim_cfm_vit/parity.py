"""Compute the reference's numbers from a fixture: same weights, masks and positions, our code, in float64.

The reference is an independent float64 implementation of the paper, not the authors' code, which was never released.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hub_mim import conversion as engine
from hub_mim.masking import hide_highest
from hub_mim.testing.parity import read_fixture, under
from hub_mim_cfm_vit.conversion_cfm_vit import config_from, conversion, rules
from hub_mim_cfm_vit.losses import contrast, entropy, token_cosine
from hub_mim_cfm_vit.modeling_cfm_vit import CfmVitForPreTraining
from hub_mim_cfm_vit.positions import Positions
from hub_mim_cfm_vit.regions import ensemble_scores, vlm_scores

NOT_COMPARED: dict[str, str] = {}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads*/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    config = facts["config"]
    model = build(config, given)
    values = _trained(model, given) | _inference(model, given) | _other_losses(names, model, given)
    values |= _gradients(model, given, "grads/")
    values |= _gradients(build(config | {"stop_gradient_target": False}, given), given, "grads_no_stop_gradient/")
    return {name: values[name].detach() for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> CfmVitForPreTraining:
    """Return our model with the fixture's weights, in float64."""
    weights = under("weights/", given)
    model = CfmVitForPreTraining(
        config_from(
            weights,
            image_size=list(config["image_hw"]),
            num_attention_heads=config["num_heads"],
            text_num_attention_heads=config["text_num_heads"],
            decoder_num_attention_heads=config["decoder_num_heads"],
            pad_token_id=config["pad_id"],
            mask_ratio=config["mask_ratio"],
            contrastive_on=config["contrastive_on"],
            pe_drop=config["ped_prob"],
            loss_weights={"reconstruction": config["rec_coef"]},
            stop_gradient_target=config["stop_gradient_target"],
            init_temperature=config["init_temperature"],
            layer_norm_eps=config["layer_norm_eps"],
            ensemble_alpha=config["ensemble_alpha"],
            ensemble_beta=config["ensemble_beta"],
            vlm_temperature=config["vlm_temperature"],
        )
    )
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval().double()


def mask_from_noise(noise: Tensor, ratio: float) -> Tensor:
    """Return which patches the reference hides, bool (B, N): those with the highest noise."""
    return hide_highest(noise, round(noise.shape[1] * ratio))


def _batch(model: CfmVitForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "pixel_values": given["inputs/pixel_values"].double(),
        "input_ids": given["inputs/input_ids"],
        "mask": mask_from_noise(given["masks/noise"], model.config.mask_ratio),
        "pe_keep": given["masks/pe_keep"],
    }


def _trained(model: CfmVitForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a step computes; intermediate tensors by hooks."""
    batch, found = _batch(model, given), dict[str, Tensor]()
    towers, mask = model.cfm_vit, batch["mask"]
    watched: dict[str, tuple[nn.Module, str]] = {
        "outputs/patch_tokens": (towers.vision.patch_embed, "output"),
        "outputs/tokens_with_pe": (towers.vision.layers[0], "input"),
        "outputs/decoder_input": (model.decoder.layers[0], "input"),
    }
    handles = [_watch(module, side, name, found) for name, (module, side) in watched.items()]
    with torch.no_grad():
        out = model(**batch, output_targets=True)
        pictures = {"pixel_values": batch["pixel_values"], "pe_keep": batch["pe_keep"]}
        towers.vision(**pictures)  # last, so that the hooks keep what whole pictures give
        for handle in handles:
            handle.remove()
        hidden = None if model.config.contrastive_on == "full" else ~mask
        tokens = towers.vision(**pictures, hidden=hidden).tokens
        words, _ = towers.text(batch["input_ids"])
    count = len(mask)

    def masked(x: Tensor) -> Tensor:
        return x[mask].view(count, -1, *x.shape[2:])

    logits, places = out.logits_per_image, torch.arange(count)
    cosine = masked(1 - token_cosine(out.predictions, out.targets))
    return found | {
        "outputs/contrastive_tokens": tokens,
        "outputs/contrastive_features": towers.vision.proj(tokens),
        "outputs/target_features": masked(out.targets),
        "outputs/image_embeds": out.image_embeds,
        "outputs/text_embeds": out.text_embeds,
        "outputs/text_token_features": towers.text.proj(words),
        "outputs/logits_per_image": logits,
        "outputs/visible_encoded": out.last_hidden_state,
        "outputs/reconstruction_all": out.predictions,
        "outputs/reconstruction": masked(out.predictions),
        "outputs/cosine_per_token": cosine,
        "outputs/loss_i2t": entropy(logits, places) / count,
        "outputs/loss_t2i": entropy(logits.T, places) / count,
        "outputs/loss_contrastive": out.losses["contrastive"],
        "outputs/loss_reconstruction": out.losses["reconstruction"],
        "outputs/loss_total": out.loss,
    }


def _watch(module: nn.Module, side: str, name: str, found: dict[str, Tensor]) -> Any:
    """Keep what goes into a module, or comes out of it, at its last call."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        found[name] = inputs[0] if side == "input" else output

    return module.register_forward_hook(hook)


def _other_losses(names: list[str], model: CfmVitForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the focal losses that the fixture names, each with its alpha and gamma."""
    wanted = [name for name in names if name.startswith("outputs/focal_contrastive_alpha")]
    with torch.no_grad():
        out = model(**_batch(model, given), output_targets=True)
        found = {}
        for name in wanted:
            alpha, gamma = (float(each) for each in name.split("_alpha")[1].split("_gamma"))
            pair = out.image_embeds, out.text_embeds
            found[name] = contrast(*pair, model.cfm_vit.scale, kind="focal", alpha=alpha, gamma=gamma)
    return found


def _gradients(model: CfmVitForPreTraining, given: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    model(**_batch(model, given)).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    back = engine.rename_back(gradients, rules(model.config))
    return {f"{prefix}{name}": gradient for name, gradient in back.items()}


@torch.no_grad()
def _inference(model: CfmVitForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return embeddings of whole pictures, and regions of larger ones with their scores."""
    towers, config = model.cfm_vit, model.config
    pictures = given["inputs/pixel_values"].double()
    large = given["inputs/hires_pixel_values"].double()
    features, _, grid = towers.patch_features(large)
    regions = towers.region_features(large, given["inputs/boxes_xyxy"][None])[0]
    scores = vlm_scores(regions, given["inputs/category_embeds"].double(), config.vlm_temperature)
    without = torch.zeros(len(pictures), dtype=torch.bool)
    return {
        "outputs/inference/image_embeds": towers(pixel_values=pictures).image_embeds,
        "outputs/inference/image_embeds_no_pe": towers(pixel_values=pictures, pe_keep=without).image_embeds,
        "outputs/inference/hires_feature_map": features[0].T.unflatten(1, tuple(grid[0].tolist())),
        "outputs/inference/region_embeds": regions,
        "outputs/inference/vlm_scores": scores,
        "outputs/inference/ensemble_scores": ensemble_scores(
            scores,
            given["inputs/detection_scores"].double(),
            given["inputs/is_base"],
            config.ensemble_alpha,
            config.ensemble_beta,
        ),
    }


def tables(model: CfmVitForPreTraining, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the constant tables by the fixture's names, the last one resized for pictures of a size."""
    vision, decoder = model.cfm_vit.vision.positions, model.decoder.positions
    side = model.config.patch_size
    assert isinstance(vision, Positions)
    return {
        "buffers/pos_embed": vision(model.config.grid),
        "buffers/decoder_pos_embed": decoder(model.config.grid),
        "buffers/hires_pos_embed": vision((size[0] // side, size[1] // side))[None],
    }
