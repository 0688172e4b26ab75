"""Results of schema version 1 still give the numbers that the version that wrote them reported.

`tests/golden/schema1.tar.xz` has four studies and the report that version 0.1.0 made of each.
`golden`, `crossed` and `scaled` are synthetic, `real` was trained. Floats must be equal to the bit.
"""

import csv
import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from harness.analysis import dataset, summary, tables
from harness.results.files import read_record, write_json
from harness.results.records import StudySummary
from harness.results.store import Store

ARCHIVE = Path(__file__).parents[1] / "golden" / "schema1.tar.xz"
STUDIES = ["golden", "crossed", "scaled", "real"]

COLUMNS = {  # table -> old column -> new column
    "verdicts": {"word": "verdict", "seeds": "n_seeds"},
    "effects": {"word": "verdict"},
    "variance": {"of": "quantity", "share": "fraction"},
    "equivalence": {
        "loss_first_steps": "max_rel_loss_dev_first5",
        "grad_norm_first_steps": "max_rel_grad_norm_dev_first5",
        "loss_tolerance": "rel_loss_tolerance",
        "grad_norm_tolerance": "rel_grad_norm_tolerance",
        "loss_first_step": "abs_loss_dev_first",
        "loss_last_step": "abs_loss_dev_last",
        "loss_all_steps": "max_abs_loss_dev",
        "val_loss": "abs_val_loss_dev",
    },
    "scaling": {"nproc": "world_size", "against_nproc": "against_world_size"},
    "loss_by_position": {"first": "first_position", "last": "last_position"},
    "traffic": {"predicted_bytes_of_all": "predicted_total_bytes"},
}
AXES = "positional|attention|norm|mlp|parallelism"
PATHS = [  # a pattern of an old key path of summary.json -> the new one
    (r"comparable", "settings_hash"),
    (r"launches\.(\d+)\.comparable", r"launches.\1.settings_hash"),
    (rf"entries\.(\d+)\.({AXES})$", r"entries.\1.axes.\2"),
    (r"(entries|comparisons|equivalence|scaling)\.(\d+)\.label", r"\1.\2.entry"),
    (r"entries\.(\d+)\.memory_predicted\b", r"entries.\1.predicted_memory"),
    (r"environments\.(\d+)\.env\.nproc", r"environments.\1.env.world_size"),
    (r"settings\.train\.micro_batch", "settings.train.micro_batch_size"),
    (r"launches\.(\d+)\.comparable", r"launches.\1.settings_hash"),
    (r"launches\.(\d+)\.margin", r"launches.\1.equivalence_margin"),
    (r"scaling\.(\d+)\.nproc", r"scaling.\1.world_size"),
    (r"scaling\.(\d+)\.against_nproc", r"scaling.\1.against_world_size"),
    (r"verdicts\.(.*)\.word", r"verdicts.\1.verdict"),
    (r"variance\.(\d+)\.of", r"variance.\1.quantity"),
    (r"variance\.(\d+)\.(\w+)\.share", r"variance.\1.\2.fraction"),
    *(
        (rf"equivalence\.(\d+)\.{old}$", rf"equivalence.\1.{new}")
        for old, new in COLUMNS["equivalence"].items()
    ),
]
UNEQUAL = {"created_at", "schema_version"}
# Version 0.1.0 pooled the steps of all seeds, and its intervals were bootstraps over them.
SPEED_COLUMNS = {
    f"{name}{end}"
    for name in (
        "tokens_per_s",
        "tokens_per_s_ratio",
        "step_s",
        "mfu",
        "speedup",
        "efficiency",
        *("prefill_tokens_per_s", "decode_step_s", "decode_tokens_per_s"),
        "decode_tokens_per_s_ratio",
    )
    for end in ("", "_low", "_high")
}
SPEED_TABLES = {"entries", "comparisons", "scaling", "decoding"}
SPEED_PATH = rf"(entries|comparisons|scaling)\.\d+\.(decoding\.\d+\.)?({'|'.join(SPEED_COLUMNS)})\b"
# Costs are now until a loss is first reached, and entries that lost seeds have no rank.
# Copies under other parallelisms are not tested, and intervals are simultaneous over the family.
# Effects are tested against their own noise, without the times of runs on other machines.
REDEFINED = {"savings", "rankings", "verdicts"}
TEST_COLUMNS = {
    "comparisons.val_loss_difference_low",
    "comparisons.val_loss_difference_high",
    "comparisons.excludes_zero",
}
# Effects are tested against their own variation over seeds; what they are estimates of is the same.
LOST = {"golden"}  # it lost a run, so that its effects are means over other seeds
EFFECT_TEST = {"se", "estimate_low", "estimate_high", "p", "p_holm", "word"}
TEST_PATH = (
    r"verdicts\.\w+\.(entries|main_effects|interactions|design)\.|"
    r"comparisons\.\d+\.(val_loss_difference\.ci95|excludes_zero)"
)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", params=STUDIES)
def study(request, golden):
    """Return the folder of a study's expected report, and its summary by the present code."""
    read = dataset.read(Store(golden / "results"), request.param)
    return golden / "expected" / request.param, summary.summarize(read, "now")


