"""Write results/README.md, reports/README.md and docs/gpu.md from records and columns.

`python docs/formats.py` writes them (`make docs`); a test fails if they are out of step.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from harness.analysis.table_columns import COLUMNS
from harness.results import records
from harness.results.files import read_json
from harness.results.frames import (
    EVAL_COLUMNS,
    EXAMPLE_COLUMNS,
    KEY_COLUMNS,
    RUN_COLUMNS,
    STEP_COLUMNS,
    Column,
)
from harness.results.records.gpu import GpuFigures
from harness.results.records.study_comparison import StudyComparison

ROOT = Path(__file__).parent.parent

FILES: Mapping[str, type[BaseModel]] = {
    "spec.json": records.RunSpec,
    "imported.json": records.ImportedRun,
    "status.json": records.RunStatus,
    "env.json": records.Environment,
    "steps.rank<k>.jsonl": records.StepRecord,
    "eval.jsonl": records.EvalRecord,
    "probes.json": records.ProbeResults,
    "examples.json": records.ExampleScores,
    "checkpoint/step-<n>/checkpoint.json": records.CheckpointInfo,
    "checkpoint/step-<n>/state/checksums.json": records.StateChecksums,
    "launches.jsonl": records.LaunchRecord,
    "tuning.json": records.TuningRecord,
    "submissions/<id>.json": records.Submission,
    "archive/code/<code_hash>.json": records.CodeManifest,
    "gpu/<name>.json": GpuFigures,
}

RESULTS = """# results/

<!-- Written by `make docs` from the records in harness/results/records/. -->

`python -m harness run` writes this folder. Only `harness/results/{store,run,run_files}.py` read and
write it. It is not under version control. In Python, `harness.load()` returns it as DataFrames.

    results/gpu/<name>.json              the figures of a GPU that `make gpu-bench` measured
    results/<study>/launches.jsonl       a line per call of `run` or `ingest`
    results/<study>/tuning.json          what each entry tried and chose, if the study tunes
    results/<study>/.claims/<run_id>/    `<n>.json`: the process that holds the run, by claim number
    results/<study>/.outdated/           runs that were trained again because their code changed
    results/<study>/submissions/         a record of each array job, and the output of its elements
    results/<study>/.code/<hash>/        the code that submitted runs use
    results/<study>/archive/code/        a JSON file per code hash: the files of code of its runs
    results/<study>/archive/files/       those files, study files and lists of packages, by SHA-256
    results/<study>/<run_id>/            run id: labels of the axes, seed, hash of the spec
      spec.json                          settings of the run, every default filled in
      imported.json                      replaces all other files but status.json in a run of
                                         another trainer: the values of its table
      status.json                        pending, running, done, failed or interrupted, and why
      env.json                           machine, software and commit
      steps.rank<k>.jsonl                a line per step and rank
      eval.jsonl                         a line per evaluation
      probes.json                        all other measurements of a run that is done
      examples.json                      metrics of tasks of lm-eval by example, if it evaluates any
      log.txt                            output of the ranks of rank 0's host
      log.<host>.txt                     output of the ranks of another host
      trace.rank<k>.json.gz              a Chrome trace of one step, after `run --trace`
      checkpoint/                        newest and best checkpoint, as far as the study keeps them

JSON files are replaced atomically (temporary file, flush, rename). `.jsonl` files grow by whole
lines; a torn line, which a crash leaves, is ignored: it is the last one, or ends with `#torn`.
Numbers are raw, in base units, never rounded. A number that is not finite is `null`.

`schema_version` is {version}. Files of versions 1 and 2 are read as well.

## Resuming

An interrupted run resumes from its newest undamaged checkpoint with training state, to the same
bits as without the interruption; its curves are truncated to that step. Without such a checkpoint
it starts at step 0. `run` resumes interrupted runs and those that failed as `lost` (a process of
the run or a host disappeared), and with `--retry-failed` also runs that failed as `oom`, `timeout`
or `killed`. Runs that failed as `nan` or `error` start at step 0. A running run whose process has
ended reads as interrupted, one of another host after 60 s without a heartbeat.

## Code

A run's spec records the hash of its code: of the syntax trees, without docstrings, comments and
formatting, of its variants and their helpers, the model, the training and the data. If the code
changes, a run that has ended is outdated. `run` moves it to `.outdated/<run_id>-<code_hash>/` and
trains it again, an interrupted one from step 0. With `--accept-outdated` it keeps finished runs,
and the report marks them. Runs of files of versions 1 and 2 have no code hash and are never
outdated. The versions of installed packages are archived, but are not part of the hash.

## Damaged files

