"""A wrong log-likelihood looks like a result: nobody sees that accuracy is that of another text."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from harness.data.tokenizers import Tokenizer
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.model.initialization import init_parameters
from harness.model.weights import GPT2, Weights, save_weights
from harness.probes import likelihood, lm_eval
from harness.probes.likelihood import Scorer, windows
from harness.results.records import LmEvalSettings, ProbeSettings, VariantChoice
from variants import registry
from variants.base import ModelShape

T = 24
SHAPE = ModelShape(n_layer=2, n_head=4, n_embd=32, seq_len=T, vocab_size=256)
OPTIONS = {
    "gqa": {"n_kv_head": 2},
    "sliding_window": {"window": 5, "global_tokens": 1},
    "mla": {"kv_rank": 8, "rope_dim": 4},
}
MODELS = [
    *(("rope" if name == "mla" else "learned", name) for name in registry.files("attention")),
    *((name, "mha") for name in registry.files("positional")),
]


def make(positional="learned", attention="mha"):
    axes = {
        "positional": VariantChoice(name=positional, label="", options={}),
        "attention": VariantChoice(name=attention, label="", options=OPTIONS.get(attention, {})),
    }
    builder = ModelBuilder(SHAPE, GPT2 | axes, [])
    model = builder.model().to_empty(device="cpu")
    init_parameters(model, 0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(8)  # so that contexts matter
    return builder, model.eval()


def tokens(n, seed=0):
    return torch.randint(256, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def plain(model, context, continuation):
    """Return the log-likelihood, one token and one whole pass at a time."""
    total, greedy = 0.0, True
    for n, token in enumerate(continuation):
        seen = [*context, *continuation[:n]]
        logits = model.logits(torch.tensor([seen]))[0, -1]
        total += logits.log_softmax(-1)[token].item()
        greedy = greedy and logits.argmax().item() == token
    return total, greedy


@torch.no_grad()
def plain_continuation(model, prompt, n_new):
    sequence = list(prompt)
    while len(sequence) < len(prompt) + n_new:
        sequence.append(model.logits(torch.tensor([sequence]))[0, -1].argmax().item())
    return sequence[len(prompt) :]


def text(token_list):
    return bytes(token_list).decode("latin-1")


@pytest.mark.parametrize(("positional", "attention"), MODELS)
def test_batches_score_and_continue_as_single_texts(positional, attention, monkeypatch):
    """Padding, shared inputs and prompts of unequal lengths change no result, in any variant."""
    _, model = make(positional, attention)
    best = plain_continuation(model, tokens(7, 5), 2)
    pairs = [
        (tokens(3), tokens(9, 1)),
        (tokens(12), tokens(1, 2)),
        (tokens(12), tokens(1, 3)),  # the answer of one token to the same question
        (tokens(7, 5), best),
        (tokens(1), tokens(T - 1, 4)),
        (tokens(3), []),
    ]
    expected = [plain(model, *pair) for pair in pairs]
    monkeypatch.setattr(likelihood, "MAX_TOKENS", 2 * T)
    monkeypatch.setattr(likelihood, "MAX_ROWS", 4)
    for size in (None, 1, 4):
        found = Scorer(model, batch_size=size).log_likelihoods(pairs)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        totals = [total for total, _ in found]
        assert totals == pytest.approx([total for total, _ in expected], abs=1e-3)

    prompts = [tokens(5), tokens(2, 1), tokens(9, 2), tokens(5, 3)]
    n_new = [6, 4, 7, 0]
    full = [plain_continuation(model, *of) for of in zip(prompts, n_new, strict=True)]
    for size in (None, 2):
        scorer = Scorer(model, batch_size=size)
        assert scorer.continuations(prompts, n_new, lambda i, new: False) == full
    ended = Scorer(model).continuations(prompts, n_new, lambda i, new: i == 0 and len(new) == 2)
    assert ended == [full[0][:2], *full[1:]]


def test_a_variant_without_a_cache_generates_the_same(monkeypatch):
    def no_cache(self, *_):
        raise NotImplementedError

    _, model = make()
    prompts = [tokens(5), tokens(2, 1)]
    expected = Scorer(model).continuations(prompts, [5, 5], lambda i, new: False)
    monkeypatch.setattr(GPT, "caches", no_cache)
    assert Scorer(model).continuations(prompts, [5, 5], lambda i, new: False) == expected


@pytest.mark.parametrize("n_context", [1, 2, 9])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 11])
def test_windows_predict_each_token_once_with_most_context(n_context, n):
    context, continuation = tuple(range(n_context)), tuple(range(100, 100 + n))
    whole = context + continuation
    found = list(windows(context, continuation, 4))
    assert sum((window.targets for window in found), ()) == continuation
    for window in found:
        assert 1 <= len(window.tokens) <= 4
        end = whole.index(window.targets[-1])
        assert window.tokens == whole[max(0, end - 4) : end]


def test_generation_stays_in_the_context():
    """A long prompt keeps its end, and positions beyond the trained ones are not used."""
    _, model = make()
    never = lambda i, new: False  # noqa: E731
    long = tokens(60)
    (found,) = Scorer(model).continuations([long], [4], never)
    assert found == plain_continuation(model, long[-(T - 4) :], 4)
    (found,) = Scorer(model).continuations([long], [1000], never)
    assert len(found) == T // 2 + 1


# -- requests of lm-eval ---------------------------------------------------------------------------


def request(*args):
    return SimpleNamespace(args=args)


@pytest.fixture
def adapter():
    return lm_eval.Adapter(Scorer(make()[1]), Tokenizer("bytes"))


def test_blanks_belong_to_the_continuation(adapter):
    """As for other models: ("a ", "b") is scored as ("a", " b"), and no context as a new text."""
    model = adapter.scorer.model
    for args, context, continuation in (
        (("To be", " or"), b"To be", b" or"),
        (("To be ", "or"), b"To be", b" or"),
        (("", "or"), b"\n", b"or"),
        ((" ", "or"), b"\n", b" or"),
    ):
        (found,) = adapter.loglikelihood([request(*args)])
        total, greedy = plain(model, list(context), list(continuation))
        assert found == (pytest.approx(total, abs=1e-3), greedy)


def test_a_long_text_is_scored_in_windows(adapter):
    model = adapter.scorer.model
    long = b"\n" + bytes(tokens(2 * T + 5, 7)[i] % 128 for i in range(2 * T + 5))
    (found,) = adapter.loglikelihood_rolling([request(long[1:].decode())])
    parts = [(0, 1, T + 1), (T, T + 1, 2 * T + 1), (len(long) - 1 - T, 2 * T + 1, len(long))]
    expected = sum(
        plain(model, long[first:start], long[start:end])[0] for first, start, end in parts
    )
    assert found == pytest.approx(expected, abs=1e-3)


def test_generation_ends_before_the_first_stop_text(adapter, monkeypatch):
    texts = [b"xy\nz and", b"abcSTOPdef"]

    def continuations(self, prompts, n_new, has_ended):
        assert n_new == [7, lm_eval.MAX_NEW_TOKENS]
        results = []
        for i, generated in enumerate(texts):
            n = next(
                n for n in range(1, 99) if n > len(generated) or has_ended(i, [*generated[:n]])
            )
            results.append([*generated[:n]])
        assert list(map(len, results)) == [3, 7], "it goes on after the stop text"
        return results

    monkeypatch.setattr(Scorer, "continuations", continuations)
    requests = [
        request("Q", {"until": "\n", "max_gen_toks": 7}),
        request("Q", {"until": ["", "STOP", "e"], "do_sample": False, "temperature": 0.0}),
    ]
    assert adapter.generate_until(requests) == ["xy", "abc"]
    with pytest.raises(NotImplementedError, match="greedily"):
        adapter.generate_until([request("Q", {"do_sample": True, "temperature": 0.7})])


RESULTS = {
    "results": {
        "copy": {
            "alias": "copy",
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "acc_norm,none": math.nan,
            "exact_match,strict": 1.0,
            "exact_match_stderr,strict": "N/A",
        }
    },
    "n-samples": {"copy": {"original": 9, "effective": 4}},
    "higher_is_better": {"copy": {"acc": True}},
}


REASONS = {("copy", "acc_norm"): "it is not a mean over examples"}


def test_results_become_one_record_for_each_metric():
    records = {record.metric: record for record in lm_eval.task_records(RESULTS, REASONS)}
    assert records.keys() == {"acc", "acc_norm", "exact_match (strict)"}
    acc = records["acc"]
    assert (acc.value, acc.stderr, acc.examples, acc.higher_is_better) == (0.5, 0.25, 4, True)
    assert records["acc_norm"].value is None
    assert records["acc_norm"].reason == "not a finite number"
    assert records["acc_norm"].not_by_example == "it is not a mean over examples"
    assert (records["exact_match (strict)"].stderr, acc.not_by_example) == (None, None)


def spec(*tasks):
    return SimpleNamespace(
        probes=ProbeSettings(lm_eval=LmEvalSettings(tasks=list(tasks), limit=2)),
        train=SimpleNamespace(precision="fp32"),
        data=SimpleNamespace(tokenizer="bytes"),
    )


def test_a_task_that_fails_does_not_lose_the_run(ranks, monkeypatch):
    def evaluate(lm, task, settings):
        if task == "absent":
            raise ConnectionError("no network\nat all")
        total, _ = lm.loglikelihood([request("a", "b")])[0]
        return {"results": {task: {"acc,none": total}}}

    monkeypatch.setattr(lm_eval, "subclass", lambda adapter: adapter)
    monkeypatch.setattr(lm_eval, "evaluate", evaluate)
    builder, model = make()
    absent, present = lm_eval.measure(spec("absent", "present"), builder, model, ranks).records
    assert (absent.value, absent.reason) == (None, "ConnectionError: no network")
    expected, _ = plain(model, [*b"a"], [*b"b"])
    assert present.value == pytest.approx(expected, abs=1e-3)
    without = lm_eval.measure(SimpleNamespace(probes=ProbeSettings()), builder, model, ranks)
    assert (without.records, without.examples) == ([], None)


# -- with lm-eval ----------------------------------------------------------------------------------

TASK = """
task: copy
dataset_path: json
dataset_kwargs: {{ data_files: {{ test: {folder}/copy.jsonl }} }}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
metric_list:
  - {{ metric: acc, aggregation: mean, higher_is_better: true }}
