"""The imputer beyond scikit-learn's contract: mixed tables, draws, saving, chunks, legacy; and that it learns."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from hub_mim_remasker import ReMaskerImputer


def linear(rows=200, gaps=0.15, seed=0):
    """Three columns that follow from each other, with gaps; and the complete table."""
    random = np.random.default_rng(seed)
    x = random.random(rows)
    complete = pd.DataFrame({"a": x, "b": 1 - x + 0.02 * random.standard_normal(rows), "c": 3 * x + 5})
    return complete.mask(random.random(complete.shape) < gaps), complete


def mixed(rows=120):
    random = np.random.default_rng(0)
    size = random.integers(0, 5, rows)
    frame = pd.DataFrame(
        {
            "size": pd.array(size, dtype="Int64"),
            "weight": size * 2.5 + random.random(rows),
            "colour": np.where(size > 2, "red", "blue"),
            "big": size > 3,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(size * 7, unit="D"),
        },
        index=[f"r{i}" for i in range(rows)],
    )
    gaps = random.random(frame.shape) < 0.1
    return frame.astype({"big": object}).mask(gaps), gaps


def quick(**fields):
    return ReMaskerImputer(**{"preset": "tiny", "max_steps": 20, "random_state": 0, **fields})


def test_it_learns_what_columns_tell_of_each_other():
    table, complete = linear()
    filled = ReMaskerImputer(preset="tiny", max_steps=500, random_state=0).fit_transform(table)
    gaps = table.isna().to_numpy()
    spread = (complete.max() - complete.min()).to_numpy()
    error = np.sqrt(np.mean(((filled - complete).to_numpy() / spread)[gaps] ** 2))
    mean = np.sqrt(np.mean(((complete - table.mean()).to_numpy() / spread)[gaps] ** 2))
    assert error < 0.4 * mean  # measured: 0.15 to 0.25 of it over seeds


def test_mixed_tables_come_back_whole():
    table, gaps = mixed()
    filled = quick().fit_transform(table)
    assert not filled.isna().any().any()
    assert filled.index.equals(table.index)
    assert filled.dtypes.equals(table.dtypes)
    for place, name in enumerate(table.columns):
        known = ~gaps[:, place]
        assert (filled[name][known] == table[name][known]).all()
    assert set(filled["colour"]) <= {"red", "blue"}
    assert set(filled["size"]) <= set(range(5))
    assert (filled["day"] == filled["day"].dt.normalize()).all()


def test_seeds_decide(tmp_path):
    table, _ = linear(60)
    plain = {"config": {"linear_skip": "none"}}  # the normal model that is blended in does not depend on the seed
    first, again, other = (quick(random_state=seed, **plain).fit_transform(table) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_linear_table_is_left_to_the_normal_model():
    table, truth = linear(200)
    imputer = quick(random_state=0).fit(table)
    assert imputer.model_.config.blend < 0.5
    alone = quick(random_state=0, config={"linear_skip": "none"}).fit(table)
    gaps = table.isna().to_numpy()
    errors = [np.square(each.transform(table) - truth).to_numpy()[gaps].mean() for each in (imputer, alone)]
    assert errors[0] < errors[1]


def test_saving_loses_nothing(tmp_path):
    table, _ = mixed()
    imputer = quick().fit(table)
    filled = imputer.transform(table)
    imputer.save(tmp_path / "model")
    again = ReMaskerImputer.from_pretrained(tmp_path / "model", random_state=0)
    assert again.transform(table).equals(filled)
    assert again.sample(table, 1)[0].equals(imputer.sample(table, 1)[0])
    assert (tmp_path / "model" / "README.md").is_file()
    with pytest.raises(FileExistsError):
        imputer.save(tmp_path / "model")


def test_rows_that_were_not_fitted_and_gaps_that_are_new():
    _, complete = linear()
    imputer = quick().fit(complete)
    new = complete.iloc[:5].copy()
    new.loc[:, "b"] = np.nan
    filled = imputer.transform(new)
    assert not filled.isna().any().any()
    assert filled[["a", "c"]].equals(new[["a", "c"]])


def test_chunks_change_nothing():
    table, _ = linear(90)
    imputer = quick().fit(table)
    whole = imputer.transform(table)
    imputer.set_params(chunk_size=7)
    pd.testing.assert_frame_equal(imputer.transform(table), whole, atol=1e-5)


def test_draws_keep_the_spread_that_the_best_guess_loses():
    random = np.random.default_rng(0)
    complete = pd.DataFrame(random.random((300, 3)), columns=list("abc"))  # independent: nothing to learn
    table = complete.mask(random.random((300, 3)) < 0.3)
    imputer = quick(max_steps=100).fit(table)
    gaps = table["a"].isna()
    guess = imputer.transform(table)["a"][gaps].std()
    draws = [draw["a"][gaps].std() for draw in imputer.sample(table, 3)]
    assert guess < 0.15  # the truth has 0.29
    assert all(0.22 < spread < 0.36 for spread in draws)


def test_a_posterior_sample_by_parameter():
    table, _ = linear(80)
    imputer = quick(sample_posterior=True).fit(table)
    assert not imputer.transform(table).isna().any().any()
    assert clone(imputer).sample_posterior


def test_legacy_uses_the_authors_size_and_recipe():
    table, _ = linear(40)
    imputer = ReMaskerImputer(legacy=True, max_steps=2, random_state=0).fit(table)
    assert imputer.model_.config.legacy
    assert sum(weight.numel() for weight in imputer.model_.parameters()) == 128_385
    assert imputer.processor_.scaling == "minmax"
    assert imputer.run_.arguments["adam_beta2"] == 0.95


def test_columns_without_information():
    table = pd.DataFrame({"same": [2.0, None, 2.0, 2.0], "empty": [None] * 4, "x": [1.0, 2.0, None, 4.0]})
    filled = quick().fit_transform(table)
    assert filled["same"].tolist() == [2.0] * 4
    assert filled["empty"].isna().all()
    assert filled["x"].notna().all()


def test_a_table_in_which_nothing_varies():
    table = pd.DataFrame({"a": [1.0, None, 1.0], "b": ["x", "x", None]})
    imputer = quick().fit(table)
    assert imputer.transform(table).to_dict("list") == {"a": [1.0] * 3, "b": ["x"] * 3}
    with pytest.raises(ValueError, match="no model to save"):
        imputer.save("nowhere")


def test_a_row_without_any_observed_cell():
    table, _ = linear(50)
    table.iloc[3] = np.nan
    assert quick().fit_transform(table).notna().all().all()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_bad_parameters_are_told(fields, text):
    with pytest.raises(ValueError, match=text):
        quick(**fields).fit(linear(20)[0])


def test_one_row_is_too_few():
    with pytest.raises(ValueError, match="n_samples = 1"):
        quick().fit(linear(1, gaps=0)[0])


def test_other_columns_than_fitted_are_told():
    imputer = quick().fit(linear(30)[0])
    with pytest.raises(ValueError, match="feature names"):
        imputer.transform(pd.DataFrame({"a": [1.0], "z": [1.0], "c": [1.0]}))


def test_pretraining_chooses_the_blend_on_held_out_rows(tmp_path):
    from hub_mim.training import pretrain

    table, _ = linear(80)
    pretrain("remasker", table.to_dict("records"), tmp_path / "run", preset="tiny", steps=5, validation=0.25)
    again = ReMaskerImputer.from_pretrained(tmp_path / "run")
    assert 0 < again.model_.config.blend < 0.6  # five steps teach the Transformer nothing
    pretrain("remasker", table.to_dict("records"), tmp_path / "all", preset="tiny", steps=5, validation=0.0)
    assert ReMaskerImputer.from_pretrained(tmp_path / "all").model_.config.blend == 1.0
