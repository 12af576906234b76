"""Streams: every row once in each pass whoever reads it, a state that is taken up exactly, faults that are told."""

import io
import json
import pickle
import tarfile
from itertools import takewhile

import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image

from hub_mim.data import Collator, load_rows, split_rows
from hub_mim.stream_rows import OnePass, Part, Shards, one_pass
from hub_mim.streams import PLACE, Numbers, Place, Stream
from hub_mim.training import pretrain

LENGTHS = (7, 1, 12, 5, 9)


def numbers(shards, lengths=LENGTHS):
    """Make rows of shards of unlike lengths."""
    for shard in shards:
        for row in range(lengths[shard]):
            yield {"number": 100 * shard + row}


def stream_of(shards=5):
    return IterableDataset.from_generator(numbers, gen_kwargs={"shards": list(range(shards))})


def all_numbers(shards=5):
    return [row["number"] for row in numbers(range(shards))]


def readers(rows, processes, workers, **options):
    """Return the streams of all processes."""
    options = {"batch_size": 2, "block": 4, "seed": 3, **options}
    return [Stream(rows, process=each, processes=processes, workers=workers, **options) for each in range(processes)]


def first_pass(stream):
    """Return the rows of the first pass of every reader of a process."""
    found = []
    for reader in range(stream.process * stream.workers, (stream.process + 1) * stream.workers):
        read = takewhile(lambda each: not each[1].turn, stream._read(reader, Place()))
        found += [row for row, _ in read]
    return found


