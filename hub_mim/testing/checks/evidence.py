"""What a plugin claims: the authors' numbers and its cost."""

import inspect
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hub_mim.method import resolve, split
from hub_mim.testing.shared import find_shared
from hub_mim.testing.subject import SkipCheck, Subject, compare, package_folder, source_folder


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
    mask = subject.mask(model)
    if isinstance(mask, torch.Tensor):
        mask = torch.zeros_like(mask)  # of several streams, a budget is visible, and the formula counts that
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, mask=mask, return_loss=False)
    visible = batch.get("observed", batch.get("attention_mask"))
    options: dict[str, Any] = {"num_visible": int(visible.sum(1).max())} if isinstance(visible, torch.Tensor) else {}
    options["mask"] = mask
    function = resolve(subject.method.flops)
    known = inspect.signature(function).parameters
    declared = function(model.config, batch, **{name: value for name, value in options.items() if name in known})
    assert declared == counter.get_total_flops(), f"declared {declared}, counted {counter.get_total_flops()}"


def check_conversion(subject: Subject) -> None:
    """The authors' weights and ours are one-to-one: all of theirs find a place, all of ours go back to their names."""
    from safetensors.torch import load_file

    from hub_mim.conversion import apply, rename_back

    if subject.method.conversion is None:
        raise SkipCheck("the method declares no conversion")
    path = find_shared(f"fixtures/{subject.name}_a.safetensors")
    if path is None:
        raise SkipCheck(f"no fixture {subject.name}_a here; set HUB_MIM_SHARED to the folder that has fixtures/")
    stored = {name: tensor for name, tensor in load_file(path).items() if name.startswith("weights/")}
    weights = {name.removeprefix("weights/"): tensor for name, tensor in stored.items()}
    conversion = resolve(subject.method.conversion)
    weights = dict(conversion.prepare(weights)) if conversion.prepare is not None else weights
    fields = getattr(sys.modules[split(subject.method.conversion)[0]], "FIXTURE_FIELDS", {})
    model = subject.model_class(conversion.auto_class(weights))(conversion.config(weights, **fields))
    report = apply(conversion, weights, model)
    assert report.complete, f"the authors' weights of {path.name}:\n{report}"
    back = rename_back(model.state_dict(), conversion.rules(model.config))
    kept = {name: tensor for name, tensor in weights.items() if name not in report.ignored}
    compare(kept, back, "the authors' weights after a way here and back")


def check_card(subject: Subject) -> None:
    """The card of a saved model has valid front matter, and its snippet runs."""
    import yaml

    from hub_mim import sharing

    with tempfile.TemporaryDirectory() as folder:
        out = sharing.save(Path(folder) / "model", subject.model(), subject.example.processor)
        card = (out / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(card.split("---")[1])
        for name in ("license", "library_name", "tags"):
            assert front.get(name), f"the card's front matter lacks {name!r}"
        snippet = card.split("```python\n")[1].split("```")[0].replace('"model"', repr(str(out)))
        names: dict[str, Any] = {}
        exec(compile(snippet, "README.md", "exec"), names)
        assert "model" in names or "processor" in names, "the card's snippet loads nothing"


def check_written_numbers(subject: Subject) -> None:
    """Every decimal number in a table of the README or the card stands in a file under the plugin's results/."""
    source = source_folder(subject)
    if source is None:
        raise SkipCheck("the plugin was installed from a wheel, which brings no README")
    texts = [source / "README.md", package_folder(subject) / "card.md"]
    written = {
        number: path.name
        for path in texts
        if path.is_file()
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
        for number in re.findall(r"(?<![\w.])\d+\.\d{2,}(?![\w.])", line)
    }
    kept = " ".join(path.read_text(encoding="utf-8") for path in sorted((source / "results").glob("*.*")))
    lost = [
        f"{number} ({name})" for number, name in written.items() if not re.search(rf"(?<!\d){re.escape(number)}", kept)
    ]
    assert not lost, (
        f"no file under results/ holds {', '.join(lost[:5])}; keep what was measured beside what is written"
    )
