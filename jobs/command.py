"""What all job entry points share: read the command line, show the plan, run, say what was made.

A job file builds one :class:`Job` and hands it to :func:`main`. Only light modules are imported before a
job really has work to do, so that a plan, a help text or a finished output costs no time.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from chatsearch.config import Config, apply_overrides, digest, flatten
from chatsearch.errors import REFUSED, ConfigError, UnknownNameError, named_cause
from chatsearch.manifest import is_begun, read_manifest
from chatsearch.storage import Folder, resolve
from chatsearch.tracking.config import RunKey, TrackingConfig
from chatsearch.tracking.tracker import Tracker, open_tracker

from jobs.finished import Finished, Input, find_inputs, finished_artefact

if TYPE_CHECKING:
    from rich.console import Console

C = TypeVar("C", bound=Config)

OUR_PACKAGES = ("chatsearch", "jobs", "serve")
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


@dataclass(frozen=True)
class Made:
    """What a job leaves behind.

    Attributes:
        uri: where it lies.
        counts: how much of what is in it.
        seconds: how long it took; 0 for an output that was finished before.
        run: the MLflow run, or None.
        reused: whether the output was finished before.
        kind: what it is, for the record; read from the manifest where there is one.
        fingerprint: which one it is; likewise.
    """

    uri: str
    counts: Mapping[str, Any]
    seconds: float = 0.0
    run: str | None = None
    reused: bool = False
    kind: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Job(Generic[C]):
    """A job: its recipes and the library function that does the work.

    Attributes:
        name: the module's name below ``jobs``.
        recipes: a module of ``jobs.recipes``: every public function defined there is a recipe.
        default: recipe used when none is named; None asks for one.
        kind: kind of the artefact at ``config.output``, or what tells it by the configuration; None where a job makes none.
        recognise: for a job that makes no artefact but a file: what is finished at ``config.output``, or None.
        work: does the job, tells the tracker what happens, and returns what it made. Imports what is heavy.
        check: for a job of many steps: raises what would stop a later one, before a run is opened.
        complete: for a job whose configuration leaves things to be told from others: the configuration with them.
        forecast: for a job that can tell what its work is going to take: that, as text, for ``--dry-run``.
    """

    name: str
    recipes: ModuleType
    default: str | None
    kind: str | Callable[[C], str] | None
    work: Callable[[C, Tracker], Made]
    recognise: Callable[[C, Sequence[Input]], Finished | None] | None = None
    check: Callable[[C], None] | None = None
    complete: Callable[[C], C] | None = None
    forecast: Callable[[C], str] | None = None

    def recipe_names(self) -> list[str]:
        """Names that ``--recipe`` takes, in the order of the file."""
        return [
            name
            for name, value in vars(self.recipes).items()
            if isinstance(value, FunctionType)
            and not name.startswith("_")
            and value.__module__ == self.recipes.__name__
        ]

    def configure(self, recipe: str | None, settings: Sequence[str]) -> tuple[str, C]:
        """The name of the recipe taken and its configuration with the settings applied.

        Raises:
            UnknownNameError: no such recipe or key.
            ConfigError: no recipe was named, or a value does not fit.
        """
        recipe = recipe or self.default
        if recipe is None:
            raise ConfigError(f"Name a recipe: --recipe {{{','.join(self.recipe_names())}}}.")
        if recipe not in self.recipe_names():
            raise UnknownNameError.among(f"recipe of {self.name}", recipe, self.recipe_names())
        config: C = apply_overrides(getattr(self.recipes, recipe)(), settings)
        return recipe, self.complete(config) if self.complete is not None else config

    def finished(self, config: C, inputs: Sequence[Input]) -> Finished | None:
        """What this configuration would make lies there already, told without importing anything heavy."""
        if self.recognise is not None:
            return self.recognise(config, inputs)
        if self.kind is None:
            return None
        kind = self.kind if isinstance(self.kind, str) else self.kind(config)
        return finished_artefact(kind, config, inputs)

    def help(self, recipe: str | None = None) -> str:
        """The help text: what the job does, its recipes and the keys of the named or the default one.

        Raises:
            UnknownNameError: no such recipe.
        """
        names = self.recipe_names()
        shown = recipe or self.default or names[0]
        if shown not in names:
            raise UnknownNameError.among(f"recipe of {self.name}", shown, names)
        named = "--recipe RECIPE" if self.default is None else "[--recipe RECIPE]"
        lines = [
            f"python -m jobs.{self.name} {named} [--set key.path=value ...] [--dry-run] [--parent RUN] [--no-tracking]",
            "",
        ]
        module = sys.modules.get(f"jobs.{self.name}") or sys.modules["__main__"]
        lines += [(module.__doc__ or "").strip(), "", f"Recipes{' (* where none is named)' if self.default else ''}:"]
        width = max(map(len, names))
        for name in names:
            summary = (getattr(self.recipes, name).__doc__ or "").strip().splitlines()
            mark = "*" if name == self.default else " "
            lines.append(f" {mark} {name:<{width}}  {summary[0] if summary else ''}")
        lines += ["", f"Keys of {shown} (of another recipe: --recipe NAME --help; with their values: --dry-run):"]
        from chatsearch.field_docs import key_summaries

        keys = key_summaries(getattr(self.recipes, shown)())
        width = max(map(len, keys))
        lines += [f"   {key:<{width}}  {said}".rstrip() for key, said in keys.items()]
        return "\n".join(lines)


def main(job: Job[C], argv: Sequence[str] | None = None) -> int:
    """Run a job's command line; returns the exit code: 0, 1 failed, 2 bad input, artefact or configuration, 130 interrupted, 143 terminated."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.{job.name}", add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--recipe")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="key.path=value")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--parent", help="file the MLflow run under the run of this name")
    parser.add_argument("--no-tracking", action="store_true")
    arguments = parser.parse_args(argv)
    with _exit_codes(job) as outcome, _terminable():
        if arguments.help:
            print(job.help(arguments.recipe))
            return 0
        recipe, config = job.configure(arguments.recipe, arguments.settings)
        if arguments.dry_run:
            Plan.of(job, recipe, config).show()
            if job.forecast is not None:
                print(job.forecast(config), flush=True)
            return 0
        tracking = TrackingConfig(parent=arguments.parent, enabled=not arguments.no_tracking)
        plan = Plan.of(job, recipe, config)
        plan.show()
        made = execute(job, plan, tracking)
        print(f"made   {made.uri}")
        print(f"run    {made.run or 'not tracked'}", flush=True)
    return outcome.code


