"""Compute the authors' numbers from a fixture: same weights, noise and pairs, our code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hub_mim import conversion as engine
from hub_mim.testing.parity import read_fixture, under
from hub_mim_bandana.conversion_bandana import config_from, conversion, rules
from hub_mim_bandana.modeling_bandana import BandanaForPreTraining, BandanaForPreTrainingOutput

NOT_COMPARED: dict[str, str] = {}


def predict(path: str | Path) -> dict[str, Tensor]:
    """Return every tensor under `outputs/` and `grads/` of the fixture at `path`, computed by our model."""
    names, given, facts = read_fixture(path)
    values = _masked(build(facts["config"], given), given)
    values |= _unmasked(build(facts["config"], given), given)
    values |= _steps(build(facts["config"], given), given, facts["config"])
    return {name: values[name].detach() for name in names if name in values}


def build(config: dict[str, Any], given: dict[str, Tensor]) -> BandanaForPreTraining:
    """Return our model with the authors' weights, without dropout."""
    weights = under("weights/", given)
    model = BandanaForPreTraining(
        config_from(
            weights,
            temperatures=[float(each) for each in config["temp"]],
            hidden_act=config["activation"],
            decoder_act=config["decoder_activation"],
            normalize="receive" if config["sparse"] else "send",
            legacy_alignment=config["edge_order"] != "sorted",
            hidden_dropout_prob=0.0,
            normalize_embeddings=False,
        )
    )
    report = engine.apply(conversion, weights, model)
    if not report.complete:
        raise ValueError(f"the fixture's weights do not fit: {report}")
    return model.eval()


def _forward(model: BandanaForPreTraining, given: dict[str, Tensor]) -> BandanaForPreTrainingOutput:
    perm = given["inputs/perm"]
    layers = range(model.config.num_hidden_layers)
    return model(
        given["inputs/x"][None],
        given["inputs/edge_index"].T[None],
        bandwidth_noise=torch.stack([given[f"masks/noise.{layer}"] for layer in layers])[None],
        negatives=given["inputs/neg_edges"][:, perm].T[None],
        chosen=perm[None],
    )


def _masked(model: BandanaForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    out = _forward(model, given)
    out.loss.backward()
    perm = given["inputs/perm"]
    found = {"outputs/loss_total": out.loss[None], "outputs/z_masked": out.last_hidden_state[0]}
    layered = []
    for layer, hidden in enumerate(out.hidden_states):
        nodes = hidden[0]
        edges, others = (given[f"inputs/batch_{kind}_edges"] for kind in ("pos", "neg"))
        positive, negative = model.decoder(nodes, *edges), model.decoder(nodes, *others)
        share = out.bandwidths[0, layer, perm]
        lost = -(share * positive.log_softmax(-1)[:, 0]).mean(), -negative.log_softmax(-1)[:, 1].mean()
        layered.append(sum(lost))
        found |= {
            f"outputs/hidden.{layer}": nodes,
            f"outputs/pos_logits.{layer}": positive,
            f"outputs/neg_logits.{layer}": negative,
            f"outputs/pos_loss.{layer}": lost[0][None],
            f"outputs/neg_loss.{layer}": lost[1][None],
        }
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    back = engine.rename_back(gradients, rules(model.config))
    return found | {"outputs/layer_loss": torch.stack(layered)} | {f"grads/{name}": grad for name, grad in back.items()}


def _unmasked(model: BandanaForPreTraining, given: dict[str, Tensor]) -> dict[str, Tensor]:
    edges = given["inputs/edge_index"]
    with torch.no_grad():
        out = model.bandana(given["inputs/x"][None], edges.T[None])
        nodes, every = out.last_hidden_state[0], out.node_embeddings[0]
        dots = (nodes[edges[0]] * nodes[edges[1]]).sum(1)
        told = model.decoder(nodes, *edges)[:, 0]
    return {
        "outputs/z_unmasked": nodes,
        "outputs/embedding_cat": every,
        "outputs/embedding_cat_l2": F.normalize(every, dim=1),
        "outputs/dot_logit_pos": dots,
        "outputs/dot_prob_pos": dots.sigmoid(),
        "outputs/mlp_prob_pos": told.sigmoid(),
    }


def _steps(model: BandanaForPreTraining, given: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Take five steps as the authors do: Adam with coupled decay, gradients clipped to norm 1, batch statistics."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    losses, norms = [], []
    found: dict[str, Tensor] = {}
    for step in range(5):
        if step == 0:
            found["outputs/train0_layer_loss"] = _layer_losses(model, given)
        out = _forward(model, given)
        found.setdefault("outputs/train0_z", out.last_hidden_state[0].detach())
        optimizer.zero_grad()
        out.loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()
        losses.append(out.loss.detach())
    final = engine.rename_back(dict(model.named_parameters()), rules(model.config))
    found |= {"outputs/train_losses": torch.stack(losses), "outputs/train_grad_norms": torch.stack(norms)}
    return found | {f"outputs/train_final.{name}": value for name, value in final.items()}


def _layer_losses(model: BandanaForPreTraining, given: dict[str, Tensor]) -> Tensor:
    """Return the loss of each layer, leaving the running statistics as they are."""
    stored = {name: value.clone() for name, value in model.state_dict().items()}
    values = _masked(model, given)["outputs/layer_loss"].detach()
    model.load_state_dict(stored)
    model.zero_grad()
    return values
