"""Analyze a finished study in Python: load, plot, compare, and write a LaTeX table.

`analysis.ipynb` holds the same steps as a notebook. Run a study first:

    python -m harness run ablations.toml
    python examples/analysis.py ablations
"""

# %% Load
# `runs`, `steps` and `evals` hold recorded values; the other frames are tables of the report.
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import harness
from harness.export.latex import latex

is_script = Path(sys.argv[0]).name == "analysis.py"
name = sys.argv[1] if is_script and len(sys.argv) > 1 else None
folder = Path("results") if Path("results").is_dir() else Path("../results")  # from examples/
study = harness.load(folder, study=name)
print(study)
print(study.columns("evals"))

# %% Plot the validation loss of each variant, mean over seeds and the other axes
axis = max(study.axes, key=lambda axis: len(study.axes[axis]))
curves = study.evals.groupby([axis, "step"], observed=True)["val_loss"].mean().unstack(axis)
plot = curves.plot(xlabel="step", ylabel="validation loss, nats per token", title=study.name)
plot.figure.savefig("val_loss_by_variant.pdf")
plt.close(plot.figure)

# %% Compare with the baseline, paired by seed
losses = study.verdicts[study.verdicts["quantity"] == "val_loss"]
columns = ["entry", "difference", "difference_low", "difference_high", "p_adjusted", "verdict"]
paired = losses[columns].sort_values("difference")
print(paired.to_string(index=False))

# %% The same by hand: final losses of the same seed, variant minus baseline
done = study.runs[
    (study.runs["status"] == "done") & (study.runs["seed"] == study.runs["data_seed"])
]
final = done.pivot(index="seed", columns="entry", values="val_loss")
is_baseline = (done[list(study.axes)] == study.runs.attrs["baseline"]).all(axis="columns")
baseline = done.loc[is_baseline, "entry"].iloc[0]
print(final.sub(final[baseline], axis="index").mean().sort_values())

# %% Write the paired differences as a LaTeX table with booktabs rules
caption = "Final validation loss minus that of the baseline, nats per token."
Path("paired.tex").write_text(latex(paired, caption, "paired"))
