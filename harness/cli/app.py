"""The command line, thin: what only reads imports no torch, and what the user can put right ends with exit code 2."""

import argparse
import io
import json
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import ExitCode, UserError
from harness.results.files import StoreError
from harness.results.records import LaunchRecord, RunState
from harness.results.store import Run, Store


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 all done, 1 some entry failed, 2 nothing was started, 130 stopped by the user."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(_one_flag_each(arguments))
    try:
        code: int = args.command(args)
    except UserError as error:
        count = len(error.problems)
        print(
            f"error: {count} problems" if count > 1 else "error:",
            *error.problems,
            sep="\n  ",
            file=sys.stderr,
        )
        code = ExitCode.INVALID
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.INVALID
    except (
        OSError
    ) as error:  # a full disk, a folder that may not be written: what was written stays readable
        print(f"error: {error}", file=sys.stderr)
        code = ExitCode.INVALID
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness", description=__import__("harness").__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: object, text: str, study: bool = False
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        if study:
            sub.add_argument("study", type=Path, metavar="STUDY.toml")
            sub.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="SECTION.KEY=VALUE",
                help="change a setting",
            )
            sub.add_argument("--seeds", type=_seeds, metavar="0,1", help="instead of the study's")
            sub.add_argument(
                "--where",
                action="append",
                default=[],
                metavar="AXIS=NAME",
                help="only these entries",
            )
        return sub

    def results(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "--results",
            type=Path,
            default=Path("results"),
            metavar="DIR",
            help="default: %(default)s",
        )

    sub = command(
        "list",
        list_entries,
        "show the entries: parameters, FLOPs per token, estimated memory",
        study=True,
    )
    sub.add_argument("--json", action="store_true", help="all runs, for programs")
    sub = command("run", run, "train every entry that is not done yet", study=True)
    results(sub)
    sub.add_argument("--dry-run", action="store_true", help="say what would run, and start nothing")
    sub.add_argument("--fail-fast", action="store_true", help="stop at the first entry that fails")
    sub.add_argument(
        "--retry-failed", action="store_true", help="run those that failed, and only those"
    )
    sub.add_argument(
        "--trace",
        action="store_true",
        help="keep a Chrome trace of one step of each rank beside the results",
    )
    sub = command("status", status, "show what is done, running, failed and pending, and why")
    sub.add_argument(
        "study", nargs="?", metavar="STUDY", help="a study file or the name of a study"
    )
    results(sub)
    sub = command("report", report, "turn the results into tables and curves")
    sub.add_argument(
        "study",
        nargs="*",
        metavar="STUDY",
        help="study files or names, default: all that have results; two are compared, and may also be folders of "
        "results or NAME@COMMIT",
    )
    results(sub)
    sub.add_argument(
        "--out", type=Path, default=Path("reports"), metavar="DIR", help="default: %(default)s"
    )
    sub.add_argument(
        "--watch",
        type=int,
        nargs="?",
        const=10,
        metavar="SECONDS",
        help="write it again while the study runs, whenever something has changed; default: every %(const)s s",
    )
    sub = command("export", export, "give the results to other tools")
    sub.add_argument(
        "study", metavar="STUDY", help="a study file or the name of a study that has results"
    )
    results(sub)
    sub.add_argument(
        "--to", required=True, choices=("csv", "latex", "parquet", "tensorboard", "wandb", "mlflow")
    )
    sub.add_argument(
        "--out", type=Path, default=Path("exports"), metavar="DIR", help="default: %(default)s"
    )
    sub = command(
        "plan",
        plan,
        "how many seeds find a difference, and what they cost, from the results at hand",
    )
    sub.add_argument(
        "study", metavar="STUDY", help="a study file or the name of a study that has results"
    )
    results(sub)
    sub.add_argument(
        "--detect",
        type=float,
        required=True,
        metavar="NATS",
        help="the difference in validation loss",
    )
    sub.add_argument(
        "--fraction", type=int, metavar="N", help="also N entries that tell all main effects apart"
    )
    sub = command(
        "worker",
        worker,
        "be one rank of a run; for a torchrun command: torchrun ... -m harness worker SPEC",
    )
    sub.add_argument("spec", type=Path, metavar="SPEC", help="a run's spec.json")
    sub = command("checkpoint", show_checkpoint, "import, export and show weights of GPT-2")
    actions = sub.add_subparsers(required=True, metavar="ACTION")
    for name, function, places, text in (
        (
            "import",
            import_checkpoint,
            ("source", "dest"),
            "read a published GPT-2: a folder, a file, or a hub name",
        ),
        ("export", export_checkpoint, ("source", "dest"), "write what transformers loads"),
        (
            "show",
            show_checkpoint,
            ("source",),
            "print shape, parameters, hash, and where each tensor came from",
        ),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(command=function)
        for place in places:
            action.add_argument(place, metavar=place.upper())
    _sample_options(
        command("sample", sample, "continue a prompt with a trained model; the text goes to stdout")
    )
    return parser


def _sample_options(sub: argparse.ArgumentParser) -> None:
    from harness.data.tokenizers import NAMES

    places = "a folder of weights: results/STUDY/RUN_ID/checkpoint/newest or .../best, or what `import` has written"
    sub.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=places)
    for flag, kind, default, metavar, text in (
        (
            "--length",
            int,
            200,
            "N",
            "new tokens for each sample, fewer where the text or the context ends",
        ),
        (
            "--samples",
            int,
            1,
            "N",
            "so many continuations, all at once; sample i is the same however many there are",
        ),
        (
            "--temperature",
            float,
            1.0,
            "T",
            "divides the logits before the draw; 0 takes the likeliest token each time",
        ),
        ("--top-k", int, None, "K", "draw from the K likeliest tokens alone; default: from all"),
        (
            "--top-p",
            float,
            1.0,
            "P",
            "then from the likeliest that together have probability P; 1 is all",
        ),
        ("--seed", int, 0, "S", "the same seed draws the same text"),
        ("--tokenizer", str, None, "NAME", f"instead of the checkpoint's own: {', '.join(NAMES)}"),
    ):
        about = text if default is None else f"{text}; default: %(default)s"
        sub.add_argument(flag, type=kind, default=default, metavar=metavar, help=about)
    sub.add_argument(
        "--prompt",
        required=True,
        metavar="TEXT",
        help='what to continue; "" begins a text of its own',
    )
    sub.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU if there is one",
    )
    sub.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="also the cache's; default: fp32",
    )


