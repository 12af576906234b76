"""Every public function of the core that takes tensors, arrays or numbers, with every kind of wrong value: refused by name.

A function is called rightly once, then with each argument spoiled: another type, dtype, shape, device, number. It raises
ValueError or TypeError with the argument's name, or gives a finite result. The spoilings follow from the values, as the kit's
`check_wrong_values` has them for models. A public function that is new must be called below, or be listed with a reason.
"""

import importlib
import inspect
import math
import pkgutil
import re

import numpy as np
import pytest
import torch
from record import counted
from torch import Tensor

import hub_mim
from hub_mim.checking import takes
from hub_mim.masking import keep_visible
from hub_mim.samples import sample_rows
from hub_mim.testing.checks.values import wrong_arguments

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

source = torch.Generator().manual_seed(0)
X = torch.rand(3, 4, 6, generator=source)
SCORES = torch.rand(3, 4, generator=source)
MASK = SCORES > 0.5
SEEDS = torch.arange(3)
IDS = torch.randint(9, (3, 4), generator=source)
ROWS = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
LABELS = np.arange(24) % 2
PROBE = {"train": ROWS, "labels": LABELS, "test": ROWS[:5], "seed": 0}
PAIRS = np.array([[0, 1], [2, 3]])

# right calls, by module and function
CALLS = {
    "masking.row_seeds": {"seed": 0, "epoch": 1, "index": SEEDS},
    "masking.row_noise": {"row_seed": SEEDS, "stream": 1},
    "masking.noise": {"shape": (3, 4), "row_seed": SEEDS, "stream": 1},
    "masking.budget": {"num_valid": SEEDS + 3, "ratio": 0.5, "min_visible": 1},
    "masking.hide_highest": {"scores": SCORES, "budget": SEEDS, "valid": MASK},
    "masking.random_mask": {"shape": (3, 4), "ratio": 0.5, "valid": MASK, "min_visible": 1, "row_seed": SEEDS},
    "masking.block_mask": {
        "batch": 3,
        "grid": (2, 2),
        "ratio": 0.5,
        "block": (1, 2),
        "valid": MASK,
        "row_seed": SEEDS,
    },
    "masking.span_mask": {"shape": (3, 4), "ratio": 0.5, "span": 2, "valid": MASK, "row_seed": SEEDS},
    "masking.stream_masks": {
        "tokens": {"a": 4, "b": 2},
        "num_visible": 3,
        "alphas": {"a": 1.0, "b": 2.0},
        "batch": 3,
        "shares": torch.full((3, 2), 0.5),
        "valid": {"a": MASK},
        "row_seed": SEEDS,
    },
    "masking.dirichlet": {"alphas": [1.0, 2.0], "batch": 3, "row_seed": SEEDS},
    "masking.pattern_mask": {"observed": MASK, "patterns": MASK[:2], "min_visible": 1, "row_seed": SEEDS},
    "masking.replace_tokens": {
        "ids": IDS,
        "scored": MASK,
        "mask_id": 1,
        "vocab_size": 9,
        "shares": (0.8, 0.1),
        "row_seed": SEEDS,
    },
    "masking.keep_visible": {"x": X, "mask": MASK, "valid": MASK, "num_visible": 2},
    "masking.restore": {"kept": keep_visible(X, MASK), "fill": torch.zeros(6), "length": 4},
    "masking.take": {"x": X, "places": torch.zeros(3, 2, dtype=torch.int64)},
    "masking.check_ratio": {"ratio": 0.5},
    "patches.patchify": {"images": torch.rand(2, 3, 4, 6, generator=source), "patch": (2, 3)},
    "patches.unpatchify": {
        "patches": torch.rand(2, 4, 18, generator=source),
        "patch": (2, 3),
        "grid": (2, 2),
    },
    "patches.sincos_1d": {"positions": SEEDS, "width": 4, "temperature": 100.0},
    "patches.sincos_2d": {"grid": (2, 2), "width": 4, "temperature": 100.0},
    "losses.token_mse": {"prediction": X, "target": X + 1},
    "losses.token_l1": {"prediction": X, "target": X + 1},
    "losses.token_cross_entropy": {
        "logits": X,
        "labels": IDS.clamp(max=5),
        "label_smoothing": 0.1,
    },
    "losses.joint_mean": {"values": X, "count": 3},
    "losses.masked_mean": {"loss": SCORES, "scored": MASK},
    "losses.row_masked_mean": {"loss": SCORES, "scored": MASK},
    "losses.normalize_patches": {"patches": X, "eps": 1e-6},
    "losses.weighted_sum": {"losses": {"a": SCORES.sum()}, "weights": {"a": 2.0}},
    "gathering.row_counts": {"rows": 3},
    "gathering.gather_rows": {"x": X},
    "gathering.joint_count": {"count": SEEDS.sum()},
    "bucketing.TokenBatches.__init__": {"lengths": [3, 2, 4], "tokens": 8, "seed": 0, "rank": 0, "processes": 1},
    "schedules.warmup_cosine": {"step": 2, "peak": 1.0, "total": 9, "warmup": 3, "floor": 0.1},
    "schedules.ema_decay": {"step": 2, "start": 0.9, "end": 1.0, "total": 9},
    "pairs.recalls": {"similarity": torch.eye(3), "owner": SEEDS},
    "probes.stratified_split": {"labels": LABELS, "share": 0.2, "seed": 0},
    "probes.nearest": PROBE | {"k": 2, "temperature": 0.1},
    "probes.batched_linear": PROBE | {"epochs": 2, "batch_size": 8, "rates": [0.1]},
    "probes.hidden_layer": PROBE | {"epochs": 1, "batch_size": 24, "patience": 1},
    "probes.small_linear": PROBE | {"epochs": 1, "batch_size": 24, "weight_decay": 0.1, "held": np.arange(4)},
    "probes.links": {"values": ROWS, "edges": PAIRS, "others": PAIRS + 4},
    "probes.score": {"truth": LABELS, "predicted": LABELS},
    "probes.rankme": {"values": ROWS, "epsilon": 1e-7},
    "probes.retrieval": {"values": ROWS, "labels": LABELS},
    "probes.mean_interval": {"values": [0.1, 0.2]},
    "protocols.few": {"labels": LABELS, "count": 2, "seed": 0},
    "dense.token_classes": {"labels": LABELS.reshape(4, 6), "grid": (2, 3)},
    "samples.sample_rows": {"name": "toy", "num_rows": 2, "seed": 0},
    "scenes.scenes": {"count": 1, "seed": 0, "side": 8},
    "scenes.scene": {"number": 1, "seed": 0, "side": 8},
    "batching.take": {"rows": sample_rows("toy", num_rows=3, seed=0), "numbers": [1, 0]},
    "blocks.Mlp.__init__": {"width": 4, "inner": 8, "dropout": 0.1},
    "blocks.DropPath.__init__": {"share": 0.1},
}
# whose numbers are refused before anything is done: (what else is given, the numbers)
EARLY = {
    "probes.linear": (PROBE, {"seed": 0}),  # slow to call rightly
    "masking.block_scores": (
        {"cells": X, "offset": SCORES, "jitter": SCORES},
        {"grid": (2, 2), "block": (1, 2)},
    ),
    "blocks.Attention.__init__": ({"config": None}, {"width": 8, "num_heads": 2, "dropout": 0.1}),
    "blocks.Block.__init__": ({"config": None}, {"width": 8, "num_heads": 2, "inner": 8, "layer_norm_eps": 1e-6}),
    "blocks.build_blocks": (
        {"kind": None, "config": None},
        {"depth": 1, "width": 8, "num_heads": 2, "inner": 8, "drop_path": 0.1},
    ),
    "bucketing.row_lengths": ({"processor": None, "rows": []}, {"batch_size": 2}),
    "pairs.retrieval": ({"model": None, "processor": None, "rows": []}, {"batch_size": 2}),
    "dense.labelled_tokens": ({"model": None, "processor": None, "rows": [], "label": None}, {"batch_size": 2}),
    "features.raw_features": ({"processor": None, "rows": []}, {"batch_size": 2}),
    "features.untrained": ({"model": None}, {"seed": 0}),
    "few_label.accuracy": ({"model": None, "processor": None, "rows": [], "label": ""}, {"batch_size": 2}),
    "evaluation.evaluate": (
        {"source": "x", "data": []},
        {"seed": 0, "repeats": 1, "batch_size": 2, "limit": 3},
    ),
    "evaluation.masked_losses": ({"model": None, "processor": None, "rows": []}, {"batch_size": 2}),
    "embedding.embed": ({"source": "x", "data": [], "out": "y"}, {"batch_size": 2}),
    "finetuning.finetune": (
        {"source": "x", "data": [], "out": "y"},
        {"validation": 0.1, "labels_per_class": 2, "layer_decay": 0.5, "seed": 0, "steps": 1, "epochs": 1.0}
        | {"batch_size": 2, "learning_rate": 0.1, "early_stopping": 2},
    ),
    "training.pretrain": (
        {"method": "toy", "data": [], "out": "y"},
        {"validation": 0.1, "seed": 0, "steps": 1, "epochs": 1.0, "batch_size": 2, "tokens_per_batch": 9}
        | {"learning_rate": 0.1, "early_stopping": 2, "cache_side": 9},
    ),
    "showing.show": ({"source": "x", "data": [], "out": "y"}, {"row": 0, "count": 1, "seed": 0}),
    "samples.sample_table": ({"name": "wine"}, {"gaps": 0.1, "seed": 0}),
    "encoding.encode_all": ({"processor": None, "rows": []}, {"batch_size": 2}),
    "encoding.readable": ({"processor": None, "rows": []}, {"batch_size": 2}),
    "speed.peak_flops": ({"device": "cpu", "dtype": "float32"}, {"repeats": 1}),
    "picture_cache.cached": ({"rows": [], "folder": "y"}, {"side": 9}),
    "texts.word_pieces": ({"texts": []}, {"size": 9}),
    "heads.decayed_groups": ({"model": None}, {"rate": 0.1, "decay": 0.5, "weight_decay": 0.1}),
    "maps.draw_attention": ({"source": "x", "rows": [], "path": "y"}, {"start": 0, "layer": -1}),
    "maps.draw_embedding": ({"source": "x", "rows": [], "path": "y"}, {"seed": 0}),
}
# what is not called by users, or checked elsewhere; a module, or a function
REASONS = {
    "cli": "the command line: test_wrong_arguments.py",
    "arguments": "checks of the command line",
    "fields": "checks of configurations: check_config_refuses_bad_values",
    "blocks": "layers, whose input comes out of a model that was checked; what builds them is called above",
    "checking": "the checks themselves, below",
    **dict.fromkeys(("trainer", "callbacks", "bad_steps", "sharded"), "within a run, whose settings `pretrain` checks"),
    **dict.fromkeys(
        ("streams", "stream_rows", "shares", "launching"), "within a run, whose settings `pretrain` checks"
    ),
    **dict.fromkeys(("console", "demo", "conversion", "transfer"), "numbers and weights of our own, or free to choose"),
    **dict.fromkeys(
        ("on_device", "augmenting", "drafting", "half_weights"), "within a run, whose settings `pretrain` checks"
    ),
    "method": "what a plugin declares: check_metadata and what is read of it",
    "run": "a record of the settings that `pretrain` checked",
    "bucketing.TokenBatches.set_epoch": "called by transformers' Trainer",
    **dict.fromkeys(("batching", "encoding", "splitting"), "rows, which test_data.py spoils"),
    "embedding": "parts of `embed`",
    **dict.fromkeys(("evaluation", "results"), "parts of `evaluate` and `finetune`"),
    "features": "an encoder's own output and batch; `iterate_features` is a generator, checked as it begins",
    "label_maps": "parts of `finetune`",
    "finetuning": "parts of `finetune`",
    **dict.fromkeys(("training", "run_arguments", "run_folder", "loss_sums"), "parts of `pretrain`"),
    "few_label": "a protocol's judge: options are checked by `protocols.chosen_options`",
    "gathering.first_row": "of `row_counts` of all processes",
    "dense": "a protocol's judge, or a batch of the processor's",
    "pairs": "a protocol's judge",
    "zero_shot": "a protocol's judge",
    "protocols": "a protocol's judge, or its results",
    "maps": "parts of `show`",
    "showing": "parts of `show`",
    "picture_cache": "read by number from a file of our own",
    "pictures": "drawn from what an imputation gave, see test_pictures.py",
    "pixels": "pictures of a processor, see the processors' tests",
}
NUMBERS = re.compile(r"\b(Tensor|ndarray|int|float)\b")


