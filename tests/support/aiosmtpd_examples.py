"""Runs the examples of a page of aiosmtpd's documentation on our package; prints those that fail.

`python -m aiosmtpd_examples PAGE`, with `AIOSMTPD_SOURCE` as aiosmtpd_alias wants it.
"""

from __future__ import annotations

import doctest
import sys

import aiosmtpd_alias

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def main(page: str) -> None:
    path = aiosmtpd_alias.SOURCE / "aiosmtpd" / "docs" / page
    text = path.read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, page, str(path), 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    sys.exit(runner.run(examples).failed)


if __name__ == "__main__":
    main(sys.argv[1])
