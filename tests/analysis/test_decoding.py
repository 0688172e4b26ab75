"""If these failed, the report would state decoding speeds that were not measured, or fail."""

import csv
import itertools
import math

import pytest
from reported import GQA, MHA, plant, two_entries, written

from harness.analysis import dataset
from harness.analysis.decoding import measures

MEASURES = (
    "prefill_tokens_per_s",
    "decode_step_s",
    "decode_tokens_per_s",
    "decode_tokens_per_s_ratio",
)


@pytest.fixture
def pair(fake):
    return two_entries(fake)


def record(decode_s, batch=2, context=4, **changed) -> dict:
    """Return a record of the decode probe whose prefill takes half a second."""
    found = {"batch": batch, "context": context, "prefill_s": [0.5, 0.5, 0.5], "decode_s": decode_s}
    return found | {"cache_bytes": 4096, "reason": None} | changed


def undefined(reason, **changed) -> dict:
    return record([], prefill_s=[], cache_bytes=None, reason=reason, **changed)


def measured(fake, entry):
    study = dataset.read(fake.store, "tiny")
    return measures(study, next(found for found in study.entries if found.label == entry))


def test_rates_and_times_of_a_hand_case(pair):
    plant(pair, GQA, 0, decoding=[record([0.002, 0.004])])
    plant(pair, GQA, 1, decoding=[record([0.004, 0.008, 0.008])])
    (found,) = measured(pair, GQA)
    assert (found.batch, found.context, found.seeds, found.cache_bytes, found.reason) == (
        2,
        4,
        [0, 1],
        4096,
        None,
    )
    assert found.prefill_tokens_per_s.median == pytest.approx(16)  # 2 x 4 in 0.5 s
    assert found.prefill_tokens_per_s.ci95 == pytest.approx((16, 16))
    # the geometric mean of the medians 3 and 8 ms; half = t(0.975, 1) ln(8 / 3) / 2
    step_s = (0.003 * 0.008) ** 0.5
    factor = math.exp(12.706204736432095 * math.log(8 / 3) / 2)
    assert found.decode_step_s.median == pytest.approx(step_s)
    assert found.decode_step_s.ci95 == pytest.approx((step_s / factor, step_s * factor))
    assert found.decode_tokens_per_s.median == pytest.approx(2 / step_s)
    low, high = found.decode_step_s.ci95
    assert found.decode_tokens_per_s.ci95 == pytest.approx((2 / high, 2 / low))


def test_each_batch_and_context_has_its_own_measures(pair):
    at = itertools.product((1, 8), (16, 128))
    plant(
        pair,
        GQA,
        0,
        decoding=[record([1e-3 * batch + 1e-6 * context], batch, context) for batch, context in at][
            ::-1
        ],
    )
    found = measured(pair, GQA)
    assert [(d.batch, d.context) for d in found] == [(1, 16), (1, 128), (8, 16), (8, 128)]
    assert [d.decode_step_s.median for d in found] == pytest.approx(
        [1e-3 * d.batch + 1e-6 * d.context for d in found]
    )
    assert [d.prefill_tokens_per_s.median for d in found] == pytest.approx(
        [2 * d.batch * d.context for d in found]
    )
    assert not any(d.decode_step_s.ci95 or d.prefill_tokens_per_s.ci95 for d in found)  # one seed


def test_ratio_is_variant_over_baseline_of_shared_seeds(pair):
    plant(pair, GQA, 0, decoding=[record([0.004])])
    plant(pair, GQA, 1, decoding=[record([0.004])])
    plant(pair, MHA, 1, decoding=[record([0.012])])
    (found,) = measured(pair, GQA)
    assert found.decode_tokens_per_s_ratio.ratio == pytest.approx(3)
    assert found.decode_tokens_per_s_ratio.ci95 is None  # one common seed
    assert measured(pair, MHA)[0].decode_tokens_per_s_ratio is None
    plant(pair, MHA, 1, decoding=[undefined("no room")])
    assert measured(pair, GQA)[0].decode_tokens_per_s_ratio is None


def test_what_is_not_defined_has_a_reason_and_no_number(pair, no_figures):
    for seed in pair.seeds:
        plant(
            pair,
            GQA,
            seed,
            decoding=[record([0.004]), undefined("no positions | beyond 4", context=8)],
        )
    found = measured(pair, GQA)[1]
    assert (found.context, found.seeds, found.reason) == (8, [], "no positions | beyond 4")
    assert not any(getattr(found, name) for name in (*MEASURES, "cache_bytes"))
    page, _, folder = written(pair)
    assert "not defined: no positions \\| beyond 4" in page
    with open(folder / "tables" / "decoding.csv", newline="") as file:
        row = list(csv.DictReader(file))[1]
    assert (
        row["reason"] == found.reason
        and row["seeds"] == row["decode_step_s"] == row["cache_bytes"] == ""
    )