def public():
    """Yield the names of the core's public functions and methods that take tensors, arrays or numbers."""
    for found in pkgutil.iter_modules(hub_mim.__path__):
        if found.ispkg or found.name.startswith("__"):
            continue
        module = importlib.import_module(f"hub_mim.{found.name}")
        for name, value in vars(module).items():
            if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
                continue
            members = {name: value} if inspect.isfunction(value) else {}
            if inspect.isclass(value):
                members = {f"{name}.{key}": each for key, each in vars(value).items() if inspect.isfunction(each)}
            for path, each in members.items():
                last = path.rpartition(".")[2]
                hints = [str(hint) for key, hint in each.__annotations__.items() if key != "return"]
                if (last == "__init__" or not last.startswith("_")) and any(map(NUMBERS.search, hints)):
                    yield f"{found.name}.{path}"


def test_every_public_function_is_called_or_has_a_reason():
    every = set(public())
    called = CALLS.keys() | EARLY.keys()
    missing = sorted(name for name in every - called if name not in REASONS and name.partition(".")[0] not in REASONS)
    assert not missing, f"call them in CALLS, or say in REASONS why not: {missing}"
    assert not called - every - {"blocks.DropPath.__init__"}, "called, but gone or no longer public"


def function_of(path):
    """Return a public function; of a class its constructor."""
    module, _, name = path.partition(".")
    found = importlib.import_module(f"hub_mim.{module}")
    return getattr(found, name.removesuffix(".__init__"))


