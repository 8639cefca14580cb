"""A gallery plan as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from chatsearch.index.plan.figure import Figure
from chatsearch.index.plan.layout import NoLayout
from chatsearch.index.plan.machines import PRICES_DATED
from chatsearch.index.plan.phases import Phase
from chatsearch.index.plan.planner import STORED_GB_MONTH, Choice, GalleryPlan
from chatsearch.index.plan.rates import Rates

_WAYS = {
    "recall": "reaches recall {:g} at most",
    "p95": "takes {:,.1f} ms at best",
    "images": "fits into no machines known",
}


def plan_text(plan: GalleryPlan) -> str:
    """The plan for people."""
    best = plan.best
    sections = {
        "asked": [
            f"{plan.request.images:,} pictures, {plan.request.qps:g} searches/s, p95 {plan.request.p95_ms:g} ms, recall@{plan.request.k} "
            f"{plan.request.recall:g}, {plan.request.dimension} dimensions, at least {plan.request.min_replicas} replicas"
        ],
        "kinds": _kinds(plan),
        "index": [f"{best.kind.name}: {best.kind.settings}", *_layout(best)],
        "bytes": _bytes(plan),
        "phase": _phases(plan),
        "source": _sources(plan),
        "rates": [f"{f.name:<18} {_rate(getattr(plan.rates, f.name))}" for f in fields(Rates)],
    }
    return "\n".join(_section(name, lines) for name, lines in sections.items())


def _section(name: str, lines: Iterable[str]) -> str:
    return "\n".join(f"{name if number == 0 else '':<6} {line}".rstrip() for number, line in enumerate(lines))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _kinds(plan: GalleryPlan) -> list[str]:
    rows = [("", "index", "machines", "p95 ms", "$ a month", "$ to build", f"$ in {plan.request.months:g} months")]
    for choice in plan.choices:
        layout = choice.layout
        rows.append(
            (
                choice.kind.name,
                size(choice.bytes.index.value),
                f"{layout.num_machines} x {layout.machine.name}",
                _banded(choice.p95_ms, "{:,.0f}"),
                _banded(choice.serve_month, "{:,.0f}"),
                _banded(choice.build.dollars, "{:,.0f}"),
                f"{choice.total:,.0f}",
            )
        )
    return [*_table(rows), *(f"{name}: {_way(none)}" for name, none in plan.refused.items())]


def _way(none: NoLayout) -> str:
    return _WAYS.get(none.budget, "{:,.0f} searches/s a replica at most, too few").format(none.best)


def _layout(choice: Choice) -> list[str]:
    layout = choice.layout
    load = f"{layout.num_servers} searches at a time a machine, {1e3 * layout.service_seconds:,.2f} ms each"
    return [
        f"{layout.num_shards} shards of {size(choice.bytes.index.value / layout.num_shards)}, {layout.shards_on_machine} a machine; "
        f"{layout.machines} machines a replica, {layout.replicas} replicas",
        f"{_banded(choice.machines, '{:,.0f}')} machines, {layout.machine.name} of {layout.machine.memory_gib:g} GiB; "
        f"{size(layout.resident_bytes)} held by each; {load}",
    ]


def _bytes(plan: GalleryPlan) -> list[str]:
    held = plan.best.bytes
    rows = [
        (name, _banded(figure, size), figure.source)
        for name, figure in (
            ("features", held.features),
            ("index", held.index),
            ("metadata", held.metadata),
            ("thumbnails", held.thumbnails),
        )
        if figure.value
    ]
    return [*_table(rows), f"{size(held.total)} kept once: ${plan.store_month:,.0f} a month at ${STORED_GB_MONTH} a GB"]


def _phases(plan: GalleryPlan) -> list[str]:
    rows = [("", "machines", "hours", "$")]
    for name, phase in (("embed", plan.embed), ("build", plan.best.build)):
        if phase is None:
            rows.append((name, "no machine known has a GPU, and no model was probed", "", ""))
        else:
            rows.append((name, f"{phase.num_machines} x {phase.machine.name}", *_ended(phase)))
    layout = plan.best.layout
    serve = f"{layout.num_machines} x {layout.machine.name}"
    rows.append(("serve", serve, "730 a month", f"{_banded(plan.best.serve_month, '{:,.0f}')} a month"))
    return [
        *_table(rows),
        f"AWS list prices on demand, us-east-1, as of {PRICES_DATED}, unless --machines names others",
    ]


def _ended(phase: Phase) -> tuple[str, str]:
    return _banded(phase.hours, "{:,.1f}"), _banded(phase.dollars, "{:,.0f}")


def _sources(plan: GalleryPlan) -> list[str]:
    best = plan.best
    lines = [f"machines, serve: {best.kind.source}", f"build: {best.build.hours.source}"]
    if plan.embed is not None:
        lines.append(f"embed: {plan.embed.hours.source}")
    return [*lines, "each is where the widest part of the band comes from; all assumptions are in docs/planner.md"]


def _rate(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{_banded(figure, '{:.3g}'):<28} {figure.source}"


def _banded(figure: Figure, form: Any) -> str:
    show = form if callable(form) else form.format
    if figure.low == figure.high:
        return str(show(figure.value))
    high = "none fits" if math.isinf(figure.high) else show(figure.high)
    return f"{show(figure.value)} ({show(figure.low)} to {high})"


def size(num_bytes: float) -> str:
    """Bytes in the largest binary unit of which there is one."""
    for power, unit in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if num_bytes >= 1024**power:
            return f"{num_bytes / 1024**power:,.1f} {unit}"
    return f"{num_bytes:,.0f} B"


def plan_json(plan: GalleryPlan) -> dict[str, Any]:
    """The plan for programs: every figure with its band and source."""
    return {
        "request": plan.request.model_dump(mode="json"),
        "best": plan.best.kind.name,
        "choices": [_choice_json(choice) for choice in plan.choices],
        "refused": {name: {"budget": none.budget, "best": none.best} for name, none in plan.refused.items()},
        "embed": plan.embed and _phase_json(plan.embed),
        "store_dollars_per_month": plan.store_month,
        "prices_dated": PRICES_DATED,
        "rates": {f.name: (rate := getattr(plan.rates, f.name)) and rate.as_json() for f in fields(Rates)},
    }


def _choice_json(choice: Choice) -> dict[str, Any]:
    layout = choice.layout
    return {
        "kind": choice.kind.name,
        "settings": choice.kind.settings,
        "machine": layout.machine.model_dump(mode="json"),
        "shards": layout.num_shards,
        "shards_on_a_machine": layout.shards_on_machine,
        "machines_a_replica": layout.machines,
        "replicas": layout.replicas,
        "resident_bytes_a_machine": layout.resident_bytes,
        "machines": choice.machines.as_json(),
        "p95_ms": choice.p95_ms.as_json(),
        "serve_dollars_per_month": choice.serve_month.as_json(),
        "build": _phase_json(choice.build),
        "bytes": {f.name: getattr(choice.bytes, f.name).as_json() for f in fields(choice.bytes)},
        "total_dollars": choice.total,
    }


def _phase_json(phase: Phase) -> dict[str, Any]:
    return {
        "machine": phase.machine.name,
        "machines": phase.num_machines,
        "hours": phase.hours.as_json(),
        "dollars": phase.dollars.as_json(),
    }
