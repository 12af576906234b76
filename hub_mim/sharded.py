"""Weights, gradients and optimiser states shared out to the processes (FSDP2), as Accelerate does for Trainer.

Accelerate turns it on for accelerators only; here it works on CPUs as well (gloo), so that it can be tried on any machine.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn


def prepare(trainer: Any) -> None:
    """Finish what Trainer and Accelerate leave open where FSDP2 is asked for, by TrainingArguments or by a launcher.

    On CPUs it is turned on; everywhere `_no_split_modules`, the classes that are shared out one by one, loses the names that
    this model has no layer of: Accelerate refuses them.

    Raises:
        ValueError: adapters are trained, or version 1 is asked for; a model has weights that DeepSpeed cannot take.
    """
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    state = trainer.accelerator.state
    asked = trainer.args.fsdp_plugin_args is not None or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if state.distributed_type == DistributedType.MULTI_CPU and asked:
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, _plugin(trainer)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # as Accelerate does where it turns it on
        trainer.is_fsdp_enabled = True
    if trainer.is_deepspeed_enabled:
        _refuse_scalars(trainer.model)
    if not trainer.is_fsdp_enabled:
        return
    # outputs are views of what FSDP hooks into; nothing here changes them in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    plugin = state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ValueError(f"FSDP {plugin.fsdp_version} is asked for; only FSDP 2 is supported: set fsdp_version to 2")
    if hasattr(trainer.model, "peft_config"):
        raise ValueError("low-rank adapters are small and need no FSDP; leave it out")
    plugin.mixed_precision_policy = None  # see `autocast`
    trainer.scalars = _lengthened(trainer.model)
    if plugin.transformer_cls_names_to_wrap is None:
        there = {type(module).__name__ for module in trainer.model.modules()}
        plugin.transformer_cls_names_to_wrap = [name for name in _units(trainer.model) if name in there]


@contextmanager
def layers_apart(trainer: Any) -> Iterator[None]:
    """Have what lies outside of the layers gathered with the model as a whole while Accelerate shares it out.

    Accelerate would take the embeddings apart as well, which works for those alone that are a layer, and that are used by calling
    them: not for a table whose weights another head multiplies with, nor for one module a modality.
    """
    names = ("get_input_embeddings", "get_output_embeddings") if trainer.is_fsdp_enabled else ()
    for name in names:
        setattr(trainer.model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            vars(trainer.model).pop(name, None)


def autocast(trainer: Any) -> Any:
    """Return the context that a model is run in: under FSDP2 autocast, as under DDP, where Accelerate puts it around the model.

    FSDP2's own policy would turn the weights, and a batch with its targets, into bfloat16, and leave tables as they are.
    """
    return trainer.accelerator.autocast() if trainer.is_fsdp_enabled else nullcontext()


def _plugin(trainer: Any) -> Any:
    from accelerate.utils import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(**(trainer.args.fsdp_plugin_args or {}))


def _refuse_scalars(model: nn.Module) -> None:
    scalar = next((name for name, weight in model.named_parameters() if not weight.dim()), None)
    if scalar is not None:
        raise ValueError(
            f"DeepSpeed (0.19.8) cannot send a weight that is one number to the processes, as {scalar} of this model is; "
            "use FSDP2 (--set fsdp=true) or DDP"
        )


def _lengthened(model: nn.Module) -> frozenset[str]:
    """Make vectors of one element of scalar weights, which FSDP2 cannot cut, and return their names."""
    names = frozenset(name for name, weight in model.named_parameters() if not weight.dim())
    for name in names:
        owner, _, last = name.rpartition(".")
        weight = model.get_parameter(name)
        longer = nn.Parameter(weight.data.reshape(1), requires_grad=weight.requires_grad)
        setattr(model.get_submodule(owner), last, longer)
    return names


def as_shared(trainer: Any, weights: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
    """Return gathered weights in the shapes that the model has in one process."""
    if weights is None or not trainer.is_fsdp_enabled:
        return weights
    return {name: weight.reshape(()) if name in trainer.scalars else weight for name, weight in weights.items()}


def _units(model: nn.Module) -> list[str]:
    return sorted(getattr(model, "_no_split_modules", None) or ())


def whole(trainer: Any, model: Any) -> Any:
    """Return the model as one process would have it: on the main process with all its weights, where they are shared out.

    All processes must call it.
    """
    if not trainer.is_fsdp_enabled:
        return model
    from torch.distributed.fsdp import FSDPModule

    weights = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return model
    kind: Any = next(each for each in type(model).__mro__ if not issubclass(each, FSDPModule))
    made = kind(model.config)
    made.load_state_dict(as_shared(trainer, weights))
    return made
