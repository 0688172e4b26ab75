"""Each faulty variant of the gallery is refused or flagged by name, on one screen."""

import pytest
from gallery import FILES, GALLERY, SCREEN, expectation, found


def test_gallery_is_complete():
    assert len(FILES) >= 30
    ways = {expectation(file)[0] for file in FILES}
    assert ways == {"refused", "flagged", "check", "at run time"}


@found("refused", "flagged")
def test_faulty_variant_is_named_before_the_start(study, file):
    """It would train, and its report would be wrong, or it would fail after other runs."""
    how, parts = expectation(file)
    axis = file.parent.name
    study.write(GALLERY, **{axis: f'["{file.stem}"]'})
    printed = study.run("--dry-run", code=2 if how == "refused" else 0)
    assert len(printed.splitlines()) <= SCREEN
    assert "Traceback" not in printed
    for part in parts:
        assert part in printed, printed
    assert not study.has_results


@pytest.mark.distributed
@found("at run time")
def test_faulty_variant_is_named_when_it_fails(study, file):
    """The log would end with a loss of NaN, and no word on where it comes from."""
    study.write(GALLERY, **{file.parent.name: f'["{file.stem}"]'})
    printed = study.run(code=1)
    (run,) = study.harness.runs()
    assert run.status.reason == "nan"
    for part in expectation(file)[1]:
        assert part in run.status.message
    assert len(printed.splitlines()) <= SCREEN