def test_seeds_without_a_value_are_reported_with_the_reason(pair, no_figures):
    plant(pair, GQA, 0, decoding=[undefined("out of memory")])
    plant(pair, GQA, 1, decoding=[record([0.004])])
    (found,) = measured(pair, GQA)
    assert (found.seeds, found.reason, found.decode_step_s.median) == ([1], "out of memory", 0.004)
    assert "| 1; not defined: out of memory |" in written(pair)[0]


def test_a_run_that_is_not_done_has_no_decoding(pair):
    for seed in pair.seeds:
        plant(pair, GQA, seed, decoding=[record([0.004])])
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
        [record([])],
        [record([None])],
        [record([[0.1]])],
        [record(["quick"])],
        [record([0.0])],
        [record([0.1], prefill_s=None)],
        [record([0.1], cache_bytes=None)],
        [record([0.1], cache_bytes="4096")],
        [record([0.1], batch=0)],
        [record([0.1], context=[4])],
    ],
)
def test_a_damaged_record_names_its_run_and_breaks_nothing(pair, no_figures, damaged):
    plant(pair, GQA, 0, decoding=damaged)
    plant(pair, GQA, 1, decoding=[record([0.004])])
    _, summary, _ = written(pair)
    assert [item["name"][: len(GQA) + 3] for item in summary["unreadable"]] == [f"{GQA}-s0"]
    entry = next(entry for entry in summary["entries"] if entry["entry"] == GQA)
    assert entry["seeds"] == [1] and entry["decoding"][0]["seeds"] == [1]


def test_study_without_the_probe_has_no_section(pair):
    before, summary, folder = written(pair)
    for entry, seed in itertools.product((MHA, GQA), pair.seeds):
        plant(pair, entry, seed, decoding=[])
    page, _, _ = written(pair)
    assert page == before and "ecoding" not in page
    assert all(entry["decoding"] == [] for entry in summary["entries"])
    assert not list(folder.glob("*/deco*"))


def test_page_summary_table_and_figures_of_a_whole_study(fake, draw_only):
    draw_only("decode_time", "decode_cache")
    fake.seeds, fake.steps, fake.decode = (0, 1), 4, ([1, 8], [128, 1024])
    page, summary, folder = written(fake.write())
    entries = {entry["entry"]: entry["decoding"] for entry in summary["entries"]}
    assert all(len(found) == 4 for found in entries.values())
    assert entries["rope-gqa2-single"][3].keys() == {
        "batch",
        "context",
        "seeds",
        "cache_bytes",
        "reason",
        *MEASURES,
    }
    assert entries["rope-gqa2-single"][3]["decode_step_s"].keys() == {"median", "ci95"}
    assert entries["rope-gqa2-single"][3]["cache_bytes"] == 8 * 1024 * 2 * 4 * 64 * 4 // 2
    assert entries["rope-gqa2-single"][2]["decode_tokens_per_s_ratio"].keys() == {"ratio", "ci95"}
    assert entries["learned-mha-single"][1]["decode_step_s"] is None

    with open(folder / "tables" / "decoding.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high")]
    assert list(rows[0]) == ["entry", "batch", "context", "seeds", *names, "cache_bytes", "reason"]
    assert len(rows) == 18 * 4
    exact = entries["rope-gqa2-single"][3]["decode_step_s"]
    row = [row for row in rows if row["entry"] == "rope-gqa2-single"][3]
    assert [row["decode_step_s"], row["decode_step_s_low"]] == [
        str(exact["median"]),
        str(exact["ci95"][0]),
    ]

    section = page.split("## Decoding")[1].split("\n## ")[0]
    assert "not defined: no positions beyond seq_len = 128" in section
    assert (
        "differ only in the parallelism measure the same" in section
        and "At parallelism single" in section
    )
    for name in ("decode_time", "decode_cache"):
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.png" in section


def test_single_parallelism_has_no_equivalence_section(pair):
    plant(pair, GQA, 0, decoding=[record([0.004])])
    section = written(pair)[0].split("## Decoding")[1].split("\n## ")[0]
    assert "parallelism" not in section and "A line ends" not in section


def test_probe_without_values_has_a_table_and_no_figure(pair):
    plant(pair, GQA, 0, decoding=[undefined("no room")])
    page, _, folder = written(pair)
    assert "not defined: no room" in page
    assert (folder / "figures" / "memory.png").is_file() and not list(
        folder.glob("figures/decode*")
    )
