"""What MultiMAE is trained for: the loss of each task on its hidden patches, and how tasks are balanced."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hub_mim.gathering import processes
from hub_mim.losses import normalize_patches, row_masked_mean, token_l1, token_mse
from hub_mim.patches import patchify
from hub_mim_multimae.configuration_multimae import MultiMAEConfig, Schema


def target_patches(config: MultiMAEConfig | Schema, task: str, values: Tensor) -> Tensor:
    """Return what a task predicts: (B, N, values of a patch), channel first; for classes int64 (B, N, p * p)."""
    target = config.targets[task]
    side = config.patch_side(target)
    maps = values[:, None] if config.modality(target).categorical else values
    patches = patchify(maps, (side, side), order="channel_first")
    return normalize_patches(patches) if task != target else patches


def token_losses(config: MultiMAEConfig | Schema, task: str, prediction: Tensor, values: Tensor) -> Tensor:
    """Return a task's loss for each patch (B, N): the mean over its pixels, and over channels.

    Source: section 3.4 of the paper; "norm_x" against each patch standardised.
    """
    modality = config.modality(config.targets[task])
    wanted = target_patches(config, task, values)
    if modality.categorical:
        logits = prediction.float().unflatten(2, (modality.num_classes, -1)).flatten(0, 1)
        pixels = cross_entropy(logits, wanted.flatten(0, 1), reduction="none", label_smoothing=config.label_smoothing)
        return pixels.mean(1).view(prediction.shape[:2])
    measure = {"mse": token_mse, "l1": token_l1}[modality.loss]
    return measure(prediction.float(), wanted.float())


def task_losses(
    config: MultiMAEConfig | Schema,
    predictions: Mapping[str, Tensor],
    maps: Mapping[str, Tensor],
    scored: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the loss of every task whose modality is given: the mean over a row's scored patches, then over rows.

    Rows without a scored patch have no part in it; where there is none at all the loss is 0 and so is its gradient (the
    authors' code then gives NaN gradients, or no gradient at all).

    Args:
        config: of the model.
        predictions: by task (B, N, values of a patch).
        maps: by modality, as the encoder takes them. scored: bool (B, N) by task.
    """
    return {
        task: row_masked_mean(token_losses(config, task, predictions[task], maps[target]), scored[task])
        for task, target in config.targets.items()
        if target in maps
    }


def balance(
    losses: Mapping[str, Tensor], log_variances: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Return, for each task, what uncertainty balancing adds to its weighted loss w L: w (exp(-s) L + s - L).

    Nothing where L is 0 in all processes: a task that nothing was hidden for. The authors' code balances no more tasks than it
    has modalities, and stops where there is an extra one.

    Source: Kendall, Gal, Cipolla 2018 (arXiv:1705.07115), as MultiMAE's code has it, for every task.
    """
    found = {}
    zero = next(iter(log_variances.values())).detach().float() * 0
    known = torch.stack([losses.get(task, zero).detach().float() for task in log_variances])
    used = dict(zip(log_variances, _used(known), strict=True))
    for task, loss in losses.items():
        s, weight = log_variances[task], (weights or {}).get(task, 1.0)
        found[f"{task}_balance"] = torch.where(used[task], weight * (torch.exp(-s) * loss + s - loss), 0.0)
    return found


def _used(losses: Tensor) -> Tensor:
    """Tell which of some losses (T,) are not 0: in training, in any of the processes, each of which has its share of a loss."""
    used = (losses != 0).float()
    if processes() > 1 and torch.is_grad_enabled():
        torch.distributed.all_reduce(used)
    return used > 0
