"""transformers' own tests of models, configurations and processors over every installed plugin, on its example.

make test-transformers
"""

import copy
import importlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from transformers_suite import cache

pytestmark = pytest.mark.transformers

# what no plugin's models can pass, by the beginning of the test's name: each with the reason
OVERRIDDEN = {
    "test_model_get_set_embeddings": "the embedding is no table of words, which the test asks for",
    "test_eager_matches_sdpa_inference": "the suite draws integers for each input, and a mask is bool; see "
    "check_attention_implementations",
    "test_init_weights_can_init_buffers": "constant tables are filled in _init_weights alone; see check_constant_tables",
    "test_model_outputs_equivalence": "the suite subtracts outputs, which bool masks do not allow",
}


class Tester:
    """What the suite asks of a model's tester: sizes, a configuration, inputs."""

    def __init__(self, subject, parent=None):
        self.subject, self.parent, self.is_training = subject, parent, True
        config = subject.example.config
        self.batch_size = len(subject.rows)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            setattr(self, name, getattr(config, name, None))
        model = subject.model("AutoModel")
        with torch.no_grad():
            out = model(**subject.batch(), mask=subject.mask(subject.model()))
        self.seq_length = self.encoder_seq_length = self.key_length = out.last_hidden_state.shape[1]

    def prepare_config_and_inputs_for_common(self):
        config = copy.deepcopy(self.subject.example.config)
        return config, dict(self.subject.batch()) | {"mask": self.subject.mask(self.subject.model())}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


def overrides(mixin, reasons):
    """Return tests that are skipped with a reason, for every test that begins with one of the names."""

    def skipped(reason):
        return lambda self: self.skipTest(f"overridden: {reason}")

    found = {}
    for beginning, reason in reasons.items():
        names = [name for name in dir(mixin) if name.startswith(beginning)]
        assert names, f"transformers' suite has no test {beginning}*"
        found |= {name: skipped(reason) for name in names}
    return found


def suite(name, common, configuration):
    """Return the test class of one method."""
    from transformers.models.auto import modeling_auto

    from hub_mim.testing.subject import Subject

    subject = Subject(name)
    models = tuple(subject.model_class(auto) for auto in ("AutoModel", "AutoModelForPreTraining"))
    kind = subject.method.model_type
    # the suite chooses what to test by transformers' tables of class names; known to this process alone
    modeling_auto.MODEL_MAPPING_NAMES[kind] = models[0].__name__
    modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES[kind] = models[1].__name__

    def setUp(self):
        self.model_tester = Tester(subject, self)
        self.config_tester = configuration.ConfigTester(
            self, config_class=type(subject.example.config), has_text_modality=False, common_properties=[]
        )

    reasons = dict(subject.example.suite_overrides)
    own = reasons.pop("test_config", None)

    def test_config(self):
        if own:
            self.skipTest(f"overridden: {own}")
        self.config_tester.run_common_tests()

    body = {
        "setUp": setUp,
        "test_config": test_config,
        "all_model_classes": models,
        "additional_model_inputs": ["mask"],
        "test_resize_embeddings": False,
        "test_torch_exportable": False,
        "has_attentions": True,
        **overrides(common.ModelTesterMixin, OVERRIDDEN | reasons),
    }
    return type(f"Test_{name}", (common.ModelTesterMixin, unittest.TestCase), body)


# what a processor cannot pass that takes none of the suite's inputs (text, images, videos, audio) but rows of its own
OTHER_ROWS = {
    "test_model_input_names": "the suite calls a processor with text, images, videos or audio; this one takes other rows",
    "test_flat_kwarg_applied_when_modality_dict_lacks_it": "as test_model_input_names",
    "test_call_arguments_default_none": "return_tensors is an argument with a default: there are no ProcessingKwargs of text, "
    "images, videos or audio to put it into",
    "test_call_arguments_not_in_processor_kwargs": "as test_call_arguments_default_none",
}


TORCHVISION = importlib.util.find_spec("torchvision") is not None
IMAGES_OVERRIDDEN = {
    "test_new_models_require_torchvision_backend": "where torchvision is not installed only the Pillow class can be tried",
}


def processor_suite(name, common):
    """Return the test class of one method's processor; it is saved and loaded as the example has it."""
    from hub_mim.testing.subject import Subject

    subject = Subject(name)

    kind = type(subject.example.processor)
    known = inspect.signature(kind.__init__).parameters
    parts = set(getattr(kind, "get_attributes", list)())  # tokenizer, image processor: the suite makes them itself
    arguments = {
        key: value for key, value in subject.example.processor.to_dict().items() if key in known and key not in parts
    }
    usual = {"text", "images", "videos", "audio"} & set(inspect.signature(kind.__call__).parameters)

    def setUpClass(cls):
        cls.tmpdirname = tempfile.mkdtemp()
        subject.example.processor.save_pretrained(cls.tmpdirname)

    body = {
        "processor_class": kind,
        "prepare_processor_dict": staticmethod(lambda: copy.deepcopy(arguments)),
        "setUpClass": classmethod(setUpClass),
        "tearDownClass": classmethod(lambda cls: shutil.rmtree(cls.tmpdirname)),
        "get_processor": lambda self, use_tiny_ckpt=True: self.processor_class.from_pretrained(self.tmpdirname),
        **overrides(
            common.ProcessorTesterMixin, ({} if usual else OTHER_ROWS) | dict(subject.example.processor_overrides)
        ),
    }
    return type(f"TestProcessor_{name}", (common.ProcessorTesterMixin, unittest.TestCase), body)


def image_processor_suite(name, common):
    """Return the test class of one method's image processors, as the example's one is made."""
    from hub_mim.method import resolve
    from hub_mim.testing.subject import Subject

    subject = Subject(name)
    declared = subject.method.auto["AutoImageProcessor"]
    backends = {"pil": declared} if isinstance(declared, str) else declared
    given = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in subject.example.processor.to_dict().items()
    }

    class Tester(common.ImageProcessingTester):
        def __init__(self, parent, **kwargs):
            super().__init__(parent, **{key: value for key, value in given.items() if value is not None} | kwargs)

        def _get_image_processing_classes(self):
            return {backend: resolve(value) for backend, value in backends.items() if backend == "pil" or TORCHVISION}

    body = {"image_processor_tester_class": Tester, **overrides(common.ImageProcessingTestMixin, IMAGES_OVERRIDDEN)}
    return type(f"TestImageProcessor_{name}", (common.ImageProcessingTestMixin, unittest.TestCase), body)


if cache().is_dir() and "transformers" in os.environ.get("HUB_MIM_SUITES", ""):
    sys.path.insert(0, str(cache()))
    sys.path.insert(0, str(cache() / "utils"))
    from hub_mim import plugins

    _common = importlib.import_module("transformers_tests.test_modeling_common")
    _configuration = importlib.import_module("transformers_tests.test_configuration_common")
    _processing = importlib.import_module("transformers_tests.test_processing_common")
    _images = importlib.import_module("transformers_tests.test_image_processing_common")
    for _name, _method in plugins.methods().items():
        # models that are transformers' own are tested there
        _classes = [] if _method.native else [suite(_name, _common, _configuration)]
        if "AutoProcessor" in _method.auto:
            _classes.append(processor_suite(_name, _processing))
        if "AutoImageProcessor" in _method.auto and "video" not in _method.modalities:
            _classes.append(image_processor_suite(_name, _images))
        globals().update({_class.__name__: _class for _class in _classes})
    del _classes
else:

    def test_the_suite_is_there():
        pytest.skip("transformers' tests are not unpacked here; `make test-transformers` fetches and runs them")
