"""The ratios of `make bench`, worked out by hand on invented seconds."""

import json

import pytest
import ratios


def made(ratio, low, high, peer="peer", benchmark="b"):
    return ratios.Ratio(benchmark, 1.0, peer, ratio, ratio, (low, high))


def test_the_ratio_is_that_of_the_rounds():
    found = ratios.ratio("b", [1.0, 2.0, 4.0], "peer", [2.0, 6.0, 16.0])  # 2, 3, 4
    assert (found.ours_s, found.peer_s, found.ratio) == (2.0, 6.0, 3.0)
    assert 2.0 <= found.ci95[0] < 3.0 < found.ci95[1] <= 4.0


def test_a_machine_that_slows_down_counts_for_neither_side():
    ours_s = [1.0, 1.5, 4.0, 9.0]
    assert ratios.ratio("b", ours_s, "peer", [2 * s for s in ours_s]).ci95 == (2.0, 2.0)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05), "slower"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.80, 1.75), "same"),  # the intervals overlap
        (
            made(2.00, 1.99, 2.01),
            made(1.95, 1.94, 1.96),
            "same",
        ),  # they do not, but so much differs from run to run
        (made(2.00, 1.99, 2.01), made(2.05, 2.04, 2.06), "same"),
        (made(2.00, 1.70, 2.30), made(3.00, 2.90, 3.10), "faster"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05, peer="another"), "new"),
        (made(2.00, 1.70, 2.30), made(1.00, 0.95, 1.05, benchmark="another"), "new"),
    ],
)
def test_slower_is_only_what_neither_interval_nor_noise_explains(before, now, expected):
    assert ratios.verdicts([now], {"b": before}) == {now.benchmark: expected}


def test_what_was_written_is_read_again(tmp_path):
    found = [made(2.0, 1.5, 2.5), made(3.0, 2.5, 3.5, benchmark="c")]
    ratios.write(tmp_path / "bench/ratios.json", found)
    assert ratios.read(tmp_path / "bench/ratios.json") == {"b": found[0], "c": found[1]}
    keys = {"benchmark", "ours_s", "peer", "peer_s", "ratio", "ci95"}
    assert all(
        record.keys() == keys for record in json.loads((tmp_path / "bench/ratios.json").read_text())
    )


@pytest.mark.parametrize("text", [None, "", "{}x", '["b"]', '[{"benchmark": "b"}]'])
def test_another_file_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=r"file\.json: no ratios of an earlier run"):
        ratios.read(tmp_path / "file.json")