A damaged file is named and costs its run only: the others are trained, and `run` ends with exit
code 1. That is also so for a run that has ended whose spec.json is not the one that its id stands
for, and for a run that is done whose steps, evaluations or examples are not those that it wrote. A
run that has results, but no status.json or one that says `pending`, moves to `.outdated/`. Links
are followed to read, never to write or to remove files, except for a link in place of `results/` or
of a study's folder.

## checkpoint/

`step-<n>/` holds the state after n steps. `newest` and `best` (lowest validation loss) are links;
folders without a link are removed. `model.safetensors` holds all weights, unsharded, under the
model's names. `state/`, written by `torch.distributed.checkpoint`, holds each rank's shard of
parameters and optimizer state, and `checksums.json` the CRC-32 of each file, and of the curves up
to that step: a run does not resume from the state of another run. The state can be read under any
parallelism. It is removed when the run is done, unless the study keeps full checkpoints.
Folders are written under a temporary name, flushed and renamed, so that a crash at any moment
leaves an undamaged checkpoint.

"""

REPORTS = """# reports/

<!-- Written by `make docs` from the columns in harness/analysis/table_columns.py. -->

`python -m harness report` writes this folder from `results/`, without torch. It is not under
version control.

    reports/<study>/report.md            the report, for a pull request or a terminal
    reports/<study>/index.html           the same as an interactive page, one file without network
    reports/<study>/details/<entry>.html the runs of a candidate: curves, log, specification
    reports/<study>/summary.json         the same for programs
    reports/<study>/tables/*.csv         every table, unrounded
    reports/<study>/figures/*.png,*.svg  every figure

A report covers the runs of one settings hash (the same model, data and training): that of the
newest launch, or of the newest started run if no launch is recorded. Runs that are left out are
counted. Only runs that are done contribute numbers. A missing value is `null` in JSON and empty in
CSV. A value X with a 95 % interval has the columns `X`, `X_low` and `X_high`.

`harness.load("results", study)` returns every table as a DataFrame with these columns.

## figures/

Every chart of the page as PNG and SVG, of at most 40 entries (the baselines and the lowest losses).
A variant has the same colour in all of them.

- `val_loss`: validation loss, and the difference from the baseline with its band; `train_loss`: the
  training loss. One curve for each candidate, against steps or tokens; the page has them against
  time.
- `contexts`: throughput, memory and communication of each parallelism or size side by side;
  `phases_by_context`: the baseline's step time in each.
- `differences` from the baseline (in each context, or of more entries than `answer` has),
  `differences_tokens_per_s`, `effects_val_loss`, `effects_tokens_per_s`,
  `effects_peak_memory`.
- `throughput`, `memory` (with the prediction), `throughput_loss` (with the Pareto front).
- If measured: `phases` (step time), `traffic` (bytes sent, with the prediction), `scaling` (with
  the ideal and the physical cores), `decode_time`, `decode_cache`, `length_loss`, `position_loss`.
  The last four show entries that differ only in the parallelism once, for the baseline's.

## compare A B

`python -m harness compare A B` writes `reports/<A>-vs-<B>/report.md`, `index.html`, `summary.json`
and `figures/`: B against A, entries matched by their labels, runs by their seeds. An axis that one
study lacks counts as the other's baseline. The verdicts use the margins of B. The charts are
`answer` (differences in loss, with the ratios of the costs), `curves`, `tokens_per_s` and
`peak_memory`. What differs is listed side by side: settings, archived code by file and lines,
installed packages, machines.

## Exports

`python -m harness export STUDY --to TOOL` writes `exports/<study>/<tool>/` from the runs of the
report that have recorded a step. An export replaces the earlier one of that tool. No data leaves
the machine. All tools but csv and latex need `pip install 'ablations[TOOL]'`.

- `csv`, `parquet`: the tables `runs`, `steps` and `evals` below. `runs` has further columns for
  each setting and each option of a variant: `model.n_embd`, `train.lr`, `attention.n_kv_head`.
- `latex`: the tables of the report as booktabs tables for `\\input{}`, rounded.
- `tensorboard`, `wandb`, `mlflow`: a run for each run, named by its id, with the curves
  `train/loss`, `train/grad_norm`, `train/lr`, `train/step_s`, `val/loss` and `val/bits_per_byte` by
  steps done, the settings as parameters, and the results as its summary. `wandb` runs are offline,
  for `wandb sync`; `mlflow` writes one SQLite file. `[log]` in a study file writes the same while
  runs train; see docs/studies.md.

"""


def results_readme() -> str:
    """Return the content of results/README.md."""
    text = RESULTS.replace("{version}", str(records.SCHEMA_VERSION))
    return text + "\n".join(_record_section(name, record) for name, record in FILES.items())


def reports_readme() -> str:
    """Return the content of reports/README.md."""
    recorded = {
        "runs": [*KEY_COLUMNS, *RUN_COLUMNS],
        "steps": [*KEY_COLUMNS, *STEP_COLUMNS],
        "evals": [*KEY_COLUMNS, *EVAL_COLUMNS],
        "examples": [*KEY_COLUMNS, *EXAMPLE_COLUMNS],
    }
    parts = [REPORTS + _record_section("summary.json", records.StudySummary)]
    parts.append(_record_section("<A>-vs-<B>/summary.json", StudyComparison))
    parts += [_table_section(f"tables/{name}.csv", columns) for name, columns in COLUMNS.items()]
    parts.append("## DataFrames and exports\n\nAfter `entry` there is a column per axis.\n")
    parts += [_table_section(name, columns) for name, columns in recorded.items()]
    return "\n".join(parts)


GPU = """# GPU

<!-- Written by `make docs` from results/gpu/. -->

    make gpu                    run the tests that need a GPU
    make gpu-bench NAME=h100    measure the figures below into results/gpu/h100.json

Each is meant for at most four minutes on one H100. `make docs` then writes this page. A figure is
the median of 12 rounds with its 95 % interval; both sides of a ratio alternate.

On a GPU, `sample`, the tasks of lm-eval and the decode probe use a CUDA graph: one launch for all
kernels of a token, instead of some 170. They do so for at least 64 tokens after the prompt and up
to 256 MiB of KV cache in a layer, since a graph reads the whole cache; both limits are estimates.
A variant whose step cannot be captured decodes without, with a warning.

"""
NO_FIGURES = """No figures have been measured yet, and no test that needs a GPU has run on one.
On a CPU, the tests cover the choice of the kernels, the masks, compiled layers and the code that
measures. They also record a step of decoding with each variant and repeat it: it must give the same
logits at each position, contain no position of the host and never wait for the device. No graph has
been captured on a GPU.
"""


def gpu_page(folder: Path = ROOT / "results/gpu") -> str:
    """Return the content of docs/gpu.md: a table for each file of figures."""
    parts = []
    for file in sorted(folder.glob("*.json")):
        record = GpuFigures.model_validate(read_json(file))
        software = f"PyTorch {record.torch_version}, CUDA {record.cuda_version}"
        origin = f"{software}, commit {record.commit}, {record.measured_at[:10]}"
        rows = []
        for figure in record.figures:
            low, high = figure.interval
            value = f"{figure.value:,.4g} {figure.unit} [{low:,.4g}, {high:,.4g}]"
            target = "" if figure.target is None else f"{figure.target:,.4g}"
            rows.append((figure.figure, value, figure.compared_with or "", target))
        titles = ("figure", "value", "compared with", "target")
        parts.append(f"## {record.device}\n\n{origin}\n\n" + _markdown(titles, rows))
    return GPU + ("\n".join(parts) or NO_FIGURES)


def _record_section(name: str, record: type[BaseModel]) -> str:
    title = name.replace("<", "&lt;").replace(">", "&gt;")
    sections = [f"## {title}\n\n{_record_text(record)}"]
    for nested in _nested(record):
        sections.append(f"### {nested.__name__}\n\n{_record_text(nested)}")
    return "\n".join(sections)


def _record_text(record: type[BaseModel]) -> str:
    doc = "\n".join(line.strip() for line in (record.__doc__ or "").splitlines()).strip()
    rows = [
        (f"`{name}`", _type_name(field.annotation), field.description or "")
        for name, field in record.model_fields.items()
    ]
    return f"{doc}\n\n" + _markdown(("field", "type", "meaning"), rows)


def _table_section(name: str, columns: Sequence[Column]) -> str:
    rows = [(f"`{column.name}`", column.meaning) for column in columns]
    return f"### {name}\n\n" + _markdown(("column", "meaning"), rows)


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _nested(record: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the records that the fields of a record hold, each once, in their order."""
    seen: dict[type[BaseModel], None] = {}
    pending = [record]
    while pending:
        for field in pending.pop(0).model_fields.values():
            for nested in _records_in(field.annotation):
                if nested not in seen:
                    seen[nested] = None
                    pending.append(nested)
    yield from seen


def _records_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _records_in(argument)


def _type_name(annotation: object) -> str:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _type_name(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if origin is tuple and arguments[0] is object:
        return "pair of values"
    if origin is dict:
        is_open = arguments[1] in (object, Any)
        return "object" if is_open else f"object of {_type_name(arguments[1])}"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}
    if isinstance(annotation, type):
        return names.get(annotation, annotation.__name__)
    return "any"


def main() -> None:
    """Write all files."""
    (ROOT / "results/README.md").write_text(results_readme(), encoding="utf-8")
    (ROOT / "reports/README.md").write_text(reports_readme(), encoding="utf-8")
    (ROOT / "docs/gpu.md").write_text(gpu_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
