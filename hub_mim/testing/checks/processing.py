"""The processor: rows in, forward's arguments out, the same alone, in a batch and after loading."""

import inspect
import pickle
import tempfile

import torch

from hub_mim.data import encode
from hub_mim.testing.subject import SkipCheck, Subject, compare


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
    before = pickle.dumps(rows)
    encode(subject.example.processor, rows)
    assert pickle.dumps(rows) == before, "the processor changed the rows it was given; copy before writing"


def check_processor_row_alone(subject: Subject) -> None:
    """A row gives the same tensors alone as in a batch, where shapes allow it."""
    whole = subject.batch()
    for place, row in enumerate(subject.rows):
        alone = encode(subject.example.processor, [row])
        for name, tensor in alone.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape[1:] == whole[name].shape[1:]:
                same = torch.equal(tensor[0], whole[name][place])
                assert same, f"{name} of row {place} depends on the other rows of its batch"


def check_processor_stored_rows(subject: Subject) -> None:
    """Rows that a table has stored, which gives lists for arrays, make the tensors that they make from memory."""
    from hub_mim.data import load_rows, take

    stored = take(load_rows(subject.rows), range(len(subject.rows)))
    again = encode(subject.example.processor, stored)
    compare(subject.batch(), again, "rows from memory and from a table", tolerance=1e-5)


def check_processor_feeds_forward(subject: Subject) -> None:
    """What the processor makes is what forward takes: its parameters, and what the model lists as `input_names`."""
    parameters = [*inspect.signature(subject.model_class().forward).parameters]
    parameters += getattr(subject.model(), "input_names", ())
    strange = [name for name in subject.batch() if name not in parameters]
    assert not strange, f"the processor makes {strange}, but forward takes {parameters}"


def check_processor_odd_rows(subject: Subject) -> None:
    """Rows at the edge give tensors that forward takes, or one sentence of what is needed."""
    if not subject.example.odd_rows:
        raise SkipCheck("the example has no odd rows")
    model = subject.model()
    for name, rows in subject.example.odd_rows.items():
        told = "finite"
        try:
            with torch.no_grad():
                out = model(**encode(subject.example.processor, rows), row_seed=torch.arange(len(rows)))
        except ValueError as error:
            told = str(error).strip()
        else:
            assert out.loss.isfinite(), f"{name}: the loss is not finite"
        assert told, f"{name}: the rows are refused without saying why"
