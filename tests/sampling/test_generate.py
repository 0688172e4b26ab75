"""Text comes in whole characters, and invalid requests are rejected before the model runs."""

import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from harness.cli import app as cli
from harness.data.tokenizers import Tokenizer
from harness.errors import ExitCode
from harness.model.weights import load_weights
from harness.published.convert import export_weights, import_weights
from harness.sampling.generate import TextStream, write_texts

TEXT = "Größe 漢字 🙂 e"


def sample(*arguments):
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["sample", *map(str, arguments)])
    return ended.value.code


def refused(capsys, *arguments):
    """Return the error message of a rejected request."""
    assert sample(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err


def written(rows, prompt="", tokenizer=None):
    """Write samples, given as their tokens; return the single writes and the texts."""
    texts, writes = [TextStream(prompt, tokenizer or Tokenizer("bytes")) for _ in rows], []
    write_texts(zip(*rows, strict=True), texts, 7, writes.append)
    return writes, texts


# -- text ------------------------------------------------------------------------------------------


def test_a_character_is_written_when_it_is_complete():
    writes, _ = written([TEXT.encode()], "Wie? ")
    assert writes == ["Wie? ", *TEXT, "\n"]


def test_invalid_utf8_is_replaced_immediately():
    writes, _ = written([b"a\xff\xf0\x9f\x99b\xc3"])
    assert writes == ["", "a", "�", "�b", "�\n"]
    assert "".join(writes) == b"a\xff\xf0\x9f\x99b\xc3".decode("utf-8", "replace") + "\n"


def test_several_samples_follow_each_other_with_headers():
    writes, _ = written([b"ab", b"c\xc3", "ß".encode()], "x")
    assert "".join(writes) == (
        "--- sample 1 of 3 (seed 7)\nxab\n"
        "--- sample 2 of 3 (seed 7)\nxc�\n"
        "--- sample 3 of 3 (seed 7)\nxß\n"
    )
    assert writes[:3] == ["--- sample 1 of 3 (seed 7)\nx", "a", "b"]  # the first as it comes


def test_a_text_ends_at_its_end_of_text_token():
    tokenizer = SimpleNamespace(end_of_text=0, decode_bytes=bytes)
    n_asked = []

    def steps():
        for tokens in zip(b"ab\0cd", b"\0efgh", strict=True):
            n_asked.append(tokens)
            yield tokens

    texts, writes = [TextStream("", tokenizer) for _ in range(2)], []
    write_texts(steps(), texts, 0, writes.append)
    assert [text.text for text in texts] == ["ab", ""] and [text.n_tokens for text in texts] == [
        3,
        1,
    ]
    assert len(n_asked) == 3 and "\0" not in "".join(writes)
    assert written([b"a\xc3\0\0"], tokenizer=tokenizer)[0] == ["", "a", "�\n"]


# -- the command -----------------------------------------------------------------------------------


def test_text_goes_to_stdout_and_the_rest_to_stderr(save):
    """Otherwise the text could not be piped."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "sample",
        str(save(positional="rope")),
        "--prompt",
        "O",
        "--length=40",
    ]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 0
    assert result.stdout.startswith(b"O") and result.stdout.endswith(b"\n")
    assert re.fullmatch(
        r"40 tokens, [\d,.]+ tokens/s, KV cache 0\.01 MiB\n", result.stderr.decode()
    )


def test_a_seed_gives_the_same_text_for_any_number_of_samples(save, capsys):
    def text(*arguments):
        assert sample(model, "--prompt", "O", "--length", 60, *arguments) == 0
        return capsys.readouterr().out

    model = save(positional="rope")
    three = text("--samples", 3, "--seed", 1)
    assert text("--samples", 3, "--seed", 1) == three != text("--samples", 3, "--seed", 2)
    first = re.match(
        r"--- sample 1 of 3 \(seed 1\)\n(.*)--- sample 2 of 3 \(seed 1\)\n", three, re.DOTALL
    )
    assert text("--samples", 1, "--seed", 1) == first[1]
    greedy = text("--temperature", 0)
    assert (
        text("--temperature", 0, "--seed", 9, "--top-k", 5)
        == text("--top-k", 1)
        == text("--top-p", 1e-9)
        == greedy
    )


def test_a_full_context_ends_the_text_with_a_note(save, capsys):
    assert sample(save(), "--prompt", "abc") == 0
    out, err = capsys.readouterr()
    assert out.startswith("abc")
    assert err.startswith(
        "stopped after 14 of 200 tokens: the context of 16 learned positions is full"
    )
    assert "\n14 tokens, " in err
    assert sample(save("rope", positional="rope"), "--prompt", "x" * 20, "--length", 5) == 0
    out, err = capsys.readouterr()
    assert out.startswith("x" * 20)
    assert (
        err.startswith("the prompt has 20 tokens; only the last 16 fit the context")
        and "\n5 tokens, " in err
    )


def test_an_empty_prompt_begins_after_a_line_break(save, capsys):
    """The line break itself is not written."""
    model = save(positional="rope")
    assert sample(model, "--prompt", "", "--temperature", 0) == 0
    unprompted = capsys.readouterr().out
    assert sample(model, "--prompt", "\n", "--temperature", 0) == 0
    assert capsys.readouterr().out == "\n" + unprompted


def test_an_empty_prompt_begins_after_the_end_of_text_token(monkeypatch, save, capsys):
    monkeypatch.setattr(Tokenizer, "end_of_text", ord("Z"))
    model = save(positional="rope")
    assert sample(model, "--prompt", "", "--temperature", 0, "--length", 8) == 0
    unprompted = capsys.readouterr().out
    assert sample(model, "--prompt", "Z", "--temperature", 0, "--length", 8) == 0
    assert capsys.readouterr().out == "Z" + unprompted


def test_bf16_halves_the_cache_for_weights_of_any_precision(save, capsys):
    for number, (dtype, precision, mib) in enumerate(
        (
            (torch.float32, "fp32", "0.50"),
            (torch.bfloat16, "fp32", "0.50"),
            (torch.bfloat16, "bf16", "0.25"),
        )
    ):
        model = save(f"{number}", positional="rope", seq_len=1024, dtype=dtype)
        assert sample(model, "--prompt", "O" * 1020, "--length", 4, "--precision", precision) == 0
        assert f"KV cache {mib} MiB" in capsys.readouterr().err


def test_the_tokenizer_is_the_checkpoints_or_the_named_one(save, capsys):
    unknown, model = save("unknown", tokenizer=None), save()
    assert load_weights(unknown).tokenizer is None and load_weights(model).tokenizer == "bytes"
    assert sample(model, "--prompt", "a", "--temperature", 0) == 0
    text = capsys.readouterr().out
    assert sample(unknown, "--prompt", "a", "--temperature", 0, "--tokenizer", "bytes") == 0
    assert capsys.readouterr().out == text
    error = refused(capsys, unknown, "--prompt", "a")
    assert f"{unknown}: " in error and "--tokenizer bytes or gpt2" in error
    error = refused(capsys, save("small", vocab_size=255), "--prompt", "a")
    assert "checkpoint.json: tokenizer: 'bytes' has 256 tokens, but the model has 255" in error
    assert "--tokenizer: 'byte': no such tokenizer; did you mean 'bytes'?" in refused(
        capsys, model, "--prompt", "a", "--tokenizer", "byte"
    )


def test_only_a_vocabulary_of_50257_implies_gpt2s_tokenizer(tmp_path, save):
    """An imported GPT-2 must not need --tokenizer, and a model of another vocabulary must."""
    for vocab_size, tokenizer in ((50257, "gpt2"), (50304, None)):
        export_weights(
            save(f"{vocab_size}", vocab_size=vocab_size), tmp_path / f"published-{vocab_size}"
        )
        imported = import_weights(
            str(tmp_path / f"published-{vocab_size}"), tmp_path / f"ours-{vocab_size}"
        )
        assert (
            imported.tokenizer
            == load_weights(tmp_path / f"ours-{vocab_size}").tokenizer
            == tokenizer
        )


def test_all_invalid_settings_are_reported_together(save, capsys):
    error = refused(
        capsys,
        save(),
        "--prompt",
        "a\udcff",
        "--length",
        0,
        "--samples",
        0,
        "--temperature",
        -1,
        "--top-k",
        0,
        "--top-p",
        0,
        "--seed",
        -1,
    )
    assert error.splitlines() == [
        "error: 7 problems",
        "  --temperature: -1.0: must be 0 (the likeliest token) or positive",
        "  --top-k: 0: must be at least 1",
        "  --top-p: 0.0: must be more than 0 and at most 1",
        "  --length: 0: must be at least 1",
        "  --samples: 0: must be at least 1",
        "  --seed: -1: must be at least 0",
        "  --prompt: is not UTF-8",
    ]
    for setting in (
        "--temperature=nan",
        "--temperature=inf",
        "--top-p=nan",
        "--top-p=1.5",
        "--top-k=x",
    ):
        assert setting.split("=")[0] in refused(capsys, save(setting), "--prompt", "a", setting)
    assert "--prompt: 17 tokens" in refused(capsys, save("short"), "--prompt", "x" * 17)


def test_a_missing_device_is_rejected(save, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "--device: cuda: not available here; use cpu" in refused(
        capsys, save(), "--prompt", "a", "--device", "cuda"
    )
    assert sample(save("other"), "--prompt", "a") == 0


@pytest.mark.parametrize("given", [".", "checkpoint", "checkpoint/newest/model.safetensors"])
def test_a_path_near_a_checkpoint_gets_a_suggestion(given, save, tmp_path, capsys):
    run = tmp_path / "results/study/run"
    (run / "checkpoint").mkdir(parents=True)
    save().rename(run / "checkpoint/newest")
    error = refused(capsys, run / given, "--prompt", "a")
    assert error.endswith(
        f"is not a checkpoint folder; did you mean {run / 'checkpoint/newest'}?\n"
    )
    save("best").rename(run / "checkpoint/best")
    if given != "checkpoint/newest/model.safetensors":
        error = refused(capsys, run / given, "--prompt", "a")
        assert error.endswith(
            f"did you mean {run / 'checkpoint/newest'} or {run / 'checkpoint/best'}?\n"
        )


def test_each_kind_of_wrong_folder_has_its_own_message(tmp_path, save, capsys):
    for name in ("run", "published", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "run/spec.json").write_text("{}")
    (tmp_path / "published/config.json").write_text("{}")
    torn = save("torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    for name, message in (
        ("missing", "missing: no such folder"),
        (
            "run",
            "a run without a checkpoint; launch.keep_checkpoints in its study sets which are kept",
        ),
        ("published", "import it first: python -m harness checkpoint import"),
        ("empty", "not a checkpoint folder: has no checkpoint.json"),
        ("torn", "truncated or not a weights file"),
    ):
        assert message in refused(capsys, tmp_path / name, "--prompt", "a")


def test_an_attention_without_a_cache_is_rejected(save, capsys, monkeypatch):
    from variants.attention.mha import MultiHead
    from variants.base import Attention

    monkeypatch.setattr(MultiHead, "cache", Attention.cache)
    assert "MultiHead defines no cache for decoding" in refused(capsys, save(), "--prompt", "a")


# -- interruptions ---------------------------------------------------------------------------------


@pytest.fixture
def endless(save):
    """Start a sample that would take hours and wait for its first character."""
    command = [
        sys.executable,
        "-m",
        "harness",
        "sample",
        save(positional="rope"),
        "--prompt",
        "O",
        "--length",
        "1000000",
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a background shell ignores it
    )
    assert process.stdout.read(1) == b"O"
    yield process
    process.kill()
    process.stdout.close()
    process.stderr.close()
    process.wait()


def test_a_closed_pipe_ends_it_without_a_traceback(endless):
    endless.stdout.close()
    assert endless.wait() == ExitCode.READER_GONE and endless.stderr.read() == b""


def test_ctrl_c_ends_it_without_a_traceback(endless):
    endless.send_signal(signal.SIGINT)
    endless.stdout.read()
    assert endless.wait() == 130 and endless.stderr.read() == b""


def test_characters_unknown_to_the_terminal_are_replaced(save):
    command = [sys.executable, "-m", "harness", "sample", save(), "--prompt", "漢", "--length", "1"]
    result = subprocess.run(
        command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert result.returncode == 0 and result.stdout.startswith(b"?")
