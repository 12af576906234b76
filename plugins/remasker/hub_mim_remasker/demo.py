"""ReMasker's part of `hub-mim demo`: a table of tumours with a fifth of its cells removed is filled, and checked."""

from pathlib import Path

import numpy as np

from hub_mim.demo import Demo


def demo(out: Path, seed: int) -> Demo:
    """Fill a table of scikit-learn's, print the comparison, save the model, load it back, fill again with it.

    Args:
        out: folder for the table, the model with its card, and the picture.
        seed: decides gaps, weights and masks.
    """
    import hub_mim
    from hub_mim.console import say
    from hub_mim.samples import sample_table
    from hub_mim_remasker.comparison import overall
    from hub_mim_remasker.filling import JOBS, draw, fill_table
    from hub_mim_remasker.imputation import ReMaskerImputer

    complete = sample_table("breast_cancer").iloc[:, :10]
    gaps = np.random.default_rng(seed).random(complete.shape) < 0.2
    table = complete.mask(gaps)
    imputer = ReMaskerImputer(random_state=seed, verbose=True)
    filling = fill_table(table, imputer, seed=seed, jobs=JOBS, progress=say)
    folder = filling.imputer.save(out / "model", overwrite=True)
    out.joinpath("filled.csv").write_text(filling.tables[0].to_csv(index=False), encoding="utf-8")
    picture = draw(table, filling.tables[0], out / "distributions.png", overwrite=True)
    hub_mim.register()
    again = ReMaskerImputer.from_pretrained(folder).transform(table)
    same = bool((again == filling.tables[0]).all().all())
    spread = (complete.max() - complete.min()).to_numpy()
    error = np.sqrt(np.mean(((filling.tables[0] - complete).to_numpy() / spread)[gaps] ** 2))
    plain = np.sqrt(np.mean(((complete - table.mean()).to_numpy() / spread)[gaps] ** 2))
    names = list(filling.comparison[0].errors)
    relative = overall(filling.comparison)
    return Demo(
        headline=f"ReMasker fills {int(gaps.sum())} cells removed from breast_cancer ({gaps.size} cells, scikit-learn).",
        headers=("column", "missing", "held out", *names),
        rows=[
            *[(e.column, e.missing, e.held_out, *(e.errors[name] for name in names)) for e in filling.comparison],
            ("relative to mean", "", "", *(relative[name] for name in names)),
        ],
        notes=(
            filling.explanation,
            f"On the {int(gaps.sum())} removed cells, whose values are known here: error {error:.4f} of each column's range, "
            f"{plain:.4f} for column means.",
            f"The saved model, loaded back, fills the table {'identically' if same else 'DIFFERENTLY'}.",
        ),
        files={"model": folder, "filled": out / "filled.csv", "picture": picture},
        next=(
            f"python -c \"import hub_mim; from transformers import AutoModel; print(AutoModel.from_pretrained('{folder}'))\"",
            f"hub-mim evaluate {folder} --data sample:breast_cancer --protocol imputation",
            "hub-mim impute your.csv --out filled.csv",
        ),
    )
