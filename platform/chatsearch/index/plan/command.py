"""``chatsearch plan``: the command line of the planner. FAISS is imported for ``--probe`` only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pydantic import ValidationError

from chatsearch.errors import ConfigError
from chatsearch.field_docs import field_summaries
from chatsearch.index.plan.machines import CATALOGUE, read_machines
from chatsearch.index.plan.planner import plan_gallery
from chatsearch.index.plan.rates import ASSUMED, read_rates, write_rates
from chatsearch.index.plan.report import plan_json, plan_text
from chatsearch.index.plan.request import PlanRequest

_REQUIRED = ("images", "qps", "p95_ms", "recall")
DEFAULT_RATES = "runs/probe.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options: one for each field of the request, and those of the probe."""
    said = field_summaries(PlanRequest)
    for name, info in PlanRequest.model_fields.items():
        required = name in _REQUIRED
        # Numbers are read as such here and checked by the request, whose messages name field and limit.
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            required=required,
            default=None,
            metavar="NUMBER",
            help=f"{said[name].replace('%', '%%')}{'' if required else f' (default {info.default})'}",
        )
    parser.add_argument("--probe", action="store_true", help="measure this machine first, half a minute; keeps --rates")
    parser.add_argument("--rates", metavar="FILE", help=f"rates that a probe kept (--probe writes {DEFAULT_RATES})")
    parser.add_argument("--model", metavar="URI", help="with --probe: a bundle whose vision encoder is timed too")
    parser.add_argument("--machines", metavar="FILE", help="JSON list of machine types instead of the catalogue")
    parser.add_argument("--json", metavar="FILE", help="write the plan here too")


def run(arguments: argparse.Namespace) -> int:
    """Plan, and print it.

    Raises:
        ConfigError: a number is out of its range, or no index keeps the budgets.
    """
    request = _request(arguments)
    machines = read_machines(arguments.machines) if arguments.machines else CATALOGUE
    if arguments.model and not arguments.probe:
        raise ConfigError(f"--model {arguments.model} is for timing its encoder. Add --probe, or leave it out.")
    rates = ASSUMED
    if arguments.probe:
        from chatsearch.index.plan.probe import probe

        rates, facts = probe(request, model=arguments.model)
        path = arguments.rates or DEFAULT_RATES
        write_rates(path, rates, facts)
        print(f"probe  kept in {path}: give it again with --rates {path}")
    elif arguments.rates:
        rates = read_rates(arguments.rates)
    plan = plan_gallery(request, rates, machines)
    print(plan_text(plan), flush=True)
    if arguments.json:
        Path(arguments.json).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments.json).write_text(json.dumps(plan_json(plan), indent=1) + "\n")
    return 0


def _request(arguments: argparse.Namespace) -> PlanRequest:
    given = {name: value for name in PlanRequest.model_fields if (value := getattr(arguments, name)) is not None}
    # 5e9 is how people write it; a whole number is what it must be.
    whole = {name: int(value) if value.is_integer() else value for name, value in given.items()}
    try:
        return PlanRequest(**whole)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise ConfigError(f"Cannot plan with --{name.replace('_', '-')} {given[name]:g}: {problem['msg']}.") from error
