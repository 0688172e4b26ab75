"""If these failed, the report would attribute time wrongly, or hide wrong predictions."""

import csv
import json

import pytest
from reported import written

from harness.analysis import dataset, summary
from harness.report.charts.scaling import physical_cores

SINGLE, DDP, FSDP = (f"learned-mha-{name}" for name in ("single", "ddp2", "fsdp2"))


@pytest.fixture
def three(fake, draw_only):
    """One architecture under three parallelisms."""
    draw_only("phases", "scaling")
    fake.axes |= {"positional": ["learned"], "attention": ["mha"]}
    fake.seeds = (0, 1)
    return fake


@pytest.fixture
def scaled(three):
    """DDP on two and on four processes, and one process."""
    three.axes["parallelism"] = ["single", "ddp2", "ddp4", "fsdp2"]
    return three


def edit_probes(fake, entry, change) -> None:
    for run in fake.store.runs("tiny"):
        if run.run_id.startswith(f"{entry}-s"):
            path = run.path / "probes.json"
            probes = json.loads(path.read_text())
            change(probes)
            path.write_text(json.dumps(probes))


def work(fake):
    return summary.summarize(dataset.read(fake.store, "tiny"), "")


def section(page, title):
    return page.split(f"## {title}")[1].split("\n##")[0]


