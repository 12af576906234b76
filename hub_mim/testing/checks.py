"""The checks, one plain function each: takes a `Subject`, raises AssertionError with what to do, or `SkipCheck`."""

import copy
import inspect
import pickle
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from hub_mim.data import encode
from hub_mim.method import resolve
from hub_mim.testing.shared import find_shared
from hub_mim.testing.subject import SkipCheck, Subject, compare, global_state_kept, tensors

MEASURED = ("loss", "losses")


# --- registration, configuration, processor ------------------------------------------------------------------------


def check_every_string_resolves(subject: Subject) -> None:
    """Every `"module:Name"` of the Method names something."""
    for place, string in subject.method.strings():
        try:
            resolve(string)
        except ValueError as error:
            raise AssertionError(f"{place}: {error}") from error


def check_auto_classes(subject: Subject) -> None:
    """transformers' auto classes give the declared classes."""
    import transformers

    config = subject.example.config
    for auto in subject.method.auto:
        if not auto.startswith("AutoModel"):
            continue
        model = getattr(transformers, auto).from_config(copy.deepcopy(config))
        declared = subject.model_class(auto)
        assert type(model) is declared, (
            f"{auto}.from_config gives {type(model).__name__} instead of {declared.__name__}"
        )


def check_import_order(subject: Subject) -> None:
    """Whichever of the plugin, the hub and transformers is imported first, AutoConfig knows the model type."""
    package = subject.method.config.partition(".")[0]
    for first in (package, "hub_mim", "transformers"):
        code = (
            f"import {first}, hub_mim; from transformers import AutoConfig; "
            f"AutoConfig.for_model({subject.method.model_type!r})"
        )
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.returncode == 0, f"with {first} imported first: {told.stderr.strip().splitlines()[-1:]}"


def check_config_round_trip(subject: Subject) -> None:
    """Saving a configuration as JSON and loading it loses nothing."""
    config = subject.example.config
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        again = type(config).from_pretrained(folder)
    before, after = _own(config), _own(again)
    lost = [name for name in before if before[name] != after.get(name)]
    assert not lost, f"the fields {lost} change when the configuration is saved and loaded"


def check_example_sets_every_field(subject: Subject) -> None:
    """The example's configuration has no field of the plugin's own at its default."""
    config = subject.example.config
    default = _own(type(config)())
    same = sorted(name for name, value in _own(config).items() if value == default[name])
    allowed = {"legacy"}  # a switch that changes the arithmetic has checks of its own
    assert not set(same) - allowed, f"the example leaves {same} at the default, so losing them would not be noticed"


def check_config_refuses_wrong_types(subject: Subject) -> None:
    """A configuration says no to a value of the wrong type: it is decorated with `@strict`."""
    kind = type(subject.example.config)
    number = next((name for name, hint in kind.__annotations__.items() if hint is int), None)
    if number is None:
        raise SkipCheck("the configuration has no whole-number field")
    told = ""
    try:
        kind(**{number: "many"})
    except Exception as error:  # huggingface_hub's strict dataclasses raise an error type of their own
        told = str(error)
    assert told, f"{kind.__name__}({number}='many') is accepted; decorate the class with @strict"
    assert number in told, f"the error for a wrong {number} does not name it: {told}"


def check_processor_round_trip(subject: Subject) -> None:
    """A processor that was saved and loaded gives the same tensors."""
    processor = subject.example.processor
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        again = type(processor).from_pretrained(folder)
    compare(subject.batch(), encode(again, subject.rows), "the processor after saving and loading")


def check_processor_leaves_rows_alone(subject: Subject) -> None:
    """Encoding does not change the rows."""
    rows = subject.rows
    encode(subject.example.processor, rows)
    assert repr(rows) == repr(subject.rows), "the processor changed the rows it was given; copy before writing"


def check_processor_row_alone(subject: Subject) -> None:
    """A row gives the same tensors alone as in a batch, where shapes allow it."""
    whole = subject.batch()
    for place, row in enumerate(subject.rows):
        alone = encode(subject.example.processor, [row])
        for name, tensor in alone.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape[1:] == whole[name].shape[1:]:
                same = torch.equal(tensor[0], whole[name][place])
                assert same, f"{name} of row {place} depends on the other rows of its batch"


def check_processor_feeds_forward(subject: Subject) -> None:
    """What the processor makes is what forward takes."""
    parameters = inspect.signature(subject.model_class().forward).parameters
    strange = [name for name in subject.batch() if name not in parameters]
    assert not strange, f"the processor makes {strange}, but forward takes {list(parameters)}"


# --- masking -------------------------------------------------------------------------------------------------------


