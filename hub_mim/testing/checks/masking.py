"""The contract of masking: who decides the mask, what the encoder sees, where the loss is taken."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from hub_mim.testing.subject import SkipCheck, Subject, compare, differing, global_state_kept, tensors

MEASURED = ("loss", "losses")


def check_forward_contract(subject: Subject) -> None:
    """The output has loss, losses, mask and scored; the loss is the weighted sum of the losses, and comes first."""
    model = subject.model()
    with torch.no_grad():
        out = model(**subject.batch(), row_seed=subject.seeds())
        plain = model(**subject.batch(), row_seed=subject.seeds(), return_dict=False)
    for name in ("loss", "losses", "mask", "scored"):
        assert out.get(name) is not None, f"the output has no {name!r}"
    weights = getattr(model.config, "loss_weights", None) or {}
    total = sum(value * weights.get(name, 1.0) for name, value in out.losses.items())
    torch.testing.assert_close(out.loss, total, msg=lambda m: f"loss is not the weighted sum of losses: {m}")
    told = "with return_dict=False the loss must come first; see hub_mim.outputs.in_order for fields that are set one by one"
    assert isinstance(plain, tuple), told
    assert torch.is_tensor(plain[0]), told
    assert torch.equal(plain[0], out.loss), told
    parameters = inspect.signature(model.forward).parameters
    assert parameters["return_loss"].default is True, "forward needs return_loss=True, else Trainer evaluates no loss"


def check_given_mask_decides(subject: Subject) -> None:
    """With a mask, forward is deterministic and uses that mask."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model, seed=1)
    with torch.no_grad(), global_state_kept("forward with a mask"):
        first, second = model(**batch, mask=mask), model(**batch, mask=mask, row_seed=subject.seeds(5))
    compare(first, second, "two calls with the same mask")
    compare({"mask": mask}, {"mask": first.mask}, "the mask given and the mask returned")


def check_row_seed_decides(subject: Subject) -> None:
    """Without a mask, each row's seed decides its mask; torch's global source is left alone."""
    model, batch = subject.model(), subject.batch()
    with torch.no_grad(), global_state_kept("drawing masks from row_seed"):
        first = model(**batch, row_seed=subject.seeds())
        again = model(**batch, row_seed=subject.seeds())
        masks = [model(**batch, row_seed=subject.seeds(seed)).mask for seed in range(1, 6)]
    compare(first, again, "two calls with the same row seeds")
    changed = any(differing(first.mask, mask) for mask in masks)
    assert changed, "other row seeds give the same mask; draw it from row_seed"


