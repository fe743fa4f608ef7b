"""Four processes on one port, by hand: each has a server of its own, the kernel shares the clients.

    python examples/four_processes.py [port]

`fastsmtp serve --workers 4` does this with reloads, restarts and one page of metrics. By hand it is
for programs that start processes themselves. It needs SO_REUSEPORT (Linux, BSD, macOS).
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.synchronize import Barrier

from fastsmtp import DataStream, Session, SMTPServer

PROCESSES = 4


async def on_data(stream: DataStream, session: Session) -> str:
    return f"OK: {len(await stream.read())} octets in process {os.getpid()}"


def serve(port: int, ready: Barrier) -> None:
    """One process: at SIGTERM and Ctrl-C `run` lets messages under way finish, and returns."""
    server = SMTPServer(auth_optional=True, on_data=on_data)
    server.on("listening", lambda address: ready.wait(30))
    server.run(port, "127.0.0.1", reuse_port=True)


def main(port: int) -> int:
    """Start the processes, and end all when one has ended or a signal comes."""
    context = multiprocessing.get_context("spawn")  # a process of its own, with nothing inherited
    ready = context.Barrier(PROCESSES + 1)
    with socket.socket() as place:  # it does not listen: it keeps the port for the processes
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", port))
        port = place.getsockname()[1]
        processes = [context.Process(target=serve, args=(port, ready)) for _ in range(PROCESSES)]
        for process in processes:
            process.start()
        is_ending = threading.Event()

        def end(*_: object) -> None:
            if not is_ending.is_set():  # a second signal would cut the messages under way
                is_ending.set()
                for process in processes:
                    process.terminate()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        ready.wait(30)
        print(f"listening on {port}", flush=True)
        wait([process.sentinel for process in processes])
        end()
        for process in processes:
            process.join()
    return 0 if all(process.exitcode == 0 for process in processes) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2525))