def spoiled(name, value):
    """Yield what may be wrong with a value, and whether its numbers may come through as they are."""
    if isinstance(value, np.ndarray):
        tensors = wrong_arguments({name: torch.from_numpy(value)})
        for each in tensors:
            if each.what != "on another device":
                other = each.value
                yield each.what, other.numpy() if isinstance(other, Tensor) else other
    elif isinstance(value, Tensor) or hasattr(value, "_asdict"):
        parts = wrong_arguments({name: value._asdict() if hasattr(value, "_asdict") else value})
        for each in parts:
            yield each.what, type(value)(**each.value) if isinstance(each.value, dict) else each.value
    elif isinstance(value, dict):
        yield "as a string", "wrong"
        for key, part in value.items():
            for what, other in spoiled(name, part):
                yield f"[{key!r}] {what}", {**value, key: other}
    elif isinstance(value, tuple | list):
        yield from (("as a string", "wrong"), ("as a number", 3), ("with words", ["wrong"] * len(value)))
        yield from (("longer", [*value, value[0]]), ("with NaN", [float("nan")] * len(value)))
    elif isinstance(value, int | float):
        yield from (("as a string", "wrong"), ("as a list", [value]), ("NaN", math.nan), ("infinite", math.inf))
        yield from (("below 0", -7), ("None", None))