def check_forward_contract(subject: Subject) -> None:
    """The output has loss, losses, mask and scored; the loss is the weighted sum of the losses."""
    model = subject.model()
    with torch.no_grad():
        out = model(**subject.batch(), row_seed=subject.seeds())
    for name in ("loss", "losses", "mask", "scored"):
        assert out.get(name) is not None, f"the output has no {name!r}"
    weights = getattr(model.config, "loss_weights", None) or {}
    total = sum(value * weights.get(name, 1.0) for name, value in out.losses.items())
    torch.testing.assert_close(out.loss, total, msg=lambda m: f"loss is not the weighted sum of losses: {m}")
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
    changed = any(dict(_differs(first.mask, mask)) for mask in masks)
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
    assert dict(_differs(batch, noisy)), "corrupt(batch, mask) of the example changes nothing"
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
    predictions = out.get("predictions")
    if not isinstance(predictions, torch.Tensor) or not isinstance(out.scored, torch.Tensor):
        raise SkipCheck("the output has no single tensor of predictions")
    (gradient,) = torch.autograd.grad(out.loss, predictions)
    touched = gradient.flatten(out.scored.dim()).ne(0).any(-1) if gradient.dim() > out.scored.dim() else gradient.ne(0)
    assert not (touched & ~out.scored).any(), "the loss depends on predictions where `scored` is False"
    assert touched.any(), "the loss does not depend on the predictions"


def check_extreme_masks(subject: Subject) -> None:
    """Nothing hidden, everything hidden, one row: finite outputs."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    if not isinstance(mask, torch.Tensor):
        raise SkipCheck("the method masks several streams")
    with torch.no_grad():
        for what, extreme in (("nothing", torch.zeros_like(mask)), ("everything", torch.ones_like(mask))):
            out = model(**batch, mask=extreme)
            for name, tensor in tensors(out, without=("logits",)):
                assert tensor.float().isfinite().all(), f"{name} is not finite when {what} is hidden"
        single = {name: value[:1] for name, value in batch.items()}
        assert model(**single, row_seed=subject.seeds()[:1]).loss.isfinite(), "the loss of one row is not finite"


# --- the model -----------------------------------------------------------------------------------------------------


def check_save_and_load(subject: Subject) -> None:
    """A saved model loads bit for bit, whole and as the encoder alone."""
    import transformers

    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        assert not list(Path(folder).glob("*.bin")), "weights were saved as a pickle; safetensors are needed"
        again, facts = transformers.AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
        encoder, told = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    for what, info in (("the model", facts), ("the encoder", told)):
        odd = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
        assert not odd, f"{what} loads with a report: {odd}; see _keys_to_ignore_on_load_unexpected"
    with torch.no_grad():
        compare(model(**batch, mask=mask), again.eval()(**batch, mask=mask), "the model after saving and loading")
        base = getattr(model, model.base_model_prefix)
        compare(base(**batch), encoder.eval()(**batch), "the encoder loaded from the pre-training checkpoint")


def check_constant_tables(subject: Subject) -> None:
    """A model built on the meta device and then loaded has its constant tables."""
    model = subject.model()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)  # transformers builds on meta and fills
    compare(
        dict(model.named_buffers()),
        dict(again.named_buffers()),
        "constant tables after loading: fill them in _init_weights",
    )


def check_gradients(subject: Subject) -> None:
    """Every trainable parameter gets a finite gradient over a few steps."""
    model = subject.model().train()
    for seed in range(4):
        model(**subject.batch(), row_seed=subject.seeds(seed)).loss.backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, f"{name} gets no gradient; what a step does not use is joined with weight 0"
            assert weight.grad.isfinite().all(), f"the gradient of {name} is not finite"
    dead = [
        n for n, w in model.named_parameters() if w.requires_grad and not w.grad.any() and not n.endswith("k_proj.bias")
    ]
    assert not dead, f"{dead} get no gradient but zero: the loss does not depend on them"


def check_seed_decides_weights(subject: Subject) -> None:
    """The seed decides the initial weights, and they are finite."""
    first, again, other = subject.model(seed=1), subject.model(seed=1), subject.model(seed=2)
    compare(first.state_dict(), again.state_dict(), "two models from one seed")
    assert dict(_differs(first.state_dict(), other.state_dict())), "another seed gives the same weights"
    for name, weight in first.state_dict().items():
        assert weight.float().isfinite().all(), f"{name} is not finite after initialisation"


def check_attention_implementations(subject: Subject) -> None:
    """`sdpa` and `eager` attention agree."""
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


def check_gradient_checkpointing(subject: Subject) -> None:
    """Gradient checkpointing changes no gradient."""
    if not subject.model_class().supports_gradient_checkpointing:
        raise SkipCheck("the model does not support it")
    gradients = []
    for checkpointing in (False, True):
        model = subject.model()
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**subject.batch(), row_seed=subject.seeds()).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    compare(gradients[0], gradients[1], "gradients with and without checkpointing", tolerance=1e-6)


def check_hidden_states(subject: Subject) -> None:
    """The encoder records one hidden state per layer and the input."""
    model = subject.model("AutoModel")
    with torch.no_grad():
        out = model(**subject.batch(), output_hidden_states=True)
    assert out.hidden_states is not None, "output_hidden_states=True gives none; see _can_record_outputs"
    layers = getattr(model.config, "num_hidden_layers", None)
    if layers is not None:
        assert len(out.hidden_states) == layers + 1, f"{len(out.hidden_states)} hidden states for {layers} layers"


def check_copies(subject: Subject) -> None:
    """A deep copy and a pickled model compute the same."""
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    with torch.no_grad():
        for what, other in (("a deep copy", copy.deepcopy(model)), ("pickling", pickle.loads(pickle.dumps(model)))):
            compare(model(**batch, mask=mask), other(**batch, mask=mask), what)


def check_compile(subject: Subject) -> None:
    """torch.compile takes the whole graph and agrees."""
    if not subject.model_class()._can_compile_fullgraph:
        raise SkipCheck("the model does not claim to compile whole")
    model, batch = subject.model(), subject.batch()
    mask = subject.mask(model)
    with torch.no_grad():
        plain = model(**batch, mask=mask)
        compiled = torch.compile(model, fullgraph=True)(**batch, mask=mask)
    without = ("last_hidden_state", "hidden_states")  # packed to another width when compiled
    compare(plain, compiled, "the compiled model", tolerance=2e-5, without=without)


# --- training and evidence -----------------------------------------------------------------------------------------


def check_overfits_one_batch(subject: Subject) -> None:
    """A hundred steps on one batch with one mask at least halve the loss."""
    model = subject.model().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch, mask = subject.batch(), subject.mask(subject.model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    losses = []
    for _ in range(100):
        loss = model(**batch, mask=mask).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], f"the loss of one batch goes from {losses[0]:.4g} to {losses[-1]:.4g} only"


def check_pretrains(subject: Subject) -> None:
    """`pretrain` runs on the example's rows and its folder loads."""
    from hub_mim import sharing
    from hub_mim.training import pretrain

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        fields = _own(subject.example.config)
        run = pretrain(subject.name, subject.rows, out, config=fields, steps=3, batch_size=2, validation=0.25)
        assert run.status == "finished"
        assert run.steps == 3
        model, processor = sharing.load(out, auto="AutoModelForPreTraining"), sharing.load_processor(out)
        with torch.no_grad():
            assert model.eval()(**encode(processor, subject.rows), row_seed=subject.seeds()).loss.isfinite()


