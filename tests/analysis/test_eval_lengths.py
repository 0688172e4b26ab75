"""If these failed, the report would state losses at lengths that were not measured, or fail."""

import csv
import itertools

import pytest
from reported import GQA, MHA, plant, two_entries, written

from harness.analysis import dataset
from harness.analysis.eval_lengths import measures, positions


@pytest.fixture
def pair(fake):
    return two_entries(fake)


def record(val_loss, length=4, **changed) -> dict:
    """Return a record of the length probe with the same loss at every position."""
    found = {
        "length": length,
        "val_loss": val_loss,
        "loss_by_position": [val_loss] * length,
        "windows": 25,
    }
    return found | {"reason": None} | changed


def undefined(reason, length=4) -> dict:
    return record(None, length, loss_by_position=[], windows=0, reason=reason)


def measured(fake, entry):
    study = dataset.read(fake.store, "tiny")
    return measures(study, next(found for found in study.entries if found.label == entry))


def section(page) -> str:
    return page.split("## Other sequence lengths")[1].split("\n## ")[0]


def rows(folder, table):
    with open(folder / "tables" / f"{table}.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- numbers ---------------------------------------------------------------------------------------


def test_means_and_differences_of_a_hand_case(pair):
    for seed, (base, variant) in enumerate(((2.0, 2.5), (3.0, 3.7))):
        plant(pair, MHA, seed, lengths=[record(base)])
        plant(pair, GQA, seed, lengths=[record(variant)])
    (found,) = measured(pair, GQA)
    assert (found.length, found.seeds, found.windows, found.reason) == (4, [0, 1], 25, None)
    assert found.val_loss.mean == pytest.approx(3.1) and found.val_loss.n == 2
    assert found.val_loss_difference.mean == pytest.approx(0.6)
    half = 12.7062 * 0.1  # t with one degree of freedom, times the standard error of 0.5 and 0.7
    assert found.val_loss_difference.ci95 == pytest.approx((0.6 - half, 0.6 + half), rel=1e-4)
    assert measured(pair, MHA)[0].val_loss_difference is None


def test_lengths_are_measured_shortest_first(pair):
    plant(pair, GQA, 0, lengths=[record(1.0, 16), record(2.0, 4), record(3.0, 100)])
    assert [(at.length, at.val_loss.mean) for at in measured(pair, GQA)] == [
        (4, 2),
        (16, 1),
        (100, 3),
    ]


def test_difference_uses_shared_seeds_and_lengths(pair):
    plant(pair, GQA, 0, lengths=[record(2.0)])
    plant(pair, GQA, 1, lengths=[record(2.0), record(5.0, 8)])
    plant(pair, MHA, 1, lengths=[record(1.5), undefined("no room", 8)])
    four, eight = measured(pair, GQA)
    assert (four.val_loss_difference.mean, four.val_loss_difference.n) == (0.5, 1)
    assert four.val_loss.n == 2 and eight.val_loss.mean == 5 and eight.val_loss_difference is None


def test_what_is_not_defined_has_a_reason_and_no_number(pair, no_figures):
    for seed in pair.seeds:
        plant(pair, GQA, seed, lengths=[record(2.0), undefined("no positions | beyond 4", 8)])
    found = measured(pair, GQA)[1]
    assert (found.length, found.seeds, found.reason) == (8, [], "no positions | beyond 4")
    assert found.val_loss is found.val_loss_difference is found.windows is None
    page, _, folder = written(pair)
    assert "| gqa2    | 2.0000 ± 0.0000 | not defined |" in section(page)
    assert "- Not defined, no positions | beyond 4: gqa2." in section(page)
    row = rows(folder, "lengths")[1]
    assert row["reason"] == found.reason and row["seeds"] == row["val_loss"] == row["windows"] == ""


def test_seeds_without_a_value_are_reported_with_the_reason(pair, no_figures):
    plant(pair, GQA, 0, lengths=[undefined("out of memory")])
    plant(pair, GQA, 1, lengths=[record(2.0)])
    (found,) = measured(pair, GQA)
    assert (found.seeds, found.reason, found.val_loss.mean) == ([1], "out of memory", 2)
    assert "2.0000 (of 1 seed)" in written(pair)[0]


def test_a_run_that_is_not_done_has_no_losses(pair):
    for seed in pair.seeds:
        plant(pair, GQA, seed, lengths=[record(2.0)])
        next(
            run for run in pair.store.runs("tiny") if run.run_id.startswith(f"{GQA}-s{seed}-")
        ).finish("failed", "oom")
    assert measured(pair, GQA) == []


@pytest.mark.parametrize(
    "damaged",
    [
        "none",
        5,
        [None],
        [{}],
        [record(None)],
        [record("low")],
        [record(float("inf"))],
        [record(1.0, loss_by_position=[])],
        [record(1.0, loss_by_position=None)],
        [record(1.0, loss_by_position=[1.0, None])],
        [record(1.0, loss_by_position=[[1.0]])],
        [record(1.0, loss_by_position=[1.0] * 5)],
        [record(1.0, windows=0)],
        [record(1.0) | {"length": 0}],
        [record(1.0) | {"length": [4]}],
    ],
)
def test_a_damaged_record_names_its_run_and_breaks_nothing(pair, no_figures, damaged):
    plant(pair, GQA, 0, lengths=damaged)
    plant(pair, GQA, 1, lengths=[record(2.0)])
    _, summary, _ = written(pair)
    assert [item["name"][: len(GQA) + 3] for item in summary["unreadable"]] == [f"{GQA}-s0"]
    entry = next(entry for entry in summary["entries"] if entry["entry"] == GQA)
    assert entry["seeds"] == [1] and entry["lengths"][0]["seeds"] == [1]


@pytest.mark.parametrize(
    ("length", "n_bins", "expected"),
    [
        (3, 3, [(1, 1), (2, 2), (3, 3)]),
        (8, 3, [(1, 2), (3, 5), (6, 8)]),
        (4, 1, [(1, 4)]),
        (4, 0, []),
    ],
)
def test_bins_of_positions_are_those_of_the_probe(length, n_bins, expected):
    first, last = positions(length, n_bins)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == expected


# -- page, tables, figures -------------------------------------------------------------------------


def test_study_without_the_probe_has_no_section(pair):
    before, _, folder = written(pair)
    for entry, seed in itertools.product((MHA, GQA), pair.seeds):
        plant(pair, entry, seed, lengths=[])
    page, summary, _ = written(pair)
    assert page == before and "sequence lengths" not in page
    assert all(entry["lengths"] == [] for entry in summary["entries"])
    assert not [*folder.glob("*/*length*"), *folder.glob("*/*position*")]


def test_page_summary_tables_and_figures_of_a_whole_study(fake, draw_only):
    draw_only("length_loss", "position_loss")
    fake.seeds, fake.steps, fake.lengths = (0, 1), 4, [64, 128, 2048]
    page, summary, folder = written(fake.write())
    entries = {entry["entry"]: entry["lengths"] for entry in summary["entries"]}
    keys = {"length", "seeds", "val_loss", "val_loss_difference", "windows", "reason"}
    assert all([at["length"] for at in found] == [64, 128, 2048] for found in entries.values())
    assert entries[GQA][0].keys() == keys and entries[GQA][0]["val_loss"].keys() == {
        "mean",
        "ci95",
        "n",
    }
    assert entries["learned-mha-single"][2]["val_loss"] is None

    table = rows(folder, "lengths")
    names = [
        f"{name}{end}"
        for name in ("val_loss", "val_loss_difference")
        for end in ("", "_low", "_high")
    ]
    assert (
        list(table[0]) == ["entry", "length", "seeds", *names, "windows", "reason"]
        and len(table) == 18 * 3
    )
    row = [row for row in table if row["entry"] == GQA][1]
    exact = entries[GQA][1]
    assert [row["val_loss"], row["val_loss_difference_low"], row["windows"]] == [
        str(exact["val_loss"]["mean"]),
        str(exact["val_loss_difference"]["ci95"][0]),
        "781",
    ]
    curve = [
        row
        for row in rows(folder, "loss_by_position")
        if row["entry"] == GQA and row["seed"] == "0"
    ]
    assert len(curve) == 64 + 128 + 1024
    positions = [(row["length"], row["first_position"], row["last_position"]) for row in curve]
    assert positions[::1215] == [
        ("64", "1", "1"),
        ("2048", "2047", "2048"),
    ]

    text = section(page)
    header = next(line for line in text.splitlines() if line.startswith("| entry"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "entry",
        "64",
        "128 (trained)",
        "2,048",
    ]
    assert "Not defined, no positions beyond seq_len = 128: learned · mha" in text
    assert "At parallelism single" in text
    for name in ("length_loss", "position_loss"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.png" in text


def test_the_table_of_differences_has_no_column_without_any(pair, no_figures):
    plant(pair, MHA, 0, lengths=[record(2.0), undefined("no room", 8)])
    plant(pair, GQA, 0, lengths=[record(2.5), record(3.0, 8)])
    losses, differences = section(written(pair)[0]).split("paired by seed")
    assert " 3.0000 |" in losses and "+0.5000" in differences and " 8 |" not in differences


def test_probe_without_values_has_a_table_and_no_figure(pair):
    plant(pair, GQA, 0, lengths=[undefined("no room")])
    page, _, folder = written(pair)
    assert "Not defined, no room" in page
    names = [path.stem for path in folder.glob("figures/*.png")]
    assert "memory" in names and not {"length_loss", "position_loss"} & {*names}