def _one_flag_each(arguments: Sequence[str]) -> list[str]:
    """Write `--where a=b c=d` as `--where a=b --where c=d`."""
    result: list[str] = []
    flag = None
    for argument in arguments:
        if argument in ("--where", "--set"):
            flag = argument
        elif flag is not None and "=" in argument and not argument.startswith("-"):
            if result[-1] != flag:
                result.append(flag)
        else:
            flag = None
        result.append(argument)
    return result


def _seeds(text: str) -> list[int]:
    return [int(seed) for seed in text.split(",")]


def list_entries(args: argparse.Namespace) -> int:
    """Print the entries, or with --json every run."""
    from harness import config as study

    found = study.load(args.study, args.set, args.seeds, args.where)
    if found.note:
        print(found.note, file=sys.stderr)
    if args.json:
        entries = [
            {
                "run_id": spec.run_id,
                "entry": spec.entry,
                "seed": spec.seed,
                "data_seed": spec.order_seed,
            }
            | {"world_size": spec.launch.world_size}
            | {axis: choice.label for axis, choice in spec.axes.items()}
            | spec.expected.model_dump()
            for spec in found.runs
        ]
        excluded = [{"entry": entry, "reason": reason} for entry, reason in found.excluded]
        print(json.dumps({"study": found.name, "entries": entries, "excluded": excluded}, indent=1))
        return ExitCode.DONE
    from tabulate import tabulate

    first = {spec.entry: spec for spec in reversed(found.runs)}
    seeds: dict[str, list[str]] = {}
    for spec in found.runs:
        seeds.setdefault(spec.entry, []).append(spec.seed_name)
    rows = [
        (
            entry,
            " ".join(numbers) if len(numbers) <= 5 else f"{len(numbers)} runs",
            first[entry].launch.world_size,
            f"{first[entry].expected.parameters:,}",
            f"{first[entry].expected.flops_per_token:,.0f}",
            "unknown"
            if (memory := first[entry].expected.memory_bytes) is None
            else f"{memory / 2**20:,.1f}",
        )
        for entry, numbers in seeds.items()
    ]
    headers = ("entry", "seeds", "ranks", "parameters", "FLOPs/token", "MiB/rank, estimated")
    print(
        tabulate(
            rows,
            headers,
            colalign=("left", "left", "right", "right", "right", "right"),
            disable_numparse=True,
        )
    )
    print(f"\n{len(rows)} entries, {len(found.runs)} runs")
    for entry, reason in found.excluded:
        print(f"excluded: {entry}: {reason}")
    return ExitCode.DONE