def test_old_specs_name_the_options_as_the_variants_do(golden):
    store = Store(golden / "results")
    specs = [run.spec for name in STUDIES for run in store.runs(name)]
    choices = [spec.axes["attention"] for spec in specs if "attention" in spec.axes]
    pooled = [choice.options for choice in choices if choice.name == "gqa" and choice.options]
    assert pooled and all(options["kv_pooling"] == "mean" for options in pooled)


def test_every_old_cell_is_in_the_tables(study):
    expected, made = study
    for path in sorted((expected / "tables").glob("*.csv")):
        if path.stem in REDEFINED:
            continue
        old = rows(path.read_text())
        new = rows(tables.to_csv(made.tables[path.stem]))
        assert len(new) == len(old), path.stem
        for i, (old_row, new_row) in enumerate(zip(old, new, strict=True)):
            for column, cell in old_row.items():
                if path.stem in SPEED_TABLES and column in SPEED_COLUMNS:
                    continue
                name = COLUMNS.get(path.stem, {}).get(column, column)
                if f"{path.stem}.{name}" in TEST_COLUMNS:
                    continue
                if name.endswith(("_low", "_high")) and new_row.get("entry") in lost(made):
                    continue
                if path.stem == "effects" and column in EFFECT_TEST:
                    continue
                if path.stem == "effects" and column == "estimate":
                    assert bool(cell) == bool(new_row[name])
                    if cell and made.study.name not in LOST:
                        assert float(new_row[name]) == pytest.approx(float(cell), abs=1e-12)
                    continue
                place = f"{path.stem}, row {i}, {column}"
                assert same_cell(cell, new_row[name]), f"{place}: {cell} != {new_row[name]}"


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def same_cell(old, new):
    if old in ("True", "False"):
        return new == old.lower()
    if re.fullmatch(r"\w+:\d+( \w+:\d+)*", old):
        return new == "mixed"
    return new == old or (is_number(old) and is_number(new) and float(new) == float(old))


def is_number(cell):
    return re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell) is not None


def test_every_old_value_is_in_the_summary(study, tmp_path):
    expected, made = study
    write_json(tmp_path / "summary.json", summary.as_record(made))
    content = json.loads((expected / "summary.json").read_bytes())
    for launch in content["launches"]:
        if isinstance(launch["command"], list):
            launch["command"] = shlex.join(launch["command"])
    old = flat(content)
    written = (tmp_path / "summary.json").read_bytes()
    write_json(tmp_path / "again.json", read_record(tmp_path / "summary.json", StudySummary))
    assert (tmp_path / "again.json").read_bytes() == written
    new = flat(json.loads(written))
    for path, value in old.items():
        if path in UNEQUAL or path.split(".")[0] in REDEFINED - {"verdicts"}:
            continue
        if re.match(SPEED_PATH, path) or re.match(TEST_PATH, path):
            continue
        of_entry = re.match(r"entries\.(\d+)\..*\bci95\b", path)
        if of_entry and new[f"entries.{of_entry[1]}.entry"] in lost(made):
            continue
        name = path
        for pattern, replacement in PATHS:
            name = re.sub(f"^{pattern}", replacement, name)
        assert name in new, f"{path}: {name} is missing"
        assert new[name] == value and type(new[name]) is type(value), (
            f"{path}: {value} != {new[name]}"
        )


def lost(made):
    """Return the entries that lost seeds: their means have no intervals any more."""
    return {entry.label for entry in made.study.entries if entry.lost_seeds}


def flat(value, path=""):
    """Return the leaves of a JSON value by their key paths; empty lists and objects are leaves."""
    if not isinstance(value, (dict, list)) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves = {}
    for key, item in items:
        leaves |= flat(item, f"{path}.{key}" if path else str(key))
    return leaves
