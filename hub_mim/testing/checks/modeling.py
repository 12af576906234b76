"""The model as a citizen of transformers: saving, loading, initialisation, hidden states, copies."""

import copy
import pickle
import tempfile
from pathlib import Path

import torch

from hub_mim.testing.subject import SkipCheck, Subject, compare, differing


def check_save_and_load(subject: Subject) -> None:
    """A saved model's weights load bit for bit, whole and as the encoder alone, and compute the same.

    Outputs may differ in the last digits: a loaded tensor lies elsewhere in memory, which changes the order of sums.
    """
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
    base = getattr(model, model.base_model_prefix)
    for what, old, new in (
        ("the model after saving and loading", model, again),
        ("the encoder loaded from the pre-training checkpoint", base, encoder),
    ):
        compare(old.state_dict(), new.state_dict(), f"the weights of {what}")
    with torch.no_grad():
        compare(model(**batch, mask=mask), again.eval()(**batch, mask=mask), "the loaded model", tolerance=1e-5)
        compare(base(**batch), encoder.eval()(**batch), "the loaded encoder", tolerance=1e-5)


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


def check_seed_decides_weights(subject: Subject) -> None:
    """The seed decides the initial weights, and they are finite."""
    first, again, other = subject.model(seed=1), subject.model(seed=1), subject.model(seed=2)
    compare(first.state_dict(), again.state_dict(), "two models from one seed")
    assert differing(first.state_dict(), other.state_dict()), "another seed gives the same weights"
    for name, weight in first.state_dict().items():
        assert weight.float().isfinite().all(), f"{name} is not finite after initialisation"


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


def check_initial_weights(subject: Subject) -> None:
    """Initial weights are of a usable size: finite, none beyond 10, norms at 1."""
    for name, module in subject.model().named_modules():
        for part, weight in module.named_parameters(recurse=False):
            assert weight.abs().max() <= 10, f"{name}.{part} starts with values up to {weight.abs().max():.3g}"
            if isinstance(module, torch.nn.LayerNorm) and part == "weight":
                assert (weight == 1).all(), f"{name}.weight is not 1 at the start"


def check_pipeline(subject: Subject) -> None:
    """transformers' feature-extraction pipeline runs on the saved model, where there is one for its input."""
    import transformers

    images = "AutoImageProcessor" in subject.method.auto and "image" in subject.method.modalities
    if not images or len(subject.method.modalities) > 1:
        raise SkipCheck("transformers has no pipeline for this input")
    with tempfile.TemporaryDirectory() as folder:
        subject.model("AutoModel").save_pretrained(folder)
        subject.example.processor.save_pretrained(folder)
        pipe = transformers.pipeline("image-feature-extraction", model=folder)
        image = next(value for value in subject.rows[0].values() if hasattr(value, "convert"))
        assert len(pipe(image)[0]) > 0, "the pipeline returns no features"