def run(args: argparse.Namespace) -> int:
    """Train what is due."""
    began = time.monotonic()
    from harness.launch import elastic as local
    from harness.launch import scheduler as queue
    from harness.launch.progress import duration

    if not args.dry_run:
        local.start_fork_server()
    from harness import config as study

    found = study.load(args.study, args.set, args.seeds, args.where)
    store = Store(args.results)
    if found.note:
        print(found.note, file=sys.stderr)
    due = queue.due(store, found.runs, args.retry_failed)
    todo = queue.randomize_within_seed(
        [spec.traced() for spec in due.todo] if args.trace else due.todo
    )
    print(
        f"{found.name}: {len(found.runs)} runs, {len(due.done)} done, {len(todo)} to do",
        file=sys.stderr,
    )
    if args.dry_run:
        print(*(spec.run_id for spec in todo), sep="\n")
        return ExitCode.DONE
    for spec in due.running:
        print(f"{spec.run_id}: running in another process, waited for at the end", file=sys.stderr)
    if due.failed:
        print(
            f"{len(due.failed)} failed earlier and are left so; --retry-failed runs them again",
            file=sys.stderr,
        )
    command = (
        shlex.join(["python", "-m", "harness", *sys.argv[1:]]).encode(errors="replace").decode()
    )
    store.prune_pending(found.name, keep=found.all_run_ids)
    for spec in todo:
        store.run(found.name, spec.run_id).create(spec)
    store.record_launch(
        found.name,
        LaunchRecord(
            command=command,
            settings_hash=found.settings_hash,
            note=found.note,
            equivalence_margin=found.equivalence_margin,
            order=[spec.run_id for spec in todo],
        ),
    )
    if todo or due.running:
        try:
            queue.run_all(store, [*todo, *due.running], local.start, args.fail_fast)
        except local.STOPPED:
            print("stopped; the same command goes on from here", file=sys.stderr)
            return ExitCode.INTERRUPTED
    n_done = len(queue.due(store, found.runs).done)
    print(f"{n_done} of {len(found.runs)} done", file=sys.stderr)
    if todo:
        wall_s = time.monotonic() - began
        busy_s = sum(_busy_s(store.run(found.name, spec.run_id)) for spec in todo)
        print(
            f"{duration(wall_s)}, {busy_s / wall_s:.0%} of it training and evaluating",
            file=sys.stderr,
        )
    return ExitCode.DONE if n_done == len(found.runs) else ExitCode.SOME_FAILED


def _busy_s(run: Run) -> float:
    probes = run.probes
    return probes.time.train_s + probes.time.eval_s if probes and probes.time else 0.0


def status(args: argparse.Namespace) -> int:
    """Print counts for each study, and a line for each run that is not simply done or pending."""
    store = Store(args.results)
    studies = [_study_name(args.study)] if args.study else store.studies()
    if not any(store.runs(name) for name in studies):
        raise UserError(
            f"no results of {args.study or 'any study'} in {args.results}; {_first_run(args.study)}"
        )
    for name in studies:
        found = [(one, _state(one)) for one in store.runs(name)]
        counts = Counter(state.status for _, state in found)
        print(
            f"{name}: {len(found)} runs: "
            + ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        )
        for one, state in found:
            if state.status in ("done", "pending"):
                continue
            last = one.last_step()
            step = f" at step {last.step + 1}" if last else ""
            why = f" ({state.reason}: {state.message})" if state.reason else ""
            print(f"  {one.run_id}: {state.status}{step}{why}")
    return ExitCode.DONE