def check_parity(subject: Subject) -> None:
    """The authors' numbers are reached, where a fixture is at hand."""
    from hub_mim.testing.parity import compare as compare_fixture

    if subject.method.parity is None:
        raise SkipCheck("the method declares no parity")
    path = find_shared(f"fixtures/{subject.name}_a.safetensors")
    if path is None:
        raise SkipCheck(f"no fixture {subject.name}_a here; set HUB_MIM_SHARED to the folder that has fixtures/")
    report = compare_fixture(subject.name, path)
    assert report.passed, f"\n{report}"


def check_flops(subject: Subject) -> None:
    """The declared floating-point operations equal what torch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    if subject.method.flops is None:
        raise SkipCheck("the method declares no flops")
    model, batch = subject.model(), subject.batch()
    model.set_attn_implementation("eager")
    mask = torch.zeros_like(subject.mask(model))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, mask=mask, return_loss=False)
    visible = batch.get("observed", batch.get("attention_mask"))
    options = {"num_visible": int(visible.sum(1).max())} if isinstance(visible, torch.Tensor) else {}
    function = resolve(subject.method.flops)
    known = inspect.signature(function).parameters
    declared = function(model.config, batch, **{name: value for name, value in options.items() if name in known})
    assert declared == counter.get_total_flops(), f"declared {declared}, counted {counter.get_total_flops()}"


def check_package_files(subject: Subject) -> None:
    """The package brings a typing marker and its own text for the card."""
    package = files(subject.method.config.partition(".")[0])
    for name in ("py.typed", "card.md"):
        assert (package / name).is_file(), f"the package has no {name}"
    assert (package / "card.md").read_text(encoding="utf-8").strip(), "card.md is empty"


def _own(config: Any) -> dict[str, Any]:
    """Return the plugin's own fields of a configuration, nested configurations as plain values."""
    names = [
        name
        for kind in type(config).__mro__
        if not _of_transformers(kind)
        for name in vars(kind).get("__annotations__", {})
    ]
    values = {name: getattr(config, name) for name in names if name != "model_type"}
    return {name: value.to_dict() if hasattr(value, "to_dict") else value for name, value in values.items()}


def _of_transformers(kind: type) -> bool:
    return kind.__module__.startswith(("transformers.", "huggingface_hub.", "builtins"))


def _differs(first: Any, second: Any) -> Any:
    left = dict(tensors(first if hasattr(first, "items") else {"": first}))
    right = dict(tensors(second if hasattr(second, "items") else {"": second}))
    return ((name, True) for name in left if not torch.equal(left[name], right[name]))


ALL = tuple(value for name, value in list(globals().items()) if name.startswith("check_"))
SLOW = (check_import_order, check_compile)
