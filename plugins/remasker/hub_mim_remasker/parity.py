"""Compute the authors' numbers from a fixture: same weights, same draws, our code."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim import conversion as engine
from hub_mim.losses import masked_mean
from hub_mim.schedules import warmup_cosine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_remasker.conversion_remasker import config_from, conversion, rules
from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining, ReMaskerForPreTrainingOutput

NOT_COMPARED: dict[str, str] = {}  # every reference tensor is compared


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    model = build(facts["config"], given)
    values = _train_outputs(model, given) | _predictions(model, given) | _steps(model, given, facts)
    return {name: values[name] for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> ReMaskerForPreTraining:
    """Return our legacy model with the authors' weights."""
    weights = under("weights/", given)
    fields = {
        "num_attention_heads": config["num_heads"],
        "decoder_num_attention_heads": config["decoder_num_heads"],
        "layer_norm_eps": config["norm_eps"],
        "mask_ratio": config["mask_ratio"],
        "value_function": {"linear": "linear", "active": "sin"}[config["encode_func"]],
    }
    model = ReMaskerForPreTraining(config_from(weights, **fields))
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _hidden(given: dict[str, Tensor], num_visible: int) -> Tensor:
    """Return the mask (True = hidden) whose visible cells are the first of the authors' shuffled order."""
    order = given["masks/ids_shuffle"]
    return torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :num_visible], False)


def _forward(model: ReMaskerForPreTraining, given: dict[str, Tensor]) -> ReMaskerForPreTrainingOutput:
    num_visible = int(model.config.num_columns * (1 - model.config.mask_ratio))
    observed = given["inputs/observed"].bool()
    return model(given["inputs/data"][:, 0], observed=observed, mask=_hidden(given, num_visible))


def _train_outputs(model: ReMaskerForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    caught: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, name=name: caught.__setitem__(name, output))
        for name, module in _watched(model).items()
    ]
    out = _forward(model, given)
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    out.loss.backward()
    order = _order(given, caught["encoder"].places)
    error = (out.predictions - given["inputs/data"][:, 0]).square()
    visible = ~_hidden(given, order.shape[1] - 1) & given["inputs/observed"].bool()
    values = {
        "outputs/tokens": caught["tokens"],
        "outputs/latent": _reorder(caught["encoder"].last_hidden_state, order),
        "outputs/pred": out.predictions[:, :, None],
        "outputs/loss": out.loss.reshape(1),
        "outputs/loss_remasked": out.losses["remasked"].reshape(1),
        "outputs/loss_visible": out.losses["visible"].reshape(1),
        "outputs/loss_visible_observed_only": masked_mean(error, visible).reshape(1),
    }
    values |= {f"outputs/{n}": _reorder(v, order) for n, v in caught.items() if n.startswith("enc_block")}
    values |= {f"outputs/{n}": v for n, v in caught.items() if n.startswith("dec_block")}
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    values |= {f"grads/{n}": v for n, v in engine.rename_back(gradients, rules(model.config)).items()}
    return {name: value.detach() for name, value in values.items()}


def _watched(model: ReMaskerForPreTraining) -> dict[str, torch.nn.Module]:
    watched: dict[str, torch.nn.Module] = {"tokens": model.remasker.embeddings, "encoder": model.remasker}
    watched |= {f"enc_block.{i}": layer for i, layer in enumerate(model.remasker.layers)}
    return watched | {f"dec_block.{i}": layer for i, layer in enumerate(model.decoder.layers)}


def _order(given: dict[str, Tensor], places: Tensor) -> Tensor:
    """Return, for each of the authors' encoder positions, which of ours holds that cell; the class token is first."""
    theirs = given["masks/ids_shuffle"][:, : places.shape[1]]
    ours = (theirs[:, :, None] == places[:, None, :]).long().argmax(2)
    return torch.cat([torch.zeros_like(ours[:, :1]), ours + 1], 1)


def _reorder(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


@torch.no_grad()
def _predictions(model: ReMaskerForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    observed = given["inputs/observed"].bool()
    predicted = model(given["inputs/data"][:, 0], observed=observed, mask=~observed, return_loss=False).predictions
    low, high = given["inputs/min"], given["inputs/max"]
    filled = predicted.double() * (high - low + 1e-8) + low
    imputed = torch.where(observed, given["inputs/raw"].double(), filled)
    return {"outputs/predict": predicted, "outputs/imputed": imputed.to(given["inputs/raw"].dtype)}


def _steps(model: ReMaskerForPreTraining, given: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Tensor]:
    """Take the fixture's AdamW steps; the schedule's numbers stand in the JSON's description."""
    text = facts["tensors"].get("outputs/train_lrs", "")
    told = {name: float(value) for name, value in re.findall(r"(lr|min_lr|max_epochs|warmup_epochs)=([\d.e-]+)", text)}
    rates = [
        warmup_cosine(
            step,
            peak=told.get("lr", 1e-3),
            total=told.get("max_epochs", 10),
            warmup=told.get("warmup_epochs", 2),
            floor=told.get("min_lr", 1e-5),
        )
        for step in range(5)
    ]
    # weight decay 0.01 is torch's default; the authors' own 0.05 is never passed on
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    losses = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = _forward(model, given).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    final = engine.rename_back({n: p.detach() for n, p in model.named_parameters()}, rules(model.config))
    values = {f"outputs/train_final.{name}": value for name, value in final.items()}
    return values | {"outputs/train_losses": torch.stack(losses), "outputs/train_lrs": torch.tensor(rates)}