@dataclass(frozen=True)
class RunOutcome:
    """The state of a run, or why it is unreadable."""

    status: RunState | Literal["unreadable"]
    reason: str | None
    message: str | None


def _state(one: Run) -> RunOutcome:
    try:
        status = one.status
    except StoreError as error:
        return RunOutcome("unreadable", "error", str(error))
    return RunOutcome(status.status, status.reason, status.message)


def report(args: argparse.Namespace) -> int:
    """Write the report of each study, or of two their comparison, and print where it is."""
    store = Store(args.results)
    if len(args.study) == 2:
        if args.watch is not None:
            raise UserError("--watch follows studies while they run; two are compared once")
        from harness.report import compare as versus

        first, second = versus.read(args.study[0], args.study[1], store, _study_name)
        print(versus.write(first, second, args.out) / "report.md")
        return ExitCode.DONE
    studies = [_study_name(text) for text in args.study] or store.studies()
    if not studies:
        raise UserError(f"no results in {args.results}; {_first_run(None)}")
    if args.watch is not None:
        return _watch(store, studies, args.out, args.watch)
    from harness.report import write

    for name in studies:
        print(write(store, name, args.out) / "report.md")
    return ExitCode.DONE


def _watch(store: Store, studies: Sequence[str], out: Path, every_s: int) -> int:
    """Write the reports again whenever something has changed, until no run is pending or running any more."""
    if every_s < 1:
        raise UserError(f"--watch {every_s}: must be 1 second or more")
    from harness.report import write

    seen: dict[str, float] = {}
    while True:
        began = time.monotonic()
        open_runs = 0
        for name in studies:
            changed, statuses = (
                store.last_change(name),
                [_state(one).status for one in store.runs(name)],
            )
            left = sum(status in ("pending", "running") for status in statuses)
            open_runs += left
            if seen.get(name) != changed:
                seen[name] = changed
                folder = write(store, name, out, every_s if left else None)
                at, done = time.strftime("%H:%M:%S"), statuses.count("done")
                print(
                    f"{at} {name}: {done} of {len(statuses)} runs done: {folder / 'index.html'}",
                    file=sys.stderr,
                )
        if not open_runs:
            break
        time.sleep(max(every_s, time.monotonic() - began))
    print(*(out / name / "report.md" for name in studies), sep="\n")
    return ExitCode.DONE


def export(args: argparse.Namespace) -> int:
    """Write what other tools read, and print where it is and how to open it."""
    from harness.analysis import dataset as accounting
    from harness.export import export as write

    study = accounting.read(Store(args.results), _study_name(args.study))
    folder, then = write(study, args.to, args.out)
    for what, n in (
        ("runs of other settings", study.left_out),
        ("runs that newer ones replace", study.superseded),
        ("folders that cannot be read", len(study.unreadable)),
        ("runs that have recorded nothing", sum(not len(run.steps) for run in study.runs)),
    ):
        if n:
            print(f"left out: {n:,} {what}", file=sys.stderr)
    print(folder)
    if then:
        print(then)
    return ExitCode.DONE