"""


@pytest.fixture
def task(tmp_path):
    """Return a task of the format of lm-eval whose right answers the model finds likeliest."""
    _, model = make()
    lines = []
    for i in range(4):
        question = f"Question {i}"
        choices = [" yes", " no", " perhaps"]
        totals = [plain(model, question.encode(), choice.encode())[0] for choice in choices]
        best = totals.index(max(totals))
        answer = best if i < 3 else (best + 1) % 3
        lines.append(json.dumps({"question": question, "choices": choices, "answer": answer}))
    (tmp_path / "copy.jsonl").write_text("\n".join(lines))
    (tmp_path / "copy.yaml").write_text(TASK.format(folder=tmp_path))
    return tmp_path / "copy.yaml"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def measure(ranks, *tasks, **settings):
    builder, model = make()
    full = spec(*tasks)
    full.probes = ProbeSettings(lm_eval=LmEvalSettings(tasks=list(tasks), **settings))
    return lm_eval.measure(full, builder, model, ranks)


@pytest.mark.filterwarnings("ignore")
def test_lm_eval_measures_a_local_task(ranks, task, tmp_path, offline):
    pytest.importorskip("lm_eval")
    found = measure(ranks, str(task))
    (record,) = found.records
    assert (record.task, record.metric, record.value) == ("copy", "acc", 0.75), record.reason
    assert (record.examples, record.higher_is_better) == (4, True)
    assert record.not_by_example is None
    (stored,) = found.examples.tasks
    assert (stored.task, stored.metrics) == ("copy", {"acc": [1.0, 1.0, 1.0, 0.0]})

    limited = measure(ranks, str(task), limit=2)
    assert (limited.records[0].value, limited.records[0].examples) == (1.0, 2)
    assert limited.examples.tasks[0].metrics == {"acc": [1.0, 1.0]}
    assert limited.examples.tasks[0].documents == stored.documents[:32], "the same documents"
    assert list(lm_eval.unknown_tasks([str(task), f"{tmp_path}/other.yaml"])) == [
        f"'{tmp_path}/other.yaml': no such file"
    ]


@pytest.mark.filterwarnings("ignore")
def test_examples_are_known_by_their_documents(ranks, task, tmp_path, offline):
    """In another order, each document has the same hash and the same value."""
    pytest.importorskip("lm_eval")
    before = by_document(measure(ranks, str(task)))
    lines = (tmp_path / "copy.jsonl").read_text().splitlines()
    (tmp_path / "copy.jsonl").write_text("\n".join([lines[3], *lines[:2]]))
    after = by_document(measure(ranks, str(task)))
    assert len(before) == 4 and list(after) == [list(before)[i] for i in (3, 0, 1)]
    assert after.items() <= before.items()


def by_document(found):
    (stored,) = found.examples.tasks
    documents = [stored.documents[i : i + 16] for i in range(0, len(stored.documents), 16)]
    return dict(zip(documents, stored.metrics["acc"], strict=True))


PERPLEXITY = """
task: text
dataset_path: json
dataset_kwargs: {{ data_files: {{ test: {folder}/copy.jsonl }} }}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list:
  - {{ metric: word_perplexity }}
"""


@pytest.mark.filterwarnings("ignore")
def test_a_metric_that_is_not_a_mean_has_no_examples(ranks, task, tmp_path, offline):
    pytest.importorskip("lm_eval")
    (tmp_path / "text.yaml").write_text(PERPLEXITY.format(folder=tmp_path))
    found = measure(ranks, str(tmp_path / "text.yaml"))
    (record,) = found.records
    assert record.value > 1 and record.not_by_example == "an example has no number"
    assert found.examples is None


def test_the_command_of_lm_eval_knows_the_model(task, tmp_path):
    pytest.importorskip("lm_eval")
    _, model = make()
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    save_weights(Weights(SHAPE, GPT2, tensors, {}, tokenizer="bytes"), tmp_path / "best")

    def run(path):
        arguments = ["--model", "ablations", "--model_args", f"path={path}", "--tasks", str(task)]
        command = [sys.executable, "-m", "harness.sampling.lm_eval", "run", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    result = run(tmp_path / "best")
    assert "|acc" in result.stdout and "0.75" in result.stdout, result.stderr
    missing = run(tmp_path / "absent")
    assert missing.returncode == 2 and "absent: no such folder" in missing.stderr