def finite(value):
    """Tell whether a result is made of finite numbers."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(finite, value))
    if isinstance(value, float):
        return math.isfinite(value)
    return (
        not isinstance(value, Tensor) or value.is_meta or not value.is_floating_point() or bool(value.isfinite().all())
    )


def outcome(function, given, name, what, value):
    """Return what is wrong with how a wrong value was taken, None where nothing is."""
    told = f"{name} {what}"
    try:
        result = function(**{**given, name: value})
    except (TypeError, ValueError) as error:
        named = re.search(rf"\b{name}\b", str(error))
        return None if named else f"{told} is refused without its name: {type(error).__name__}: {error}"
    except Exception as error:  # whatever comes from the depths is a finding
        return f"{told} ends in {type(error).__name__}: {error}"
    numbers = "NaN" in what or "nan" in what or "inf" in what
    return None if numbers or finite(result) else f"{told} gives a result that is not finite"


@pytest.mark.parametrize("path", sorted(CALLS))
def test_wrong_values(path):
    function, given = function_of(path), CALLS[path]
    assert finite(function(**given))
    optional = {key for key, each in inspect.signature(function).parameters.items() if each.default is not each.empty}
    with counted("wrong values", f"{path} of the core") as count:
        alone = sum(isinstance(value, Tensor) for value in given.values()) == 1  # apart from nothing, on any device
        tried = [
            (name, what, value)
            for name, right in given.items()
            if isinstance(right, TYPES)
            for what, value in spoiled(name, right)
            if not (value is None and name in optional) and not (alone and what == "on another device")
        ]
        found = [outcome(function, given, *each) for each in tried]
        count(len(tried))
        assert not any(found), "\n".join(each for each in found if each)


@pytest.mark.parametrize("path", sorted(EARLY))
def test_wrong_numbers_are_refused_first(path):
    function, (others, given) = function_of(path), EARLY[path]
    with counted("wrong values", f"{path} of the core") as count:
        tried = [
            (name, value) for name, right in given.items() for what, value in spoiled(name, right) if what in FIRST
        ]
        for name, value in tried:
            with pytest.raises((TypeError, ValueError), match=rf"\b{name}\b"):
                function(**others, **{**given, name: value})
        count(len(tried))


TYPES = (Tensor, np.ndarray, int, float, tuple, list, dict)
FIRST = ("as a string", "NaN", "infinite", "with words", "with NaN")


def test_a_function_says_what_it_was_given_and_what_it_takes():
    @takes(x="float B T", ids="int >=0 <count |-100 B", names="label N")
    def called(x: Tensor, ids: Tensor | None = None, count: int = 5, names: np.ndarray | None = None) -> None: ...

    wrong = {
        "x is of torch.int64; it must be of floating-point numbers": {"x": IDS},
        "x has the shape (3, 4, 6); it must be (B, T)": {"x": X},
        "ids has the shape (2,); it must be (B,) with B = 3, as in x": {"ids": SEEDS[:2]},
        "ids holds 5; it must be < 5 (count)": {"ids": SEEDS + 3, "count": 5},
        "ids holds -1; it must be >= 0": {"ids": SEEDS - 1, "count": 5},
        "ids is on meta, but x on cpu; move one with .to(...)": {"ids": SEEDS.to("meta")},
        "count is 'a'; it must be a whole number": {"count": "a"},
        "names is a list; it must be an array of classes or quantities": {"names": ["a"]},
    }
    called(SCORES, torch.tensor([0, 4, -100]), count=5, names=np.array(["a"]))
    for told, given in wrong.items():
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(told)}$"):
            called(**{"x": SCORES, **given})


def test_what_is_said_names_arguments():
    with pytest.raises(ValueError, match=r"has no arguments \['y'\]"):
        takes(y="float")(lambda x: x)
