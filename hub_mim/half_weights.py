"""Weights in 16 bits with a float32 copy in the optimiser: less memory, and half of what processes send each other.

Under autocast a linear layer rounds its weights to bfloat16 in every step. Here they are kept rounded, and the optimiser works
on a float32 copy: the same outputs and gradients, bit for bit, where no layer is used twice in a step and no batches are
accumulated (gradients are then summed in 16 bits); clipped ones differ by the order of a sum. What autocast leaves alone
(norms, tables, tokens, teachers) stays in float32.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # autocast computes these in 16 bits whatever their weights are
AT_ONCE = 2**24  # numbers whose gradients are held in float32 at a time


def castable(model: nn.Module) -> set[nn.Parameter]:
    """Return the trainable weights that belong to linear layers and convolutions alone."""
    inside: set[nn.Parameter] = set()
    outside: set[nn.Parameter] = set()
    for module in model.modules():
        (inside if type(module) in CAST else outside).update(module.parameters(recurse=False))
    return {weight for weight in inside - outside if weight.requires_grad}


class MasterWeights(torch.optim.Optimizer):
    """Step an optimiser over float32 copies of weights that are kept in bfloat16.

    Args:
        inner: an optimiser that has taken no step yet; from here on it has the copies, and this one the weights.
        halved: which of its weights are rounded; now.
    """

    def __init__(self, inner: torch.optim.Optimizer, halved: set[nn.Parameter]):
        super().__init__([dict(group) for group in inner.param_groups], inner.defaults)
        self.inner, self.scale = inner, torch.ones(())
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.masters = {w: nn.Parameter(w.detach().float().clone()) if w in halved else w for w in weights}
        for group in inner.param_groups:
            group["params"] = [self.masters[weight] for weight in group["params"]]
        self.parts = _parts(weights)
        self._round(weights)

    @torch.no_grad()
    def _round(self, weights: Iterable[nn.Parameter]) -> None:
        for weight in weights:
            if self.masters[weight] is not weight:
                weight.data = self.masters[weight].to(torch.bfloat16)

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights back in float32, without the rounding; no step may follow."""
        for weight, master in self.masters.items():
            if master is not weight:
                weight.grad, weight.data = None, master.detach()

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Return the norm of all gradients, summed in float32."""
        norms = [torch.linalg.vector_norm(w.grad, dtype=torch.float32) for w in self.masters if w.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def clip(self, most: float) -> Tensor:
        """Return the norm; where it is above `most` the next step scales gradients down to it, in float32."""
        norm = self.norm()
        self.scale = torch.clamp(most / (norm + 1e-6), max=1.0)
        return norm

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step, some weights at a time, so that few gradients are held in float32."""
        for group, within in zip(self.param_groups, self.inner.param_groups, strict=True):
            within.update({name: value for name, value in group.items() if name != "params"})
        gradients = {weight: weight.grad for weight in self.masters}
        for weight in self.masters:
            weight.grad = None
        for part in self.parts:
            for weight in part:
                gradient = gradients.pop(weight)
                self.masters[weight].grad = None if gradient is None else gradient.float() * self.scale
            self.inner.step()
            for weight in part:
                self.masters[weight].grad = None
            self._round(part)
        self.scale = torch.ones(())

    def whole(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a model's state with its weights in float32."""
        named = {name: self.masters.get(w, w) for name, w in model.named_parameters(remove_duplicate=False)}
        return {name: named.get(name, value).detach() for name, value in model.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimiser within; the copies are the weights of a checkpoint, see `whole`."""
        return {**super().state_dict(), "state": self.inner.state_dict()["state"]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.inner.load_state_dict(dict(state_dict))
        super().load_state_dict({**state_dict, "state": {}})


def _parts(weights: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Deal weights out, not many more than `AT_ONCE` numbers at a time."""
    parts: list[list[nn.Parameter]] = [[]]
    count = 0
    for weight in weights:
        if count >= AT_ONCE:
            parts.append([])
            count = 0
        parts[-1].append(weight)
        count += weight.numel()
    return parts
