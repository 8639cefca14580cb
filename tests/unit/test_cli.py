"""The ``chatsearch`` command without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatsearch import __version__, cli
from chatsearch.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "tests")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_jobs_are_listed_with_their_summaries(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["jobs"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["prepare"] == "Turn a corpus into document shards."
    assert not {"command", "finished"} & lines.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submit", "prepair"], "Did you mean 'prepare'"),
        (["submit", "prepare", "--recipe", "tiny_alin"], "Did you mean 'tiny_align'"),
        (["submit", "prepare", "--set", "outptu=x"], "Did you mean 'output'"),
        (["submit", "prepare", "--env", "NAME"], "NAME=VALUE"),
    ],
)
def test_mistakes_are_found_before_the_cluster_is_asked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["submit", "prepare", "--addr=x"], ["plan", "--images=5", "--qp=1", "--qps=1", "--p95-ms=9", "--recall=0.9"]],
)
def test_options_are_spelled_out(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert f"unrecognized arguments: {arguments[2]}" in capsys.readouterr().err


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="repository root"):
        cli.repository_root(tmp_path)
