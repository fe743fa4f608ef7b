"""A power cut for real: a file system in a file, which is copied while the server stands still.

What the copy has is what a disk would have: whatever was synced, and of the rest what the kernel
happened to have written. Mounting it replays the journal, as after a power cut.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# Somebody's `sync` writes to this disk too, and a copy made meanwhile has its front from before and
# its journal from after: no state that a disk was ever in.
COPIES = 100


class Disk:
    """An ext4 file system in `image`, mounted at `path`."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image = image
        self.path = path

    def cut(self, pid: int, image: Path) -> None:
        """Stop process `pid` and copy what the disk has at that moment; then kill the process."""
        os.kill(pid, signal.SIGSTOP)
        for _ in range(COPIES):
            shutil.copyfile(self.image, image)
            filecmp.clear_cache()
            if filecmp.cmp(self.image, image, shallow=False):
                break
        else:
            raise RuntimeError("the kernel wrote to the disk during each copy of it")
        os.kill(pid, signal.SIGKILL)


def make_disk(directory: Path, name: str, megabytes: int = 256) -> Path:
    """Make a file with an empty file system; skip the test where that cannot be."""
    image = directory / f"{name}.img"
    with open(image, "wb") as file:
        file.truncate(megabytes * 1024 * 1024)
    try:
        # A short time between commits of its own would hide a sync that is missing.
        subprocess.run(
            ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be made here: {error}")
    return image


@contextlib.contextmanager
def mounted(image: Path) -> Iterator[Disk]:
    """Mount a file with a file system on a loop device; skip the test where that cannot be."""
    path = image.with_suffix(".mnt")
    path.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-o", "loop,commit=300,nodiscard", str(image), str(path)], capture_output=True
    )
    if done.returncode != 0:
        pytest.skip(f"loop devices cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        path.chmod(0o700)
        yield Disk(image, path)
    finally:
        subprocess.run(["umount", str(path)], check=True)
