"""The ``chatsearch`` command: send jobs to a cluster and follow them; plan a gallery.

The jobs themselves run as ``python -m jobs.NAME`` from the repository root; this command needs that root
too, because it travels to the cluster as the job's working directory.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from chatsearch import __version__
from chatsearch.config import digest
from chatsearch.errors import REFUSED, ChatSearchError, ConfigError, InputError, UnknownNameError
from chatsearch.index.plan import command as plan_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except ChatSearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, REFUSED) else 1
    except KeyboardInterrupt:
        print("Interrupted. A submitted job goes on: run the same command again to follow it.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatsearch", description="Conversational image retrieval on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    send = commands.add_parser(
        "submit", help="run a job on a Ray cluster and follow its log to the end", allow_abbrev=False
    )
    send.add_argument("name", metavar="NAME", help="job name; `chatsearch jobs` lists them")
    send.add_argument("--recipe", help="named configuration of the job")
    send.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY.PATH=VALUE")
    send.add_argument(
        "--address", default="http://127.0.0.1:8265", help="the cluster's dashboard (default %(default)s)"
    )
    send.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="variable for the job; no secrets"
    )
    send.add_argument("--fresh", action="store_true", help="a new run even if the same configuration ran before")
    send.set_defaults(run=_submit)
    plan = commands.add_parser(
        "plan", help="what a gallery is going to take: bytes, machines, hours and cost", allow_abbrev=False
    )
    plan_command.add_arguments(plan)
    plan.set_defaults(run=plan_command.run)
    commands.add_parser("jobs", help="list the jobs").set_defaults(run=_jobs)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    return parser


def repository_root(start: Path | None = None) -> Path:
    """The nearest folder at or above ``start`` that holds ``jobs`` and ``platform/chatsearch``.

    Raises:
        InputError: there is none.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "jobs" / "command.py").is_file() and (folder / "platform" / "chatsearch").is_dir():
            return folder
    raise InputError(f"{start} is not inside a checkout of this project. Change to the repository root first.")


def job_names(root: Path) -> list[str]:
    """Names that ``python -m jobs.NAME`` takes, sorted: every job has recipes under its own name."""
    recipes = root / "jobs" / "recipes"
    return sorted(path.stem for path in (root / "jobs").glob("[!_]*.py") if (recipes / path.name).is_file())


def _submit(arguments: argparse.Namespace) -> int:
    from chatsearch import submit

    root = repository_root()
    if arguments.name not in (names := job_names(root)):
        raise UnknownNameError.among("job", arguments.name, names)
    command = _job(root, arguments.name)
    # Built here as well: a wrong key is known at once, not after the cluster has started a driver.
    recipe, config = command.JOB.configure(arguments.recipe, arguments.settings)
    environment = dict(_variable(text) for text in arguments.env)
    submission_id = f"{arguments.name}-{recipe}-{digest(config.model_dump(mode='json'), environment)}"
    if arguments.fresh:
        submission_id += f"-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
    line = ["--recipe", recipe]
    for setting in arguments.settings:
        line += ["--set", setting]
    client = submit.connect(arguments.address)
    return submit.submit(client, submit.Submission(arguments.name, line, submission_id, root, environment))


def _job(root: Path, name: str) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(f"jobs.{name}")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"Cannot read --env {text!r}. Write it as NAME=VALUE.")
    return name, value


def _jobs(arguments: argparse.Namespace) -> int:
    del arguments
    root = repository_root()
    for name in job_names(root):
        summary = (_job(root, name).__doc__ or "").strip().splitlines()
        print(f"{name:<12} {summary[0] if summary else ''}")
    return 0


def _version(arguments: argparse.Namespace) -> int:
    del arguments
    print(__version__)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