def rows(folder, table):
    with open(folder / "tables" / f"{table}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_phases_are_means_of_rank_medians_without_waits(three):
    results = work(three.write()).results
    found = {label: result.phases for label, result in results.items()}
    assert found[DDP].by_name == pytest.approx(
        {"forward": 12e-3, "backward": 22.5e-3, "optimizer": 3e-3, "waiting": 1.5e-3, "other": 1e-3}
    )
    assert found[DDP].waiting_by_rank_s == pytest.approx([1e-3, 2e-3])
    assert found[DDP].waiting_fraction == pytest.approx(1.5 / 40)
    assert found[SINGLE].waiting_fraction == 0 and found[SINGLE].waiting_by_rank_s == [0.0]


def test_waits_that_are_not_known_are_not_shown_as_none(three):
    """On CUDA waits are not measured; 0 % would be a false claim."""
    three.write()
    unknown = [
        {phase: [1e-3] * 3 for phase in ("forward_s", "backward_s", "optimizer_s", "other_s")}
    ] * 2
    edit_probes(
        three,
        DDP,
        lambda probes: probes.update(phases=[rank | {"waiting_s": [None] * 3} for rank in unknown]),
    )
    found = work(three).results[DDP].phases
    assert (
        found.waiting_s is None
        and found.waiting_fraction is None
        and found.forward_s == pytest.approx(1e-3)
    )
    page, _, _ = written(three)
    (row,) = (
        line
        for line in section(page, "Step time breakdown").splitlines()
        if line.startswith("| ddp2 ")
    )
    assert [cell.strip() for cell in row.split("|")[5:-1]] == ["–", "1.000", "–", "–"]


def test_phases_are_reported_in_a_table_and_a_figure(three):
    page, found, folder = written(three.write())
    (row,) = (
        line
        for line in section(page, "Step time breakdown").splitlines()
        if line.startswith("| ddp2 ")
    )
    assert [cell.strip() for cell in row.split("|")[2:-1]] == [
        "12.00",
        "22.50",
        "3.000",
        "1.500",
        "1.000",
        "3.7 %",
        "1.000 to 2.000",
    ]
    assert "figures/phases.png" in page and (folder / "figures/phases.svg").is_file()
    assert {entry["entry"]: entry["phases"]["waiting_s"] for entry in found["entries"]}[
        DDP
    ] == pytest.approx(1.5e-3)
    raw = [row for row in rows(folder, "phases") if row["entry"] == DDP]
    assert len(raw) == 2 * 2 * 3, "seeds, ranks, samples"
    assert raw[1]["forward_s"] == str(12e-3 + 1e-5), "unrounded"


def test_an_entry_that_diverges_has_no_phases(three):
    """Its time is that of another model."""
    three.write()
    edit_probes(three, DDP, lambda probes: probes.update(final_hashes=["a", "b"]))
    page, _, folder = written(three)
    result = work(three).results[DDP]
    assert result.phases is None and result.traffic is not None
    (row,) = (
        line
        for line in section(page, "Step time breakdown").splitlines()
        if line.startswith("| ddp2 ")
    )
    assert row.count("diverges") == 7
    assert DDP not in {row["entry"] for row in rows(folder, "phases")}


@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_traffic_that_is_not_what_theory_predicts_is_said(three, factor):
    """A gradient that is sent twice, or half of one that is not."""
    three.write()

    def scale(probes):
        probes["traffic"][1]["all_reduce"]["sent_bytes"] *= factor
        probes["traffic"][0]["all_reduce"]["sent_bytes"] *= min(factor, 1)

    edit_probes(three, FSDP, scale)
    results = work(three).results
    found = {label: result.traffic for label, result in results.items()}
    assert found[DDP].deviation == 0 and found[FSDP].deviation == pytest.approx(factor - 1)
    page, _, folder = written(three)
    text = section(page, "Communication")
    assert f"**{100 * factor - 100:+.2f} %**" in text and "+0.00 %" in text
    assert "off the prediction**: the communication volume of fsdp2" in text
    assert SINGLE not in text, "one process sends no bytes"
    assert {row["collective"] for row in rows(folder, "traffic")} == {"all_reduce"}


def test_traffic_as_predicted_has_no_warning(three):
    page, _, _ = written(three.write())
    assert "off the prediction" not in page


def test_one_process_that_sends_something_deviates(three):
    three.write()
    sent = {"broadcast": {"calls": 1, "payload_bytes": 4, "sent_bytes": 2.0}}
    edit_probes(three, SINGLE, lambda probes: probes.update(traffic=[sent]))
    assert work(three).results[SINGLE].traffic.deviation == float("inf")
    page, found, _ = written(three)
    assert "**none predicted**" in page and "the communication volume of single" in page
    assert found["entries"][0]["traffic"]["deviation"] is None


def test_traffic_without_prediction_is_counted(three):
    three.write()
    edit_probes(three, DDP, lambda probes: probes.update(predicted_bytes_sent=None))
    found = work(three).results[DDP].traffic
    assert found.sent_bytes == 900_000 and found.deviation is None
    assert "off the prediction" not in written(three)[0]


@pytest.mark.parametrize("category", ["parameters", "gradients", "optimizer"])
def test_memory_that_is_not_what_theory_predicts_is_said(three, category):
    """Sharding that does not take place shows here."""
    three.write()
    assert work(three).results[FSDP].predicted_memory.deviation[category] == 0

    def more(probes):
        probes["memory"][1][category] = round(probes["memory"][1][category] * 1.03)
        probes["memory"][1]["peak"] += 100_000

    edit_probes(three, FSDP, more)
    assert work(three).results[FSDP].predicted_memory.deviation[category] == pytest.approx(
        0.03, rel=1e-3
    )
    page, found, _ = written(three)
    assert "off the prediction**: the memory of fsdp2" in page
    entry = next(entry for entry in found["entries"] if entry["entry"] == FSDP)
    assert entry["predicted_memory"]["predicted"]["optimizer"] == 900_000


def test_results_of_an_older_version_have_no_such_sections(three):
    three.write()
    for entry in (SINGLE, DDP, FSDP):
        edit_probes(
            three,
            entry,
            lambda probes: [
                probes.pop(key)
                for key in (
                    "phases",
                    "traffic",
                    "predicted_bytes_sent",
                    "predicted_memory",
                    "final_hashes",
                )
            ],
        )
    page, found, folder = written(three)
    assert (
        "## Step time" not in page
        and "## Communication" not in page
        and "In theory" not in page
        and "## Memory" in page
    )
    assert (
        not (folder / "figures/phases.png").exists()
        and not (folder / "tables/traffic.csv").exists()
    )
    assert found["entries"][0]["phases"] is found["entries"][0]["traffic"] is None


def test_scaling_reference_is_the_single_process_entry(scaled):
    found = {scale.entry: scale for scale in work(scaled.write()).scaling}
    assert set(found) == {SINGLE, DDP, "learned-mha-ddp4"}, "fsdp has one number of processes"
    result = work(scaled).results
    for label, n in ((DDP, 2), ("learned-mha-ddp4", 4)):
        scale = found[label]
        assert (scale.world_size, scale.against, scale.against_world_size, scale.group) == (
            n,
            SINGLE,
            1,
            "ddp",
        )
        right = result[label].tokens_per_s.median / result[SINGLE].tokens_per_s.median
        assert scale.speedup.ratio == pytest.approx(right) and scale.efficiency == pytest.approx(
            right / n
        )
    assert (found[SINGLE].speedup.ratio, found[SINGLE].efficiency) == (1, 1)


def test_its_own_kind_on_one_process_comes_before_another(scaled):
    scaled.axes["parallelism"] = ["single", "ddp1", "ddp2"]
    assert {scale.against for scale in work(scaled.write()).scaling} == {"learned-mha-ddp1"}


def test_scaling_reference_without_one_process_is_smallest(scaled):
    scaled.axes["parallelism"], scaled.baseline = ["ddp2", "ddp4"], {}
    found = {scale.entry: scale for scale in work(scaled.write()).scaling}
    assert {scale.against_world_size for scale in found.values()} == {2}
    four = found["learned-mha-ddp4"]
    assert four.efficiency == pytest.approx(four.speedup.ratio / 2)


def test_diverging_entries_are_omitted_from_scaling(scaled):
    scaled.write()
    edit_probes(
        scaled, "learned-mha-ddp4", lambda probes: probes.update(final_hashes=["a", "b", "b", "b"])
    )
    assert work(scaled).scaling == []


def test_scaling_is_reported_on_each_world_size(scaled):
    page, found, folder = written(scaled.write())
    assert (
        "## Strong scaling" in page and "figures/scaling.png" in page and len(found["scaling"]) == 3
    )
    assert [row["world_size"] for row in rows(folder, "scaling")] == ["1", "2", "4"]


def test_one_number_of_processes_is_no_scaling(three):
    page, found, folder = written(three.write())
    assert (
        "## Strong scaling" not in page
        and found["scaling"] == []
        and not (folder / "figures/scaling.png").exists()
    )


def test_core_count_is_shown_for_one_cpu_machine_only(three):
    study = dataset.read(three.write().store, "tiny")
    assert physical_cores(study) == 2
    three.settings_hash, three.env = "other", {DDP: {"gpu": "NVIDIA H200"}}
    assert physical_cores(dataset.read(three.write().store, "tiny")) is None
