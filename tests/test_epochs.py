"""A run by epochs, as the recipes are written, ends with a card as a run by steps does."""

from hub_mim.training import pretrain


def test_a_run_by_epochs_writes_its_card(tmp_path):
    run = pretrain("toy", "sample:toy", tmp_path / "out", epochs=1, batch_size=64)
    assert run.steps == 4
    assert "| num_train_epochs | 1 |" in (tmp_path / "out" / "README.md").read_text()
