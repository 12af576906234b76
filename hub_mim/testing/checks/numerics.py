"""The same numbers whichever way they are computed: attention, precision, checkpointing, compiler."""

import copy

import torch

from hub_mim.half_weights import MasterWeights, castable
from hub_mim.testing.subject import SkipCheck, Subject, compare, without_dropout


def check_attention_implementations(subject: Subject) -> None:
    """`sdpa` and `eager` attention agree."""
    if not subject.model_class()._supports_sdpa:
        raise SkipCheck("the model has no attention")
    batch = subject.batch()
    mask = subject.mask(subject.model())
    outs = []
    for name in ("sdpa", "eager"):
        model = subject.model()
        model.set_attn_implementation(name)
        with torch.no_grad():
            outs.append(model(**batch, mask=mask))
    compare(outs[0], outs[1], "sdpa and eager attention", tolerance=2e-5)


def check_float64(subject: Subject) -> None:
    """float32 is near float64."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    double = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    with torch.no_grad():
        single, exact = model(**batch, mask=mask), copy.deepcopy(model).double()(**double, mask=mask)
    compare(single, exact, "float32 and float64", tolerance=1e-4)


def check_bfloat16(subject: Subject) -> None:
    """bfloat16 weights give a finite loss."""
    model, batch = subject.model().bfloat16(), subject.batch()
    half = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.items()}
    with torch.no_grad():
        assert model(**half, row_seed=subject.seeds()).loss.isfinite(), "the loss is not finite in bfloat16"


def check_autocast(subject: Subject) -> None:
    """bfloat16 by autocast, as mixed precision trains, gives nearly the loss of float32, and gradients."""
    model, batch = subject.model(), subject.batch()
    whole = model(**batch, row_seed=subject.seeds()).loss
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**batch, row_seed=subject.seeds()).loss
    half.backward()
    near = abs(half.item() - whole.item()) <= 0.05 * max(1.0, abs(whole.item()))
    assert near, f"the loss is {whole.item():.4g} in float32 and {half.item():.4g} under autocast"


def check_half_weights(subject: Subject) -> None:
    """Weights kept in bfloat16, with float32 copies in the optimiser, take the steps that autocast takes."""
    losses: list[list[float]] = []
    for half in (False, True):
        model = without_dropout(subject.model().train())
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        if half:
            optimizer = MasterWeights(optimizer, castable(model))
        losses.append([])
        for step in range(3):
            torch.manual_seed(step)  # of what is drawn otherwise, such as dropped paths
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**subject.batch(), row_seed=subject.seeds()).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0][0] == losses[1][0], f"the first loss is {losses[1][0]}, under autocast alone {losses[0][0]}"
    for whole, rounded in zip(*losses, strict=True):  # a layer that is used twice sums its gradients in 16 bits
        assert abs(whole - rounded) <= 1e-2 * abs(whole), f"losses are {losses[1]}, under autocast alone {losses[0]}"


def check_gradient_checkpointing(subject: Subject) -> None:
    """Gradient checkpointing changes no gradient."""
    if not subject.model_class().supports_gradient_checkpointing:
        raise SkipCheck("the model does not support it")
    gradients = []
    for checkpointing in (False, True):
        model = subject.model()
        if checkpointing:
            model.activation_checkpointing_enable()
        without_dropout(model.train())
        model(**subject.batch(), row_seed=subject.seeds()).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    compare(gradients[0], gradients[1], "gradients with and without checkpointing", tolerance=1e-6)


def check_compile(subject: Subject) -> None:
    """torch.compile takes the whole graph and agrees."""
    if not subject.model_class()._can_compile_fullgraph:
        raise SkipCheck("the model does not claim to compile whole")
    torch.compiler.reset()  # what was compiled before counts towards the limit
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    with torch.no_grad():
        plain = model(**batch, mask=mask)
        compiled = torch.compile(model, fullgraph=True)(**batch, mask=mask)
    without = ("last_hidden_state", "hidden_states")  # packed to another width when compiled
    compare(plain, compiled, "the compiled model", tolerance=2e-5, without=without)


def check_export(subject: Subject) -> None:
    """torch.export takes the model with a given mask, and agrees."""
    if not subject.model_class()._can_compile_fullgraph:
        raise SkipCheck("the model does not claim to compile whole")
    model, batch = subject.model(), subject.batch()
    given = dict(batch) | {"mask": subject.mask(model)}
    with torch.no_grad():
        plain = model(**given)
        exported = torch.export.export(model, (), given, strict=False).module()(**given)
    compare(plain, exported, "the exported model", tolerance=2e-5, without=("last_hidden_state", "hidden_states"))
