"""A training run on nodes that come and go, in a process of its own: ``python -m tests.integration.spot_run FOLDER``.

A cluster of several raylets on this machine, a head without CPUs and two nodes with room for one worker each. Rank 0 stops at
a gate, so that nodes are taken and added at known steps however fast the machine is. It writes a line a step to ``steps.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import ray
from chatsearch.testing.ports import LOOPBACK, free_ports
from chatsearch.testing.training import tiny_training
from chatsearch.train import progress
from chatsearch.train.config import TrainConfig
from chatsearch.train.progress import StepReport
from chatsearch.train.run import train
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

EVERY, STEPS = 20, 60
LOST_AT, FOUND_AT = 24, 44
"""Steps at which a node is taken and another one added; the checkpoints before them are those of steps 20 and 40."""
OBJECT_STORE_BYTES = 80 * 1024**2
_PATIENCE_S = 240.0


def configure(folder: Path, name: str, **changes: Any) -> TrainConfig:
    """The run, with which a calm one is compared."""
    return tiny_training(
        folder,
        steps=STEPS,
        checkpoint_every=EVERY,
        keep_checkpoints=9,
        log_every=1,
        output=str(folder / name),
        **changes,
    )


class GatedSink(progress.BoardSink):
    """Reports, writes each step down, and holds rank 0 up at the gate."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def post(self, report: StepReport) -> None:
        """Returns once the gate is open for the next step."""
        line = {"step": report.step, "loss": report.metrics["loss"], "workers": int(os.environ["WORLD_SIZE"])}
        with (self._folder / "steps.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        super().post(report)
        while report.step >= int((self._folder / "gate").read_text()):
            time.sleep(0.1)


def steps(folder: Path) -> list[dict[str, Any]]:
    """What rank 0 of each attempt has written, in order."""
    path = folder / "steps.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def open_gate(folder: Path, step: int) -> None:
    """Up to and with this step."""
    part = folder / "gate.part"
    part.write_text(str(step))
    part.replace(folder / "gate")


def wait_until(what: str, reached: Callable[[], bool]) -> None:
    """Look now and then. Raises TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_S
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


def add_node(cluster: Cluster) -> Any:
    """Room for one worker with its data task."""
    return cluster.add_node(num_cpus=2, node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE_BYTES)


def lose_node(cluster: Cluster) -> None:
    """Take a node with all that runs on it: by themselves its workers would go on for a second or so."""
    node = next(iter(cluster.worker_nodes))
    raylets = [psutil.Process(info.process.pid) for info in node.all_processes[PROCESS_TYPE_RAYLET]]
    workers = [worker for raylet in raylets for worker in raylet.children(recursive=True)]
    cluster.remove_node(node, allow_graceful=False)
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers, timeout=30)


def upset(cluster: Cluster, folder: Path, config: TrainConfig) -> None:
    """Take a node in mid-run, later add one. Whatever happens, the gate is open in the end."""

    def at_gate(step: int) -> bool:
        whole = list(Path(config.output).glob(f"checkpoints/*/step-{step // EVERY * EVERY:08d}-*/manifest.json"))
        done = steps(folder)
        return bool(whole and done and done[-1]["step"] == step)

    def say(what: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {what}", flush=True)

    begin = time.monotonic()
    try:
        wait_until("the first checkpoint", lambda: at_gate(LOST_AT))
        say("a node is lost")
        lose_node(cluster)
        open_gate(folder, FOUND_AT)
        wait_until("steps on one node", lambda: at_gate(FOUND_AT))
        say("a node is added")
        add_node(cluster)
        wait_until("two workers again", lambda: steps(folder)[-1]["workers"] == 2)
        say("two workers again")
    finally:
        open_gate(folder, STEPS + 1)


def main(folder: Path) -> None:
    """The whole run."""
    config = configure(folder, "spot", num_workers=2, min_workers=1, resize_every_s=1.0)
    open_gate(folder, LOST_AT)
    # A short path: Ray puts Unix sockets below it, whose names end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        head = {
            "num_cpus": 0,
            "node_ip_address": LOOPBACK,
            "include_dashboard": False,
            "gcs_server_port": free_ports(1)[0],
            "object_store_memory": OBJECT_STORE_BYTES,
            "temp_dir": scratch,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                add_node(cluster)
            ray.init(address=cluster.address, log_to_driver=False)
            progress.BoardSink = lambda: GatedSink(folder)  # type: ignore[misc,assignment]
            with ThreadPoolExecutor(1) as pool:
                training = pool.submit(train, config)
                upset(
                    cluster, folder, config
                )  # here: a node that starts sets signal handlers, which only a main thread may
                training.result()
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