def execute(job: Job[C], plan: Plan[C], tracking: TrackingConfig) -> Made:
    """Do the work of a plan, recorded as a run, unless a finished output of this very configuration lies there."""
    config = plan.config
    if plan.finished is not None:
        return Made(plan.output, plan.finished.counts, reused=True)
    if job.check is not None:
        job.check(config)
    begin = time.monotonic()
    run = RunKey(job=job.name, key=run_key(job.name, config), parent=tracking.parent)
    with open_tracker(tracking, run) as tracker:
        tracker.set_tag("recipe", plan.recipe)
        tracker.log_params(flatten(config))
        for entry in plan.inputs:
            if entry.fingerprint:
                tracker.log_input(entry.key, entry.uri, entry.fingerprint)
        made = job.work(config, tracker)
        manifest = read_manifest(made.uri) if job.kind else None
        if manifest is not None:
            made = replace(made, kind=manifest.kind, fingerprint=manifest.fingerprint)
        if made.fingerprint:
            tracker.log_output(made.kind, made.uri, made.fingerprint)
        seconds = time.monotonic() - begin
        tracker.log_metrics({"seconds": seconds})
    return replace(made, seconds=seconds, run=tracker.address)


def wide_console() -> Console:
    """A console whose tables are whole in a log too, where there is no terminal to be as wide as."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def run_key(job: str, config: Config) -> str:
    """Key of the MLflow run: the same output of the same configuration goes on in the same run after a crash."""
    return f"{job}-{digest(resolve(getattr(config, 'output', '')), config.content())}"


@dataclass(frozen=True)
class Plan(Generic[C]):
    """What a job is about to do."""

    job: str
    recipe: str
    config: C
    inputs: Sequence[Input]
    output: str
    state: str
    finished: Finished | None

    @classmethod
    def of(cls, job: Job[C], recipe: str, config: C) -> Plan[C]:
        """Look at the inputs and the output without importing anything heavy."""
        inputs = find_inputs(config)
        output = str(getattr(config, "output", "") or "")
        output = resolve(output) if output else ""
        finished = job.finished(config, inputs) if output else None
        if finished is not None:
            state = f"finished ({finished.fingerprint}): nothing to do"
        elif not output:
            state = "none"
        elif job.kind is None:
            state = "no finished artefact to go by"
        else:
            state = _unfinished(output, overwrite=getattr(config, "overwrite", False))
        return cls(job.name, recipe, config, inputs, output, state, finished)

    def show(self) -> None:
        """Print it."""
        print(f"plan   {self.job} --recipe {self.recipe}")
        values = flatten(self.config)
        width = max(map(len, values), default=0)
        for key, value in values.items():
            print(f"       {key:<{width}}  {_shown(value)}")
        for entry in self.inputs:
            print(f"input  {entry.key}: {entry.uri} ({entry.state})")
        print(f"output {self.output or '-'} ({self.state})", flush=True)


def _unfinished(output: str, *, overwrite: bool) -> str:
    if read_manifest(output) is not None:
        return "holds another artefact" + (": will be replaced" if overwrite else "")
    if is_begun(output):
        return "begun: will be continued"
    return "holds files that no job has made" if Folder(output).exists() else "new"


def _shown(value: Any) -> str:
    return ", ".join(map(_shown, value)) if isinstance(value, (list, tuple)) else str(value)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, which `ray job stop`, systemd and containers send, end the job by way of its clean-up: its run is then no longer RUNNING.

    Raises:
        SystemExit: in place of dying on the spot. A second signal does that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if told:  # what waits in Ray hands the exit on with a code of Ray's own
            raise SystemExit(EXIT_TERMINATED) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


class _Outcome:
    code = 0


@contextmanager
def _exit_codes(job: Job[Any]) -> Iterator[_Outcome]:
    """Turn errors into one clear message and an exit code; what nobody foresaw keeps its traceback."""
    outcome = _Outcome()
    try:
        yield outcome
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to continue.", file=sys.stderr)
        outcome.code = EXIT_INTERRUPTED
    except SystemExit as ended:
        if ended.code != EXIT_TERMINATED:
            raise
        print("Terminated. Run the same command again to continue.", file=sys.stderr)
        outcome.code = EXIT_TERMINATED
    except Exception as error:
        known = named_cause(error)
        if known is not None:
            print(f"error: {known}", file=sys.stderr)
            outcome.code = EXIT_BAD_INPUT if isinstance(known, REFUSED) else EXIT_FAILED
            return
        outcome.code = EXIT_FAILED
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and missing.partition(".")[0] not in OUR_PACKAGES:
            # On a cluster a job runs under the nodes' own python, which need not be the one that the project is installed in.
            print(
                f"error: {sys.executable} has no module {missing!r}. Install the project into this Python (pip install '.[cpu]', or "
                "'.[gpu]'), or start Ray from the environment that it is installed in.",
                file=sys.stderr,
            )
            return
        traceback.print_exc()
        print(
            f"error: jobs.{job.name} stopped at something nobody foresaw ({type(error).__name__}). What is finished stays; the same "
            "command continues. Please report the traceback above with the plan.",
            file=sys.stderr,
        )
