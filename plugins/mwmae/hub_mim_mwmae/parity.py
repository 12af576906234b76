"""Compute the authors' numbers from a fixture: same weights, same masks, our code; and theirs from waveforms."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import conversion as engine
from hub_mim.losses import masked_mean, token_mse
from hub_mim.testing.parity import read_fixture, under
from hub_mim_mwmae.conversion_mwmae import config_from, conversion, prepare, restore_layout, rules
from hub_mim_mwmae.frontend import log_mel, standardize
from hub_mim_mwmae.hear import timestamp_embeddings
from hub_mim_mwmae.modeling_mwmae import MwMaeForPreTraining, target_patches
from hub_mim_mwmae.windows import head_weights

NOT_COMPARED: dict[str, str] = {}
# single-precision Fourier transforms round quiet bins by about 1e-4 of their logarithm, otherwise on other processors: 9.5e-7
# where the fixture was made, 1.7e-4 on an AMD EPYC
TOLERANCES = dict.fromkeys(
    ("outputs/logmel_", "outputs/normalised_", "outputs/scene_embedding_", "outputs/timestamp_embeddings_"), 5e-4
)


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    model = build(facts["config"], given)
    values = _waveforms(model, given, facts) if "frontend" in facts else _spectrograms(model, given)
    return {name: values[name] for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> MwMaeForPreTraining:
    """Return our model with the authors' weights."""
    weights = prepare(under("weights/", given))
    model = MwMaeForPreTraining(
        config_from(
            weights,
            num_attention_heads=config["num_heads"],
            decoder_num_attention_heads=config["decoder_num_heads"],
            spectrogram_size=config["img_size"],
            mask_ratio=config["mask_ratio"],
            norm_patch_loss=config.get("norm_pix_loss", False),
            shift_windows=config.get("shifting_windows", False),
        )
    )
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _spectrograms(model: MwMaeForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    values, mask = given["inputs/spectrogram"][..., 0], given["masks/mask"].bool()
    seen: dict[str, Tensor] = {}
    handles = _watch(model, seen)
    out = model(values, mask=mask)
    for handle in handles:
        handle.remove()
    out.loss.backward()
    config = model.config
    # theirs are in the order of their shuffle, ours in that of the spectrogram; a class token is first in both
    order = given["masks/ids_keep"].argsort(1).argsort(1) + config.num_extra
    order = torch.cat([torch.arange(config.num_extra).expand(len(order), -1), order], 1)
    shuffled = ("decoder_embed", *(f"encoder_block_{number:02d}" for number in range(config.num_hidden_layers)))
    for name in shuffled:
        key = f"outputs/intermediate/{name}"
        seen[key] = seen[key].gather(1, order[..., None].expand_as(seen[key]))
    latent = out.last_hidden_state
    error = token_mse(out.predictions, target_patches(config, values))
    other = type(config)(**config.to_dict() | {"norm_patch_loss": not config.norm_patch_loss})
    found = {
        "outputs/latent": latent.gather(1, order[..., None].expand_as(latent)),
        "outputs/pred": out.predictions,
        "outputs/target_patches": target_patches(config, values),
        "outputs/loss": out.loss[None],
        "outputs/loss_no_mask": error.mean()[None],
        "outputs/loss_other_norm_pix": masked_mean(token_mse(out.predictions, target_patches(other, values)), mask)[
            None
        ],
        "outputs/features": model.mwmae(values).frame_embeddings,
    }
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    back = restore_layout(engine.rename_back(gradients, rules(config)), under("weights/", given))
    model.zero_grad()
    detached = {name: value.detach() for name, value in (found | seen).items()}
    return detached | {f"grads/{name}": value for name, value in back.items()}


def _watch(model: MwMaeForPreTraining, seen: dict[str, Tensor]) -> list[Any]:
    """Keep what blocks give, and what each head of a windowed block attends to."""
    place = "outputs/intermediate/"

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(place + name, output)

    embeddings, decoder = model.mwmae.embeddings, model.decoder
    handles = [
        embeddings.patch_projection.register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(f"{place}patch_embed", output.flatten(2).transpose(1, 2))
        ),
        decoder.embed.register_forward_hook(keep("decoder_embed")),
        decoder.layernorm.register_forward_hook(keep("decoder_norm")),
    ]
    handles += [each.register_forward_hook(keep(f"encoder_block_{n:02d}")) for n, each in enumerate(model.mwmae.layers)]
    for number, layer in enumerate(decoder.layers):
        handles.append(layer.register_forward_hook(keep(f"decoder_block_{number:02d}")))
        if hasattr(layer.attention, "windows"):
            handles.append(layer.attention.register_forward_hook(_heads(f"{place}decoder_block_{number:02d}", seen)))
    return handles


def _heads(place: str, seen: dict[str, Tensor]) -> Any:
    """Return a hook that works out each head's weights and output again, in windows as the authors keep them."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        x = inputs[0]
        seen[f"{place}_wmha"] = output[0]
        weights, out = head_weights(module, x)
        for head, window in enumerate(module.windows):
            whole, size = weights[:, head], window or x.shape[1]
            blocks = whole.unflatten(1, (-1, size)).unflatten(3, (-1, size)).diagonal(dim1=1, dim2=3)
            seen[f"{place}_attn_heads_{head}_attn"] = blocks.permute(0, 3, 1, 2).flatten(0, 1)
            seen[f"{place}_attn_heads_{head}_out"] = out[:, head]

    return hook


def _waveforms(model: MwMaeForPreTraining, given: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, waveform in given.items():
        if not name.startswith("inputs/waveform_"):
            continue
        kind = name.removeprefix("inputs/waveform_")
        mel = log_mel(waveform)
        with torch.no_grad():
            embeddings, timestamps = timestamp_embeddings(waveform, model.mwmae)
        found |= {
            f"outputs/logmel_{kind}": mel.transpose(1, 2),
            f"outputs/normalised_{kind}": standardize(mel)[..., None],
            f"outputs/timestamp_embeddings_{kind}": embeddings,
            f"outputs/timestamps_ms_{kind}": timestamps,
            f"outputs/scene_embedding_{kind}": embeddings.mean(1),
        }
    return found
