"""The doctor finds broken plugins and a broken torchvision, and says what to do."""

import os
import subprocess
import sys

from hub_mim import doctor


def test_all_is_well_here():
    findings = doctor.diagnose()
    assert not [finding for finding in findings if finding.level == "error"], findings
    assert any(finding.text.startswith("toy (hub-mim-toy") for finding in findings)


def fake_torchvision(folder):
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    facts = folder / "torchvision-0.99.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n")


def run(code, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def test_a_broken_torchvision_is_found_and_worked_round(tmp_path):
    fake_torchvision(tmp_path)
    told = run("from hub_mim.doctor import _torchvision; print(_torchvision()[0])", tmp_path)
    assert "cannot be imported" in told.stdout, told.stderr
    assert "HUB_MIM_NO_TORCHVISION=1" in told.stdout
    use = "import hub_mim; from transformers import PreTrainedModel, Trainer; from hub_mim_toy.modeling_toy import ToyMimModel"
    assert run(use, tmp_path).returncode != 0
    mended = run(use, tmp_path, HUB_MIM_NO_TORCHVISION="1")
    assert mended.returncode == 0, mended.stderr[-800:]


def test_a_string_that_does_not_resolve_is_named():
    import dataclasses

    from hub_mim.plugins import get_method

    method = dataclasses.replace(get_method("toy"), flops="hub_mim_toy.example:no_such")
    (wrong,) = doctor.unresolved(method)
    assert wrong.startswith("flops: 'hub_mim_toy.example:no_such' does not resolve")
