"""Measurements: `python bench COMMAND [OPTIONS]`, on Linux.

peers: CPU time per message beside other servers. chart: the picture of it, and what README says.
check: is the working tree slower than another revision? record: its instructions, kept.
durable: messages per second and CPU time of servers that sync. durable-chart: the picture of it.
durable-sustained: minutes of mail through a spool into a Maildir.
handoff: CPU time of a gateway that hands mail over, beside the engine or another gateway.
workers: several processes against one, and the gap of a reload. scrape: what a look at the metrics
costs.
ladders: memory, cost and latency beside many connections, hostile input, the time of an import.
`python bench COMMAND --help` has the options; bench/README.md says what is measured, and how.
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "peers": "peers.compare",
    "chart": "peers.chart",
    "durable": "durable.compare",
    "durable-chart": "durable.chart",
    "durable-sustained": "durable.sustained",
    "handoff": "handoff.compare",
    "workers": "workers.compare",
    "scrape": "workers.scrape",
    "ladders": "ladders.climb",
    "watched": "ladders.watched",  # a server of the ladders
    "check": "check.main",
    "record": "check.recording",
    "starve": "ladders.starving",  # clients of one
}


def main(arguments: list[str]) -> int:
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        print(f"python bench COMMAND: one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Only the command that is asked for: charts need a library that nothing else does.
    return int(importlib.import_module(COMMANDS[name]).main(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
