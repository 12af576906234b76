"""Parts of a long call: kept when whole and of the same settings, otherwise made again."""

from hub_mim import parts


def test_a_damaged_file_and_what_follows_it_are_not_kept(tmp_path, capsys):
    made = [parts.write_hashed(tmp_path / f"{number}.bin", bytes([number])) for number in range(3)]
    assert parts.keep_undamaged(made) == made
    made[1].write_bytes(b"x")
    assert parts.keep_undamaged(made) == made[:1]
    assert list(tmp_path.iterdir()) == made[:1]
    assert f"{made[1]} is damaged" in capsys.readouterr().err


def test_parts_of_other_settings_are_thrown_away(tmp_path):
    folder = parts.parts_of(tmp_path / "x.parquet")
    assert parts.open_parts(folder, {"a": (1,)}) == []
    made = [parts.write_hashed(folder / f"{number}.parquet", bytes([number])) for number in range(2)]
    (folder / ".2.parquet.x.partial").mkdir()
    assert parts.open_parts(folder, {"a": [1]}) == made
    (folder / "lock").touch()
    assert parts.open_parts(folder, {"a": 2}) == []
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "settings.json"]
    parts.remove_parts(folder)
    assert not folder.exists()


def test_weights_are_told_by_their_bytes(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    first = parts.weights_in(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"y")
    assert list(first) == list(parts.weights_in(str(tmp_path))) == ["model.safetensors"]
    assert first != parts.weights_in(tmp_path)
    assert parts.weights_in("a/name") == parts.weights_in(None) == {}
