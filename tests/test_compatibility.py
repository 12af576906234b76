"""What earlier versions made is loaded, judged, carried on, fine-tuned and rendered by this one, with the same numbers.

The folders are `scripts/make_compatibility.py`'s, one for each version; they are never written again.
"""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

import hub_mim
from hub_mim import sharing
from hub_mim.run import Run

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "tests" / "compatibility"
FOLDERS = sorted(path.parent for path in KEPT.glob("*/*/expected.json"))
CARDS = json.loads((KEPT / "model_cards.json").read_text())
NEAR = {"rel": 1e-5, "abs": 1e-5}  # versions of torch sum in other orders


def the_script():
    spec = importlib.util.spec_from_file_location("make_compatibility", ROOT / "scripts" / "make_compatibility.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made = the_script()


def first_rows():
    return [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()[:3]]


def near(numbers):
    return [pytest.approx(row, **NEAR) for row in numbers]


def name_of(folder):
    return f"{folder.parent.name}-{folder.name}"


@pytest.fixture(params=FOLDERS, ids=name_of)
def kept(request, tmp_path, monkeypatch):
    """Stand in a copy of the folder of a version and a method; gives its numbers."""
    pytest.importorskip(f"hub_mim_{request.param.name}", reason=f"the plugin of {request.param.name} is not installed")
    monkeypatch.chdir(shutil.copytree(request.param, tmp_path / "kept"))
    return json.loads(Path(made.EXPECTED).read_text())


of_the_toy = pytest.mark.parametrize(
    "kept", [folder for folder in FOLDERS if folder.name == "toy"], ids=name_of, indirect=True
)


def test_this_version_is_kept():
    assert {folder.parent.name for folder in FOLDERS} >= {hub_mim.__version__}, "run scripts/make_compatibility.py"


def test_a_run_gives_the_numbers_that_it_gave(kept):
    from transformers import AutoModel

    assert made.vectors("run", first_rows()) == near(kept["vectors"])
    assert made.losses("run") == pytest.approx(kept["losses"], **NEAR)
    plain, ours = AutoModel.from_pretrained("run").state_dict(), hub_mim.load("run").state_dict()
    assert plain.keys() == ours.keys()
    assert all(plain[name].equal(ours[name]) for name in plain)


def test_a_card_is_rendered_anew(kept):
    card = Path("run/README.md")
    card.write_text(card.read_text(encoding="utf-8") + "\nMy own words.\n", encoding="utf-8")
    results = sharing.read_results("run")
    assert len(results) == len(list(Path("run/results").iterdir())) > 0
    sharing.add_results("run", [])
    fresh, run = card.read_text(encoding="utf-8"), Run.load("run")
    assert "My own words." in fresh
    assert f"`{run.fingerprint}`" in fresh
    assert f"| steps | {run.steps} " in fresh
    assert all(f"| {result.metric_name} | {result.metric_value:.4g} |" in fresh for result in results)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(kept, capsys):
    method = Run.load("interrupted/checkpoints").method
    assert made.resumed(method) == pytest.approx(kept["resumed"], **NEAR)
    assert f"going on from step {made.SAVED}" in capsys.readouterr().err
    assert Run.load("interrupted").steps == made.STEPS
    assert not Path("interrupted/checkpoints").exists()


@of_the_toy
def test_adapters_and_what_was_tuned_with_them(kept):
    adapted = made.vectors("adapters", first_rows())
    assert adapted == near(kept["adapters"])
    assert adapted != near(kept["vectors"])
    assert made.logits("finetuned", first_rows()) == near(kept["logits"])
    assert Run.load("finetuned").task["task"] == "classification"


@of_the_toy
@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForPreTraining"])
def test_adapters_that_are_not_whole_are_not_made_up(kept, auto):
    """peft leaves what a file lacks at random, and so did versions of it with names that they could not place."""
    from safetensors.torch import load_file, save_file

    file = "adapters/adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"adapters lacks 1 of the adapters of ToyMim\w+ \(.*q_proj.*\); they are of another"
    ):
        hub_mim.load("adapters", auto=auto)


@of_the_toy
@pytest.mark.slow
def test_a_run_is_tuned_further(kept):
    run = hub_mim.finetune("run", "rows.jsonl", "tuned", lora=True, steps=2, batch_size=8)
    assert run.steps == 2
    assert hub_mim.pretrain("toy", "rows.jsonl", "on", init_from="run", steps=2).init_from == "run"


def test_a_record_without_a_field_or_with_one_of_tomorrow(kept):
    """A version that did not write a field yet, and one that writes another, are both read."""
    whole = json.loads(Path("run/run.json").read_text())
    record, run = Path("run/run.json"), Run.load("run")
    for name in whole:
        less = {key: value for key, value in whole.items() if key != name}
        if name == "method":
            with pytest.raises(ValueError, match="must be an object with the field 'method'"):
                Run.from_dict(less)
        else:
            read = Run.from_dict(less | {"of tomorrow": {"x": 1}}).to_dict()
            assert read == run.to_dict() | {name: Run(method="x").to_dict()[name]}
    record.write_text(json.dumps({"method": whole["method"], "of tomorrow": 1}))
    for path in Path("run/results").iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"of tomorrow": [1]}))
    sharing.add_results("run", [])
    assert "| seed | 0 |" in Path("run/README.md").read_text(encoding="utf-8")


def test_an_older_record_of_an_interrupted_run_has_the_same_settings(kept):
    """A setting that a version did not know yet was at its default, so the run may go on."""
    run = Run.load("interrupted/checkpoints")
    usual = Run(method="x").to_dict()
    older = {name: value for name, value in run.to_dict().items() if value != usual[name]}
    assert Run.from_dict(older).difference(run) is None
    assert "seed was" in str(Run.from_dict({**older, "seed": 9}).difference(run))


def test_a_run_of_another_version_of_a_library_may_go_on(kept):
    """A configuration names the version of transformers, and each version has fields of its own."""
    run = Run.load("interrupted/checkpoints")
    changed = run.to_dict()
    changed["versions"] = run.versions | {"transformers": "5.99.0"}
    changed["config"] = run.config | {"transformers_version": "5.99.0", "of_tomorrow": 0}
    assert Run.from_dict(changed).difference(run) is None
    changed["config"]["hidden_size"] = 32
    assert "config.hidden_size was 32" in str(Run.from_dict(changed).difference(run))
    changed["versions"] = run.versions
    assert "config.of_tomorrow was 0" in str(
        Run.from_dict({**changed, "config": run.config | {"of_tomorrow": 0}}).difference(run)
    )


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted((ROOT / "model_cards").iterdir()), ids=lambda folder: folder.name)
def test_a_kept_checkpoint_gives_the_numbers_that_it_gave(folder):
    assert folder.name in CARDS, "run scripts/make_compatibility.py --cards"
    assert made.vectors(folder, made.sample_for(folder)) == near(CARDS[folder.name])
