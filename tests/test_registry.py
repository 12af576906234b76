"""Registration in any import order, in spawned and forked processes, with what users do to models afterwards."""

import os
import subprocess
import sys

import pytest

SETUP = """
import sys, tempfile, warnings
warnings.simplefilter("ignore")
"""
USE = """
import torch
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoProcessor, MODEL_MAPPING
from hub_mim_toy.configuration_toy import ToyMimConfig
assert AutoConfig.for_model("toy_mim").__class__ is ToyMimConfig
for value in MODEL_MAPPING._extra_content.values():
    assert not issubclass(value, str)
model = AutoModelForPreTraining.from_config(ToyMimConfig())
folder = tempfile.mkdtemp()
model.save_pretrained(folder)
again = AutoModel.from_pretrained(folder)
assert type(again).__name__ == "ToyMimModel"
assert MODEL_MAPPING[ToyMimConfig] is type(again)
import pickle
assert type(pickle.loads(pickle.dumps(model))) is type(model)
"""
LAZY = "assert 'torch' not in sys.modules and 'transformers' not in sys.modules, 'import hub_mim is not cheap'\n"
UNUSED = "assert 'hub_mim_toy.modeling_toy' not in sys.modules, 'the model was imported before its use'\n"
CHEAP = "assert 'transformers.activations' not in sys.modules, 'a configuration imports what costs seconds'\n"
ORDERS = {
    "hub first": "import hub_mim\n" + LAZY + "from transformers import AutoModel\n" + UNUSED + CHEAP,
    "transformers first": "from transformers import AutoModel\nimport hub_mim\n" + UNUSED + CHEAP,
    "plugin first": "import hub_mim_toy\n" + LAZY + "from transformers import AutoModel\n" + UNUSED,
    "model first": "import hub_mim_toy.modeling_toy\n",
    "processing first": "import hub_mim\nfrom transformers import AutoProcessor\nfrom transformers import AutoModel\n"
    + UNUSED,
    "eager": "import hub_mim\nhub_mim.register()\nhub_mim.register()\n",
    "peft first": "import peft, hub_mim\n",
}
FAST = ("hub first", "transformers first")


def run(code):
    told = subprocess.run(
        [sys.executable, "-c", SETUP + code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert told.returncode == 0, told.stderr[-1500:]


@pytest.mark.parametrize(
    "order", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in ORDERS]
)
def test_import_order(order):
    run(ORDERS[order] + USE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_other_processes_know_the_plugins(tmp_path, method):
    script = tmp_path / "main.py"
    script.write_text(f"""
import multiprocessing
import hub_mim
from transformers import AutoConfig

def work(_):
    from transformers import AutoConfig
    return type(AutoConfig.for_model("toy_mim")).__name__

if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        assert pool.map(work, [0]) == ["ToyMimConfig"]
""")
    run(f"import runpy, sys; sys.argv = [{str(script)!r}]; runpy.run_path({str(script)!r}, run_name='__main__')")


def test_canary():
    """Says plainly what a new transformers broke: the auto modules, and what registering with them needs."""
    import importlib

    import transformers

    from hub_mim import lazy

    version = f"transformers {transformers.__version__}"
    for name in (*lazy.MODULES, "modeling_auto"):
        module = importlib.import_module(lazy.PREFIX + name)
        for auto in lazy.MODULES.get(name, ("AutoModel", "AutoModelForPreTraining")):
            assert hasattr(getattr(module, auto, None), "register"), (
                f"{version}: {name}.{auto}.register is gone; see hub_mim/lazy.py"
            )
    mapping = importlib.import_module(lazy.PREFIX + "modeling_auto").MODEL_MAPPING
    from hub_mim_toy.configuration_toy import ToyMimConfig

    assert ToyMimConfig in mapping, f"{version}: registration after import no longer reaches MODEL_MAPPING"


def test_a_stand_in_makes_way_for_the_real_class():
    from hub_mim.lazy import stand_in
    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimModel

    fake = stand_in("hub_mim_toy.modeling_toy:ToyMimModel", "AutoModel", ToyMimConfig)
    assert (fake.__name__, fake.__module__) == ("ToyMimModel", "hub_mim_toy.modeling_toy")
    assert not issubclass(fake, ToyMimModel)
    assert type(fake(ToyMimConfig())) is ToyMimModel
    assert type(fake._from_config(ToyMimConfig())) is ToyMimModel
