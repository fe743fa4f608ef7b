"""The two revisions of a check: which they are, and their files.

The candidate is the working tree with what is not committed, new files included, and without what
.gitignore names. Both are trees of git, so that one way of exporting them does for both.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from load.measuring import CannotRun

# No part of what is built, so a change there needs no new build.
NOT_BUILT = {
    *("tests", "bench", "docs", "examples", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "SECURITY.md", "wheels.yml"),
}
MAIN = ("origin/main", "main")


class Revision(NamedTuple):
    """A state of the repository."""

    commit: str  # of the working tree the one that it is based on
    tree: str
    title: str  # for those who read the report
    dirty: bool = False  # has changes beside the commit


def git(folder: Path, *arguments: str, **environment: str) -> str:
    """Return what a git command prints. Raises CannotRun with git's own words when it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )
    except FileNotFoundError:
        raise CannotRun("needs git") from None
    if done.returncode != 0:
        raise CannotRun(f"git {arguments[0]}: {done.stderr.strip() or 'failed without a word'}")
    return done.stdout.strip()


def working_tree(folder: Path) -> Revision:
    """Return the files as they are now. Neither the index nor any file is touched."""
    if git(folder, "rev-parse", "--show-prefix"):
        raise CannotRun(f"{folder} is not the top of a checkout of git")
    commit = git(folder, "rev-parse", "HEAD")
    with tempfile.TemporaryDirectory() as scratch:
        index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
        git(folder, "read-tree", "HEAD", **index)
        git(folder, "add", "--all", "--", ":/", **index)
        tree = git(folder, "write-tree", **index)
    dirty = tree != git(folder, "rev-parse", "HEAD^{tree}")
    changes = " and changes that are not committed" if dirty else ""
    return Revision(commit, tree, f"the working tree: {commit[:12]}{changes}", dirty)


def base(folder: Path, asked: str, candidate: Revision) -> Revision:
    """Return the revision to compare with.

    Where none is asked for: the last tag; without a tag the merge base with the main branch. If
    that is the very state of the candidate there is nothing to compare, so it is the commit before.
    """
    if asked:
        return _revision(folder, asked, f"BASE={asked}")
    for name, why in _guesses(folder):
        found = _revision(folder, name, why)
        if found.tree != candidate.tree:
            return found
    raise CannotRun("no tag, no main branch and no commit before this one: say BASE=<revision>")


def _guesses(folder: Path) -> list[tuple[str, str]]:
    found = []
    for start in ("HEAD", "HEAD~1"):
        tag = _or_nothing(folder, "describe", "--tags", "--abbrev=0", start)
        if tag:
            found.append((tag, f"the last tag, {tag}"))
    for branch in MAIN:
        commit = _or_nothing(folder, "merge-base", "HEAD", branch)
        if commit:
            found.append((commit, f"the merge base with {branch}"))
    found.append(("HEAD", "the last commit"))
    if _or_nothing(folder, "rev-parse", "--verify", "--quiet", "HEAD~1"):
        found.append(("HEAD~1", "the commit before the last"))
    return found


def _or_nothing(folder: Path, *arguments: str) -> str:
    try:
        return git(folder, *arguments)
    except CannotRun:
        return ""


def _revision(folder: Path, name: str, why: str) -> Revision:
    commit = _or_nothing(
        folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
    )
    if not commit:
        raise CannotRun(f"{why}: there is no such revision here")
    return Revision(commit, git(folder, "rev-parse", f"{commit}^{{tree}}"), f"{why}: {commit[:12]}")


def built_from(folder: Path, revision: Revision) -> str:
    """Return a digest of all files that a build can depend on."""
    lines = git(folder, "ls-tree", revision.tree).splitlines()
    kept = [line for line in lines if line.partition("\t")[2] not in NOT_BUILT]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def export(folder: Path, revision: Revision, target: Path, *parts: str) -> None:
    """Write the files of a revision into `target`, all of them or those under `parts`."""
    target.mkdir(parents=True, exist_ok=True)
    command = ["git", "-C", str(folder), "archive", "--format=tar", revision.tree, *parts]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise CannotRun(f"git archive: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")
