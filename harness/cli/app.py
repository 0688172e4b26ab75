"""Build the command line: `python -m harness` and the console script `ablations`.

Each command is a module that imports its dependencies when it runs, so that `--help` and `status`
start at once and the commands that only read results never load torch.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

import harness
from harness.cli import (
    cancel,
    check,
    checkpoint,
    compare,
    data,
    element,
    export,
    ingest,
    isolation,
    manage,
    node,
    plan,
    report,
    reproduce,
    run,
    sample,
    status,
    streams,
    worker,
)
from harness.cli import list as list_command
from harness.cli.interrupts import end_on_interrupt
from harness.cli.options import VersionOption
from harness.cli.output import example, report_error
from harness.errors import ExitCode, Problem, StoreError, UserError
from harness.launch.open_files import raise_limit
from harness.system_limits import is_without_process, remedy_of
from variants.errors import VariantError, text_of, user_line

SCRIPT = "ablations"

STUDIES = "Studies"
RESULTS = "Results"
MODELS = "Models"


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    The exit code is 0 if all is done, 1 if some run failed, 2 if the study or the command line is
    invalid (nothing was started), 130 if the user stopped it, and 141 if nobody reads its output.
    """
    if argv is not None:
        _run_command(argv)
        return
    streams.prepare()
    end_on_interrupt()
    isolation.allow()
    try:
        isolation.run_to_end(lambda: _run_command(None))
    except Exception:  # a fault of this program
        traceback.print_exc()  # before further output is discarded
        sys.exit(ExitCode.SOME_FAILED)
    finally:
        streams.discard()


def _run_command(argv: Sequence[str] | None) -> None:
    is_script = Path(sys.argv[0]).name == SCRIPT
    app = build_app(completion=is_script)  # shells complete by the command's name
    try:
        try:
            Path.cwd()  # raises if the folder was removed: PyTorch would end the process
            if argv is None:
                raise_limit()
            app(args=argv, prog_name=SCRIPT if is_script else "python -m harness")
        finally:
            sys.stdout.flush()
    except VariantError as error:  # its file has changed meanwhile
        report_error(UserError(Problem("", problem) for problem in error.problems))
        sys.exit(ExitCode.INVALID)
    except (UserError, StoreError, OSError) as error:  # OSError: e.g. a full disk
        report_error(error)  # the files that were written before stay readable
        sys.exit(ExitCode.INVALID)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a variant may raise anything, anywhere
        if is_without_process(error):
            report_error(UserError(f"{error}{remedy_of(error)}"))
            sys.exit(ExitCode.INVALID)
        place = user_line(error)
        if not place:
            raise
        report_error(UserError(f"{place}: raises {type(error).__name__}: {text_of(error)}"))
        sys.exit(ExitCode.INVALID)


def build_app(completion: bool = False) -> typer.Typer:
    """Return the application with all commands; `completion` adds the options that install it."""
    app = typer.Typer(
        help=(harness.__doc__ or "").partition("\n")[0],
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
    )
    app.callback()(common_options)

    def add(name: str, function: Callable[..., None], panel: str, arguments: str) -> None:
        app.command(
            name,
            rich_help_panel=panel,
            epilog=example(f"{name} {arguments}"),
            hidden=name.startswith("_"),
        )(function)

    add("list", list_command.list_entries, STUDIES, "ablations.toml")
    add("run", run.run, STUDIES, "ablations.toml --seeds 0")
    add("check", check.check, STUDIES, "variants/mlp/gelu.py")
    add("status", status.status, STUDIES, "ablations.toml")
    add("cancel", cancel.cancel, STUDIES, "ablations.toml")
    add("plan", plan.plan, STUDIES, "ablations --effect-size 0.01")
    add("report", report.report, RESULTS, "ablations")
    add("ingest", ingest.ingest, RESULTS, "runs.csv --study mine --baseline adamw")
    add("compare", compare.compare, RESULTS, "ablations@1a2b3c4 ablations@5d6e7f8")
    add("reproduce", reproduce.reproduce, RESULTS, "results/ablations again")
    add("export", export.export, RESULTS, "ablations --to parquet")
    add("sample", sample.sample, MODELS, "results/STUDY/RUN_ID/checkpoint/best --prompt ROMEO:")
    app.add_typer(data.build_app(), name="data", rich_help_panel=STUDIES)
    app.add_typer(manage.build_app(), name="results", rich_help_panel=RESULTS)
    app.add_typer(checkpoint.build_app(), name="checkpoint", rich_help_panel=MODELS)
    add("_element", element.element, STUDIES, "results/STUDY/submissions/ID.json")
    add("_worker", worker.worker, STUDIES, "results/STUDY/RUN_ID/spec.json")
    add("_node", node.node, STUDIES, "results/STUDY/RUN_ID --claim 1 --nodes 2 ...")
    return app


def common_options(version: VersionOption = False) -> None:
    """Declare the options that precede a command."""