@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_no_row_comes_twice_and_none_is_lost(shards, processes, workers):
    rows = [row for stream in readers(stream_of(shards), processes, workers) for row in first_pass(stream)]
    assert sorted(row["number"] for row in rows) == all_numbers(shards)
    assert {row["row_index"]: row["number"] for row in rows} == {
        (number // 100 << 32) + number % 100: number for number in all_numbers(shards)
    }


def test_only_the_shards_that_are_left_over_are_read_by_all(monkeypatch):
    shards, opened = Shards(stream_of(5)), []
    usual = shards.read
    monkeypatch.setattr(shards, "read", lambda shard, start=0: opened.append(shard) or usual(shard, start))
    for reader in range(2):
        list(one_pass(shards, range(5), reader, 2))
    assert opened == [0, 2, 4, 1, 3, 4]


def batches_of(stream, count, start=0):
    """Return batches as a loader in this process would get them: the numbers of the rows, and the places."""
    return [
        ([row["number"] for row in rows], rows[-1][PLACE])
        for rows in (stream.__getitems__([number]) for number in range(start, start + count))
    ]


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("held_out", [0, 0.2])
def test_it_goes_on_exactly_from_any_batch(workers, held_out):
    rows = split_rows(stream_of(), held_out, seed=1)[0]
    whole = batches_of(readers(rows, 1, workers)[0], 60)
    assert whole[59][1][1] > 0  # in a later pass
    for stop in range(0, 59, 7):
        before, after = (readers(rows, 1, workers)[0] for _ in range(2))
        for _, place in whole[:stop]:
            before.note(place)
        after.load(json.loads(json.dumps(before.state(before.places))))
        assert batches_of(after, 60 - stop, stop) == whole[stop:]


def test_workers_make_the_same_batches():
    stream = readers(stream_of(), 1, 2)[0]
    loader = torch.utils.data.DataLoader(stream, batch_sampler=Numbers(30), num_workers=2, collate_fn=list)
    got = [([row["number"] for row in rows], rows[-1][PLACE]) for rows in loader]
    assert got == batches_of(readers(stream_of(), 1, 2)[0], 30)


def test_every_pass_has_another_order_and_masks_of_its_own():
    stream = Stream(stream_of(), batch_size=34, seed=1)
    passes = [stream.__getitems__([number]) for number in range(3)]
    orders = [[row["number"] for row in rows] for rows in passes]
    assert all(sorted(order) == all_numbers() for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert len({row["row_index"] for rows in passes for row in rows}) == 3 * 34
    assert [row["number"] for row in Stream(stream_of(), batch_size=34, seed=2).__getitems__([0])] != orders[0]


def test_plain_iterables_are_one_shard():
    stream = Stream(list(numbers([0])), batch_size=4, seed=1)
    found = [row["number"] for number in range(4) for row in stream.__getitems__([number])]
    assert sorted(found[:7]) == sorted(found[7:14]) == all_numbers(1)


def test_what_is_held_out_does_not_depend_on_who_reads():
    train, held_out = split_rows(stream_of(), 0.3, seed=2)
    kept = sorted(row["number"] for row in held_out)
    assert isinstance(train, Part)
    assert sorted([*kept, *(row["number"] for row in train)]) == all_numbers()
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(
            OnePass(held_out), batch_size=3, num_workers=workers, collate_fn=Collator(Counts())
        )
        found = [(int(n), int(i)) for batch in loader for n, i in zip(batch["number"], batch["row_index"], strict=True)]
        assert sorted(found) == [(number, (number // 100 << 32) + number % 100) for number in kept]
    rows = [row for stream in readers(train, 2, 2) for row in first_pass(stream)]
    assert sorted(row["number"] for row in rows) == sorted(set(all_numbers()) - set(kept))


class Counts:
    """A processor."""

    def __call__(self, number, return_tensors="pt"):
        return {"number": torch.tensor(number)}


def test_workers_may_be_spawned():
    stream = pickle.loads(pickle.dumps(readers(split_rows(stream_of(), 0.2, seed=1)[0], 1, 2)[0]))
    assert batches_of(stream, 9) == batches_of(readers(split_rows(stream_of(), 0.2, seed=1)[0], 1, 2)[0], 9)


def test_an_empty_stream_is_told():
    with pytest.raises(ValueError, match="the stream has no rows"):
        Stream([], batch_size=2).__getitems__([0])


def test_more_readers_than_rows_are_told():
    last = readers(Dataset.from_dict({"number": [1, 2, 3]}).to_iterable_dataset(), 2, 2)[1]
    last.__getitems__([0])
    with pytest.raises(ValueError, match=r"too few rows for 4 readers \(2 processes with 2 data workers each\)"):
        last.__getitems__([1])


def test_another_stream_and_other_readers_are_refused():
    state = readers(stream_of(5), 1, 2)[0].state({})
    with pytest.raises(ValueError, match="the stream has 4 shards and had 5 when the checkpoint was written"):
        readers(stream_of(4), 1, 2)[0].load(state)
    with pytest.raises(ValueError, match="the stream has 3 readers and had 2 when the checkpoint was written"):
        readers(stream_of(5), 1, 3)[0].load(state)


def picture(shade):
    held = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 9, 90)).save(held, "png")
    return held.getvalue()


def write_tar(path, contents):
    with tarfile.open(path, "w") as tar:
        for name, content in contents.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))


@pytest.fixture
def tars(tmp_path):
    """Four archives of five pictures with captions, as webdataset keeps them."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(4):
        members = {}
        for row in range(5):
            members |= {f"{shard}{row}.png": picture(10 * shard + row), f"{shard}{row}.txt": f"{shard}{row}".encode()}
        write_tar(folder / f"{shard}.tar", members)
    return folder


def test_archives_are_read_whole_or_streamed(tars):
    wanted = [(10 * shard + row, f"{shard}{row}") for shard in range(4) for row in range(5)]
    columns = {"png": "images", "txt": "text"}
    for streaming in (False, True):
        rows = load_rows(tars, streaming=streaming, columns=columns)
        assert [(row["images"].getpixel((0, 0))[0], row["text"]) for row in rows] == wanted
    stream = Stream(rows, batch_size=20, seed=0)
    assert stream.shards.count == 4
    found = stream.__getitems__([0])
    assert sorted((row["images"].getpixel((0, 0))[0], row["text"]) for row in found) == wanted


def test_columns_are_left_out_of_a_part_without_looking_at_pictures(tars):
    write_tar(tars / "2.tar", {"20.png": b"no picture", "20.txt": b"20"})
    train, held_out = split_rows(load_rows(tars, streaming=True), 0.3)
    for part in (train, held_out):
        assert set(part.column_names) == set(part.features) == {"png", "txt", "__key__", "__url__"}
    for texts in (
        [row["txt"] for part in (train, held_out) for row in part.remove_columns(["png"])],
        [row["txt"] for part in (train, held_out) for row in part.select_columns(["txt"])],
    ):
        assert sorted(texts) == sorted([f"{shard}{row}" for shard in (0, 1, 3) for row in range(5)] + ["20"])


def test_pictures_are_decoded_only_when_they_are_given_out(tars):
    write_tar(tars / "2.tar", {"20.png": picture(20), "20.txt": b"20", "21.png": b"no picture", "21.txt": b"21"})
    rows = load_rows(tars, streaming=True, columns={"png": "images", "txt": "text"})
    stream = Stream(rows, batch_size=1, seed=0, block=3)
    with pytest.raises(ValueError, match="row 1 of shard 2 cannot be read: cannot identify image file"):
        for number in range(17):
            stream.__getitems__([number])


def test_rows_that_cannot_be_decoded_are_left_out_where_asked_for(tars, capsys):
    write_tar(tars / "2.tar", {f"2{row}.png": picture(20 + row) if row % 2 else b"none" for row in range(5)})
    rows = load_rows(tars, streaming=True)
    stream = Stream(rows, batch_size=1, seed=0, block=3, skip_unreadable=True)
    whole = [stream.__getitems__([number])[0] for number in range(34)]
    for part in (whole[:17], whole[17:]):
        assert sorted(row["png"].getpixel((0, 0))[0] for row in part) == [
            0,
            1,
            2,
            3,
            4,
            10,
            11,
            12,
            13,
            14,
            21,
            23,
            *range(30, 35),
        ]
    assert "left out: row 4 of shard 2 cannot be read: cannot identify image file" in capsys.readouterr().err
    for stop in range(1, 33, 5):
        again = Stream(rows, batch_size=1, seed=0, block=3, skip_unreadable=True)
        again.note(whole[stop - 1][PLACE])
        assert [again.__getitems__([number])[0]["row_index"] for number in range(34 - stop)] == [
            row["row_index"] for row in whole[stop:]
        ]
    assert len(list(OnePass(rows, skip_unreadable=True))) == 17
    for number in range(4):
        write_tar(tars / f"{number}.tar", {f"{number}0.png": b"none"})
    with pytest.raises(ValueError, match="the stream has no rows that can be read"):
        Stream(load_rows(tars, streaming=True), batch_size=1, skip_unreadable=True).__getitems__([0])


@pytest.mark.parametrize("fault", ["missing", "cut off", "no archive", "damaged"])
def test_a_shard_that_cannot_be_read_is_named(tars, fault):
    rows = load_rows(tars, streaming=True, columns={"png": "images", "txt": "text"})
    damaged = tars / "3.tar"
    content = damaged.read_bytes()
    damaged.unlink()
    if fault == "cut off":
        damaged.write_bytes(content[:2800])
    elif fault == "no archive":
        damaged.write_bytes(b"x" * 3000)
    elif fault == "damaged":
        damaged.write_bytes(content[:2048] + b"x" * 512 + content[2560:])
    stream = Stream(rows, batch_size=1, seed=0, block=2)
    with pytest.raises(
        ValueError, match=r"shard 3 of 4 \(.*3.tar\) cannot be read after \d rows: .*; mend the file"
    ) as told:
        for number in range(20):
            stream.__getitems__([number])
    assert "\n" not in str(told.value)


def test_an_archive_that_is_read_whole_is_looked_at(tars):
    damaged = tars / "3.tar"
    damaged.write_bytes(damaged.read_bytes()[:2048] + b"x" * 8192)
    with pytest.raises(ValueError, match="3.tar is no whole archive: what follows file 2 is damaged"):
        load_rows(tars)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_numbered_shard_that_is_not_there_is_told(tmp_path, streaming):
    for number in (0, 1, 3):
        Dataset.from_dict({"a": [number]}).to_parquet(tmp_path / f"train-{number:05}-of-00004.parquet")
    with pytest.raises(ValueError, match="lacks 1 of 4 shards: train-00002-of-00004.parquet; fetch"):
        load_rows(tmp_path, streaming=streaming)


def test_a_fault_in_a_worker_is_one_sentence(tmp_path, tars):
    rows = load_rows(tars, streaming=True)
    (tars / "3.tar").unlink()
    with pytest.raises(ValueError) as told:
        pretrain("toy", rows, tmp_path / "out", steps=9, validation=0, arguments={"dataloader_num_workers": 2})
    assert "\n" not in str(told.value)


def test_batches_out_of_order_are_refused(tmp_path):
    arguments = {"dataloader_in_order": False}
    with pytest.raises(ValueError, match="a stream is resumed exactly only in order"):
        pretrain("toy", stream_of(), tmp_path / "out", steps=2, validation=0, arguments=arguments)