def plan(args: argparse.Namespace) -> int:
    """Print what finding a difference takes."""
    from harness.analysis import dataset as accounting
    from harness.analysis import power as planning
    from harness.analysis.significance import MAX_SEEDS
    from harness.launch.progress import duration

    if not args.detect > 0:
        raise UserError(f"--detect {args.detect:g}: must be above 0, in nats per token")
    study = accounting.read(Store(args.results), _study_name(args.study))
    found = planning.plan_seeds(study, args.detect)
    if found is None:
        raise UserError(
            f"{study.name}: no entry shares two seeds with its baseline, so nothing tells of the noise; run a pilot: "
            f"python -m harness run {args.study} --seeds 0,1,2"
        )
    numbers = (found.seeds, found.seeds_low, found.seeds_high)
    seeds, low, high = (f"more than {MAX_SEEDS:,}" if n is None else f"{n:,}" for n in numbers)
    print(
        f"noise: paired differences have a standard deviation of {found.noise:.4g} nats "
        f"({found.degrees_of_freedom} degrees of freedom, {found.n_compared} comparisons)",
        f"at hand: {found.seeds_done} seeds, which find {found.minimum_detectable_effect:.4g} nats with 80 % power",
        f"needed: {seeds} seeds find {found.min_difference:g} nats with 80 % power "
        f"({low} to {high}, as the noise is itself uncertain)",
        f"cost: {duration(found.hours_per_seed * 3600)} for each seed of all entries"
        + (
            ""
            if found.hours is None
            else f", {duration(found.hours * 3600)} for the seeds still missing"
        ),
        sep="\n",
    )
    if args.fraction is not None:
        try:
            chosen = planning.fractional_design(study.levels, study.baseline, args.fraction)
        except ValueError as error:
            raise UserError(f"--fraction {error}") from error
        print(f"{args.fraction} entries that tell all main effects apart, interactions left out:")
        print(*("-".join(cell.values()) for cell in chosen), sep="\n")
    return ExitCode.DONE


def _first_run(study: str | None) -> str:
    return f"first run: python -m harness run {study if study and study.endswith('.toml') else 'ablations.toml'}"


def _study_name(text: str) -> str:
    """Return the name of a study that is given by its file or by its name."""
    if not text.endswith(".toml"):
        return text
    import tomllib

    try:
        name = tomllib.loads(Path(text).read_text(encoding="utf-8"))["study"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{text}: cannot read study.name: {error}") from error
    return str(name)


def worker(args: argparse.Namespace) -> int:
    """Be one rank, under torchrun."""
    from harness.training.main import run_worker

    run_worker(args.spec.parent, claim=True)
    return ExitCode.DONE


def import_checkpoint(args: argparse.Namespace) -> int:
    """Read a published checkpoint into a folder of our own."""
    from harness.model.weights import import_gpt2

    weights = import_gpt2(args.source, Path(args.dest))
    print(f"{args.dest}: {weights.parameters:,} parameters, SHA-256 {weights.sha256}")
    return ExitCode.DONE


def export_checkpoint(args: argparse.Namespace) -> int:
    """Write a folder of our own in the published layout."""
    from harness.model.weights import export_gpt2

    export_gpt2(Path(args.source), Path(args.dest))
    print(args.dest)
    return ExitCode.DONE


def show_checkpoint(args: argparse.Namespace) -> int:
    """Describe a folder of our own."""
    from dataclasses import asdict

    from tabulate import tabulate

    from harness.model.weights import load_weights

    weights = load_weights(Path(args.source))
    print(" ".join(f"{key}={value}" for key, value in asdict(weights.shape).items()))
    print(" ".join(f"{axis}={choice.label}" for axis, choice in weights.axes.items()))
    print(f"{weights.parameters:,} parameters, SHA-256 {weights.sha256}\n")
    rows = [
        (
            name,
            "x".join(map(str, tensor.shape)),
            str(tensor.dtype).removeprefix("torch."),
            weights.origin.get(name, ""),
        )
        for name, tensor in weights.tensors.items()
    ]
    print(tabulate(rows, ("tensor", "shape", "type", "origin")))
    return ExitCode.DONE


def sample(args: argparse.Namespace) -> int:
    """Continue a prompt; a reader that has enough, as `head` has, ends it quietly."""
    from harness.sampling.generate import GenerationRequest, generate

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="replace"
        )  # a model says what a terminal's encoding may have no place for
    try:
        generate(
            GenerationRequest(
                **{name: value for name, value in vars(args).items() if name != "command"}
            ),
            _write,
        )
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what Python flushes when it exits
    return ExitCode.DONE


def _write(text: str) -> None:
    print(text, end="", flush=True)
