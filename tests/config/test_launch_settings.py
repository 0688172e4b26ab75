"""Without these, Slurm would refuse a study after minutes, or run it with options that break it."""

import pytest
from pydantic import ValidationError

from harness.results.records import LaunchSpec, SlurmSettings
from harness.results.records.launch_settings import FIXED_OPTIONS, OWN_OPTIONS, LaunchSettings

OWN = [*OWN_OPTIONS, *FIXED_OPTIONS]


@pytest.mark.parametrize("option", OWN)
@pytest.mark.parametrize("form", ["--{}=1", "--{}"])
def test_options_that_the_study_sets_are_refused(option, form):
    with pytest.raises(ValidationError, match=r"follows from the study|is set for every job"):
        SlurmSettings(options=[form.format(option)])


@pytest.mark.parametrize("option", OWN)
def test_prefixes_of_own_options_are_refused(option):
    with pytest.raises(ValidationError, match=r"follows from the study|is set for every job"):
        SlurmSettings(options=[f"--{option[:-1]}=1"])


@pytest.mark.parametrize(
    "option", ["-A me", "--mem 4G", "mem=4G", "--mem=4G\n--array=1", "--gres=gpu:a100:4", ""]
)
def test_options_in_another_form_are_refused(option):
    with pytest.raises(ValidationError):
        SlurmSettings(options=[option])


@pytest.mark.parametrize(
    "option",
    ["--mem=64G", "--exclusive", "--gres=nvme:100", "--exclude=n[1-3]", "--mail-user=a@b.c",
     "--time-min=10", "--comment=two words", "--nodelist=n1", "--gpu-bind=none"],
)  # fmt: skip
def test_other_options_are_accepted(option):
    assert SlurmSettings(options=[option]).options == [option]


@pytest.mark.parametrize(
    "time", ["30", "30:15", "04:00:00", "1-12", "1-12:30", "1-12:30:15", "UNLIMITED"]
)
def test_times_of_slurm_are_accepted(time):
    assert SlurmSettings(time=time).time == time


@pytest.mark.parametrize("time", ["4h", "1:2:3:4", "", "1-", "-1", "04:00:00 ", "1-2:3:4:5", True])
def test_other_times_are_refused(time):
    with pytest.raises(ValidationError, match="time"):
        SlurmSettings(time=time)


@pytest.mark.parametrize(("text", "time"), [("30", "30"), ("04:00:00", "04:00:00")])
def test_times_need_no_quotes(text, time, write_study):
    from harness.study import study_file

    file, _ = study_file.read(write_study(), [f"launch.slurm.time={text}"])
    assert file.launch.slurm.time == time


@pytest.mark.parametrize("name", ["partition", "account", "qos", "constraint"])
@pytest.mark.parametrize("value", ["", "two words", "a#b", "a\nb", 'a"b', "a\\b"])
def test_words_cannot_add_options_to_the_script(name, value):
    with pytest.raises(ValidationError, match="one word"):
        SlurmSettings.model_validate({name: value})


def test_every_setting_of_execution_reaches_the_spec():
    shared = LaunchSettings.model_fields.keys() & LaunchSpec.model_fields.keys()
    assert shared == {
        "timeout_s",
        "stall_timeout_s",
        "checkpoint_every",
        "checkpoint_every_s",
        "keep_checkpoints",
        "network_interface",
    }


@pytest.mark.parametrize("name", ["timeout_s", "stall_timeout_s"])
@pytest.mark.parametrize("value", [1e-9, 0.5, 0, -1])
def test_limits_of_a_run_are_a_second_or_more(name, value):
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        LaunchSettings.model_validate({name: value})
