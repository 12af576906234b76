"""Compute the authors' numbers from a fixture: same weights, same masks, our code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hub_mim import conversion as engine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_multimae import heads
from hub_mim_multimae.conversion_multimae import config_from, conversion, rules
from hub_mim_multimae.modeling_multimae import MultiMAEForPreTraining
from hub_mim_multimae.modeling_multimae_heads import _Dense
from hub_mim_multimae.objectives import balance, token_losses

NOT_COMPARED: dict[str, str] = {}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    model = build(facts["config"], given)
    values = _pretraining(model, given) | _encoder(model, given) | _heads(model, given, facts)
    return {name: values[name] for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> MultiMAEForPreTraining:
    """Return our model with the authors' weights."""
    weights = under("weights/", given)
    model = MultiMAEForPreTraining(
        config_from(
            weights,
            num_attention_heads=config["num_heads"],
            decoder_num_attention_heads=config["decoder_num_heads"],
            num_visible=config["num_encoded_tokens"],
            class_embedding="interpolate" if config["interpolate_class_emb"] else "conv",
            learnable_positions=config["learnable_pos_emb"],
            label_smoothing=config["label_smoothing"],
        )
    )
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def masks_from_noise(
    shares: Tensor, noises: dict[str, Tensor], noise_all: Tensor, num_visible: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the masks and the order of visible tokens that the authors' code makes of its draws; spec 2.2.

    Args:
        shares: (B, M). noises: (B, N) by modality. noise_all: (B, T). num_visible: budget.
    Returns:
        Bool (B, N) by modality, True = hidden, and int64 (B, num_visible).
    """
    counts = torch.round(shares * num_visible)
    hidden = [(noise.argsort(1) >= counts[:, place, None]).float() for place, noise in enumerate(noises.values())]
    order = (torch.cat(hidden, 1) + noise_all).argsort(1)
    mask = torch.ones_like(noise_all, dtype=torch.bool).scatter(1, order[:, :num_visible], False)
    return dict(zip(noises, mask.split([each.shape[1] for each in noises.values()], 1), strict=True)), order[
        :, :num_visible
    ]


@contextmanager
def _recorded(modules: dict[str, tuple[Any, str]], store: dict[str, Tensor]) -> Iterator[None]:
    """Keep the outputs (or inputs) of modules by name, while the block runs."""

    def keep(name: str, side: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            value = inputs if side == "input" else output
            store[name] = value[0] if isinstance(value, tuple) else value

        return hook

    handles = [module.register_forward_hook(keep(name, side)) for name, (module, side) in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pretraining(model: MultiMAEForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    config = model.config
    maps = {name: given[f"inputs/{name}"] for name in config.names}
    watched: dict[str, tuple[Any, str]] = {"outputs/encoder_input": (model.multimae.layers[0], "input")}
    for place, layer in enumerate(model.multimae.layers):
        watched[f"outputs/encoder_block_{place}"] = layer, "output"
    for task, decoder in model.decoders.items():
        watched[f"outputs/decoder_query_normed/{task}"] = decoder.query_norm, "output"
        watched[f"outputs/decoder_context_normed/{task}"] = decoder.context_norm, "output"
        watched[f"outputs/decoder_xattn/{task}"] = decoder.cross_attention, "output"
        watched[f"outputs/decoder_transformer/{task}"] = decoder.prediction, "input"
    found: dict[str, Tensor] = {}
    with _recorded(watched, found):
        out = model(mask={name: given[f"masks/{name}"].bool() for name in maps}, **maps)
    out.loss.backward()
    for name, adapter in model.multimae.adapters.items():
        found[f"outputs/input_tokens/{name}"] = adapter(maps[name])
    # theirs are in the order of their shuffle, ours in that of the picture; global tokens are last in both
    order = given["masks/ids_keep"].argsort(1).argsort(1)
    order = torch.cat([order, torch.arange(order.shape[1], out.last_hidden_state.shape[1]).expand(len(order), -1)], 1)
    for name in list(found):
        if "encoder_" in name or "context_normed" in name:
            found[name] = found[name].gather(1, order[..., None].expand_as(found[name]))
    found["outputs/encoder_tokens"] = found[f"outputs/encoder_block_{len(model.multimae.layers) - 1}"]
    for task, prediction in out.predictions.items():
        found[f"outputs/preds/{task}"] = as_image(model, task, prediction, maps)
    found |= _losses(model, out, maps, given)
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    back = engine.rename_back(gradients, rules(config))
    model.zero_grad()
    return {name: value.detach() for name, value in found.items()} | {
        f"grads/{name}": value for name, value in back.items()
    }


def as_image(model: MultiMAEForPreTraining, task: str, prediction: Tensor, maps: dict[str, Tensor]) -> Tensor:
    """Join a task's predicted patches (B, N, values) into a map (B, C, H, W)."""
    from hub_mim.patches import unpatchify

    side = model.config.patch_side(model.config.targets[task])
    height, width = next(
        tuple(length * model.config.modality(name).stride for length in values.shape[-2:])
        for name, values in maps.items()
    )
    grid = height // model.config.patch_size, width // model.config.patch_size
    return unpatchify(prediction, (side, side), grid, order="channel_first")


def _losses(model: Any, out: Any, maps: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {f"outputs/loss/{task}": loss for task, loss in out.losses.items()} | {"outputs/loss_total": out.loss}
    for task, target in model.config.targets.items():
        each = token_losses(model.config, task, out.predictions[task], maps[target])
        found[f"outputs/loss_unmasked/{task}"] = each.mean()
    order = ("rgb", "depth", "semseg", "norm_rgb")
    variances = dict(zip(order, given["inputs/uncertainty_log_vars"], strict=True))
    more = balance(out.losses, variances)
    balanced = {task: loss + more[f"{task}_balance"] for task, loss in out.losses.items()}
    found |= {f"outputs/loss_uncertainty/{task}": loss for task, loss in balanced.items()}
    return found | {"outputs/loss_uncertainty_total": torch.stack(list(balanced.values())).sum()}


def _encoder(model: MultiMAEForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    maps = {name: given[f"inputs/{name}"] for name in model.config.names}
    inputs = {"all": maps, "rgb_only": {"rgb": maps["rgb"]}, "depth_only": {"depth": maps["depth"]}}
    with torch.no_grad():
        return {f"outputs/multivit/{name}": model.multimae(**given).last_hidden_state for name, given in inputs.items()}


HEADS: dict[str, dict[str, Any]] = {
    "linear_mean": {"num_labels": 6, "classifier_pooling": "mean"},
    "linear_last": {"num_labels": 6, "classifier_pooling": "last"},
    "convnext": {"num_labels": 5, "head_hidden_size": 64, "head_num_layers": 2},
    "segmenter": {
        "num_labels": 5,
        "head_hidden_size": 32,
        "head_num_layers": 1,
        "head_num_attention_heads": 4,
        "main_modalities": ["rgb", "depth"],
    },
    "dpt": {"num_labels": 1, "dpt_hooks": [0, 0, 1, 1], "dpt_sizes": [8, 8, 8, 12], "dpt_features": 8},
    "dpt_semseg": {"num_labels": 5, "dpt_hooks": [0, 0, 1, 1], "dpt_sizes": [8, 8, 8, 12], "dpt_features": 8},
}


def _heads(model: MultiMAEForPreTraining, given: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Tensor]:
    """Return what the authors' heads give for the first row."""
    maps = {name: given[f"inputs/{name}"] for name in model.config.names}
    with torch.no_grad():
        out = model.multimae(**maps, output_hidden_states=True)
    found = {}
    for name, fields in HEADS.items():
        weights = under(f"weights_heads/{name}/", given)
        if weights:
            found[f"outputs/heads/{name}"] = _head(model, name, fields, weights, out, maps)
    return found


def _head(model: Any, name: str, fields: dict[str, Any], weights: dict[str, Tensor], out: Any, maps: Any) -> Tensor:
    config = type(model.config)(
        **model.config.to_dict() | {key: value for key, value in fields.items() if key != "num_labels"}
    )
    if name.startswith("linear"):
        head: Any = heads.LinearHead(config, fields["num_labels"])
    else:
        head = heads.dense_head(config, name.split("_")[0], fields["num_labels"], classes=name != "dpt")
    head.load_state_dict(rename_head(weights))
    head.eval()
    with torch.no_grad():
        if name.startswith("linear"):
            return head(out.last_hidden_state, out.pooler_output)[:1]
        grid = tuple(length // model.config.patch_size for length in maps["rgb"].shape[-2:])
        holder = type("Holder", (), {"config": config})()
        levels = [_Dense._main(holder, hidden, tuple(maps), grid) for hidden in out.hidden_states[1:]]
        return head(levels, grid, tuple(maps["rgb"].shape[-2:]))[:1]


def rename_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' weights of a head under our names; what is stored twice or never run is left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if re.match(r"act_\d_postprocess|scratch\.layer\d_rn|scratch\.refinenet4\.resConfUnit1", name):
            continue  # aliases of act_postprocess and scratch.layer_rn; a unit that has no input
        name = re.sub(r"^act_postprocess\.", "reassemble.", name)
        name = re.sub(r"^scratch\.layer_rn\.", "levels.", name)
        name = re.sub(r"^scratch\.refinenet(\d)\.", lambda found: f"fusions.{int(found[1]) - 1}.", name)
        name = (
            name.replace("resConfUnit", "unit")
            .replace(".norm1.", ".layernorm_before.")
            .replace(".norm2.", ".layernorm_after.")
        )
        name = name.replace(".attn.proj.", ".attention.o_proj.")
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(".attn.qkv.", f".attention.{part}_proj.")] = piece
        else:
            found[name] = tensor
    return found