def check_generator_decides(subject: Subject) -> None:
    """Without row seeds, the generator decides; torch's global source is left alone."""
    model, batch = subject.model(), subject.batch()
    with torch.no_grad(), global_state_kept("drawing masks from a generator"):
        first, again = (model(**batch, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    compare(first, again, "two calls with equal generators")


def check_rows_are_independent(subject: Subject) -> None:
    """Permuting the rows of a batch permutes masks and predictions, and changes nothing else."""
    model, batch = subject.model(), subject.batch()
    order = torch.arange(len(subject.rows)).flip(0)
    with torch.no_grad():
        out = model(**batch, row_seed=subject.seeds())
        turned = model(**{name: value[order] for name, value in batch.items()}, row_seed=subject.seeds()[order])
    for name in ("mask", "scored", "predictions"):
        if out.get(name) is not None:
            ours = {key: value[order] for key, value in tensors({name: out[name]})}
            compare(ours, dict(tensors({name: turned[name]})), "the batch in reverse order", tolerance=1e-5)


def check_no_leakage(subject: Subject) -> None:
    """Noise in place of hidden input changes nothing that the model computes but the loss."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    noisy = subject.example.corrupt(dict(batch), mask)
    assert differing(batch, noisy), "corrupt(batch, mask) of the example changes nothing"
    with torch.no_grad():
        clean, corrupted = model(**batch, mask=mask), model(**noisy, mask=mask)
    compare(clean, corrupted, "hidden input replaced by noise (the encoder must not see it)", without=MEASURED)


def check_no_gradient_to_hidden_input(subject: Subject) -> None:
    """The encoder's output has no gradient with respect to hidden input."""
    model, batch = subject.model(), subject.batch()
    name = model.main_input_name
    if not batch[name].is_floating_point():
        raise SkipCheck(f"the main input {name!r} is not made of numbers")
    mask = subject.mask(model)
    hidden = subject.example.corrupt(dict(batch), mask)[name] != batch[name]
    given = batch[name].clone().requires_grad_()
    out = model(**(batch | {name: given}), mask=mask)
    (gradient,) = torch.autograd.grad(out.last_hidden_state.square().sum(), given)
    assert not gradient[hidden].any(), "the encoder's output depends on hidden input: its gradient there is not zero"
    assert gradient[~hidden].any(), "the encoder's output does not depend on visible input at all"


def check_loss_only_where_scored(subject: Subject) -> None:
    """The loss has no gradient with respect to predictions that are not scored."""
    model, batch = subject.model(), subject.batch()
    out = model(**batch, row_seed=subject.seeds())
    predictions, scored = dict(tensors({"": out.get("predictions")})), dict(tensors({"": out.scored}))
    shared = [name for name in predictions if name in scored]
    if not shared:
        raise SkipCheck("the output has no predictions with the names of what is scored")
    gradients = torch.autograd.grad(out.loss, [predictions[name] for name in shared])
    for name, gradient in zip(shared, gradients, strict=True):
        where = scored[name]
        touched = gradient.flatten(where.dim()).ne(0).any(-1) if gradient.dim() > where.dim() else gradient.ne(0)
        told = f"predictions{name}"
        assert not (touched & ~where).any(), f"the loss depends on {told} where `scored` is False"
        assert touched.any(), f"the loss does not depend on {told}"


def check_extreme_masks(subject: Subject) -> None:
    """Nothing hidden, everything hidden, one row: finite outputs."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    with torch.no_grad():
        for what, value in (("nothing", False), ("everything", True)):
            extreme = _filled(mask, value)
            out = model(**batch, mask=extreme)
            for name, tensor in tensors(out, without=("logits",)):
                assert tensor.float().isfinite().all(), f"{name} is not finite when {what} is hidden"
        single = {name: value[:1] for name, value in batch.items()}
        assert model(**single, row_seed=subject.seeds()[:1]).loss.isfinite(), "the loss of one row is not finite"


def _filled(mask: Any, value: bool) -> Any:
    """Return a mask, or one for each stream, that is the same everywhere."""
    if isinstance(mask, Mapping):
        return {name: _filled(each, value) for name, each in mask.items()}
    return torch.full_like(mask, value)


def check_share_hidden(subject: Subject) -> None:
    """As many places of each row are hidden as the method says, whatever the seed."""
    if subject.example.hidden is None:
        raise SkipCheck("the example does not tell how many places are hidden")
    model, batch = subject.model(), subject.batch()
    least, most = subject.example.hidden(batch)
    for seed in range(5):
        mask = model(**batch, row_seed=subject.seeds(seed)).mask
        for name, each in tensors({"mask": mask}):
            count = each.flatten(1).sum(1)
            within = ((count >= least) & (count <= most)).all()
            told = f"{count.tolist()} places of {name} are hidden with seed {seed}"
            assert within, f"{told}, not {least.tolist()} to {most.tolist()}"


def check_row_alone(subject: Subject) -> None:
    """A row alone gets the mask and the predictions that it gets in a batch: other rows and padding change nothing."""
    model, seeds = subject.model(), subject.seeds()
    with torch.no_grad():
        whole = model(**subject.batch(), row_seed=seeds)
        for place, row in enumerate(subject.rows):
            alone = model(**subject.batch([row]), row_seed=seeds[place : place + 1])
            for name in ("mask", "scored", "predictions"):
                if whole.get(name) is None:
                    continue
                for part, tensor in tensors({name: alone[name]}):
                    same = dict(tensors({name: whole[name]}))[part][place]
                    same = same[tuple(slice(0, size) for size in tensor.shape[1:])]
                    compare({part: tensor[0]}, {part: same}, f"row {place} alone and in its batch", tolerance=1e-5)


def check_losses_are_means(subject: Subject) -> None:
    """Each loss of two rows lies between those of the rows alone, unless the model says that its loss compares rows."""
    model = subject.model()
    if getattr(model, "loss_spans_rows", False):
        raise SkipCheck("the model's loss compares rows (loss_spans_rows)")
    seeds, rows = subject.seeds(), subject.rows
    with torch.no_grad():
        for place in range(len(rows) - 1):
            pair = slice(place, place + 2)
            both = model(**subject.batch(rows[pair]), row_seed=seeds[pair]).losses
            alone = [model(**subject.batch([rows[i]]), row_seed=seeds[i : i + 1]).losses for i in (place, place + 1)]
            for name, loss in both.items():
                low, high = sorted(float(each[name]) for each in alone)
                within = low - 1e-5 <= float(loss) <= high + 1e-5
                told = f"{name} is {float(loss):.6g} for two rows and {low:.6g}, {high:.6g} for each alone"
                assert within, (
                    f"{told}; if it compares rows, set loss_spans_rows = True and gather them across processes"
                )
