"""Evaluate a trained model on tasks of EleutherAI's `lm-eval`, an optional package."""

import difflib
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from harness.data.tokenizers import Tokenizer
from harness.distributed.process_group import DistributedContext
from harness.model.builder import ModelBuilder
from harness.model.gpt import GPT
from harness.probes.example_scores import ExampleCollector, metric_name, metric_values
from harness.probes.likelihood import Scorer
from harness.probes.whole_model import whole_model
from harness.results.records import ExampleScores, LmEvalSettings, RunSpec, TaskRecord
from variants.errors import text_of

INSTALL = "needs the package lm-eval: pip install 'ablations[lm-eval]'"
MAX_NEW_TOKENS = 256  # of a generation whose task does not state it, as for other models of lm-eval
N_BOOTSTRAP = 100  # of the standard errors of metrics that are not means
TASK_FILE = ".yaml"


@dataclass(frozen=True)
class TaskResults:
    """The metrics of all tasks, and the values of their examples; None without any."""

    records: list[TaskRecord]
    examples: ExampleScores | None = None


class Request(Protocol):
    """A request of `lm-eval`: texts, and for a generation its settings."""

    args: tuple[Any, ...]


class Adapter:
    """Answers the three kinds of requests of `lm-eval`; `subclass` makes it one of its models.

    A text without context follows the end-of-text token, or a line break if the tokenizer has none.
    """

    def __init__(self, scorer: Scorer, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.scorer = scorer
        self.tokenizer = tokenizer

    @cached_property
    def prefix(self) -> list[int]:
        """Return the tokens before a text without context."""
        end_of_text = self.tokenizer.end_of_text
        return self._encode("\n") if end_of_text is None else [end_of_text]

    def loglikelihood(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return log p(continuation | context), nats, and whether it is the greedy continuation.

        Contexts are cut to the last tokens that fit.
        """
        pairs = [self._encode_pair(*request.args) for request in requests]
        return self.scorer.log_likelihoods(pairs)

    def loglikelihood_rolling(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[float]:
        """Return log p(text), nats; of long texts each token has as much context as fits."""
        pairs = [(self.prefix, self._encode(request.args[0])) for request in requests]
        return [total for total, _ in self.scorer.log_likelihoods(pairs)]

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """Return greedy continuations, each up to its first stop text.

        Raises:
            NotImplementedError: a request asks for sampling.
        """
        prompts = []
        n_new = []
        stops = []
        for request in requests:
            context, settings = request.args
            if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
                raise NotImplementedError("generates greedily only; set do_sample to false")
            prompts.append(self._encode(context) or self.prefix)
            n_new.append(int(settings.get("max_gen_toks", MAX_NEW_TOKENS)))
            until = settings.get("until") or []
            texts = [until] if isinstance(until, str) else until
            stops.append([text for text in texts if text])

        def has_ended(i: int, tokens: list[int]) -> bool:
            if tokens[-1] == self.tokenizer.end_of_text:
                return True
            text = self._decode(tokens)
            return any(stop in text for stop in stops[i])

        generated = self.scorer.continuations(prompts, n_new, has_ended)
        texts = []
        for tokens, until in zip(generated, stops, strict=True):
            text = self._decode(tokens)
            for stop in until:
                text = text.split(stop)[0]
            texts.append(text)
        return texts

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text)]

    def _decode(self, tokens: Sequence[int]) -> str:
        kept = [token for token in tokens if token != self.tokenizer.end_of_text]
        return self.tokenizer.decode_bytes(kept).decode("utf-8", errors="replace")

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return both as tokens; blanks at the end of the context belong to the continuation."""
        if not context:
            return self.prefix, self._encode(continuation)
        stripped = context.rstrip()
        whole = self._encode(context + continuation)
        context_tokens = self._encode(stripped)
        if not context_tokens:
            return self.prefix, whole
        return whole[: len(context_tokens)], whole[len(context_tokens) :]


def subclass(adapter: type[Adapter]) -> type[Any]:
    """Return the subclass of an adapter and of `lm_eval.api.model.LM`.

    Raises:
        ImportError: `lm-eval` is not installed.
    """
    from lm_eval.api.model import LM

    return types.new_class(f"{adapter.__name__}LM", (adapter, LM))


def unknown_tasks(tasks: Sequence[str]) -> Iterator[str]:
    """Yield a message on each task that does not exist.

    Raises:
        ImportError: `lm-eval` is not installed.
    """
    manager = task_manager(tasks)
    names = manager.all_tasks
    for task in tasks:
        if task.endswith(TASK_FILE):
            if not Path(task).is_file():
                yield f"'{task}': no such file"
        elif task not in names:
            nearest = difflib.get_close_matches(task, names, n=3)
            hint = f"did you mean {' or '.join(nearest)}? " if nearest else ""
            yield f"'{task}': no such task; {hint}`lm_eval ls tasks` lists them all"


def task_manager(tasks: Sequence[str]) -> Any:
    """Return the `TaskManager` of `lm-eval`; indexing its own tasks takes seconds, if one is used.

    Raises:
        ImportError: `lm-eval` is not installed.
    """
    from lm_eval.tasks import TaskManager

    own_only = all(task.endswith(TASK_FILE) for task in tasks)
    return TaskManager(include_defaults=not own_only)


def measure(
    spec: RunSpec, builder: ModelBuilder, gpt: GPT, context: DistributedContext
) -> TaskResults:
    """Return the metrics of each task of the study, and the values of their examples.

    Rank 0 measures with the whole model; the other ranks return no results. A task that fails,
    such as one whose data cannot be downloaded, has a `reason` and does not fail the run.
    """
    settings = spec.probes.lm_eval
    if settings is None:
        return TaskResults([])
    model = whole_model(builder, gpt, context, torch.float32)
    if model is None:
        return TaskResults([])
    adapter = (Scorer(model, spec.train.precision), Tokenizer(spec.data.tokenizer))
    records: list[TaskRecord] = []
    collector = ExampleCollector()
    for task in settings.tasks:
        try:
            with torch.compiler.set_stance("force_eager"):
                results = evaluate(subclass(Adapter)(*adapter), task, settings)
            records += task_records(results, collector.add(results))
        except Exception as error:  # of the data sets' hosts, files and formats
            reason = f"{type(error).__name__}: {text_of(error)}".splitlines()[0]
            print(f"lm-eval: {task}: {reason}")
            records.append(TaskRecord(task=task, metric="", value=None, examples=0, reason=reason))
    return TaskResults(records, collector.scores)


def evaluate(lm: Any, task: str, settings: LmEvalSettings) -> Mapping[str, Any]:
    """Return the results of `lm-eval` for one task, or for a group and its tasks, with samples."""
    import lm_eval

    results: Mapping[str, Any] = lm_eval.simple_evaluate(
        model=lm,
        tasks=[task],
        num_fewshot=settings.num_fewshot,
        limit=settings.limit,
        bootstrap_iters=N_BOOTSTRAP,
        log_samples=True,
        task_manager=task_manager([task]),
    )
    return results


def task_records(
    results: Mapping[str, Any], not_by_example: Mapping[tuple[str, str], str]
) -> Iterator[TaskRecord]:
    """Yield a record for each metric in the results of `evaluate`.

    `not_by_example` has why a metric has no values by example, by task and name of the metric.
    """
    for task, metrics in results["results"].items():
        n_samples = results.get("n-samples", {}).get(task, {})
        better = results.get("higher_is_better", {}).get(task) or {}
        for metric, kind, value in metric_values(metrics):
            finite = math.isfinite(value)
            name = metric_name(metric, kind)
            stderr = metrics.get(f"{metric}_stderr,{kind}")
            has_error = isinstance(stderr, int | float) and math.isfinite(stderr)
            yield TaskRecord(
                task=task,
                metric=name,
                value=float(value) if finite else None,
                stderr=float(stderr) if has_error else None,
                higher_is_better=better.get(metric),
                examples=int(n_samples.get("effective", 0)),
                not_by_example=not_by_example.get((task, name)),
                reason=None if finite else "not a finite number",
            )
