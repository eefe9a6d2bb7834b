"""Measures how fast a served run answers, and whether its memory stays flat.

    python scripts/benchmark_serve.py --workdir runs/fusion --images data/Dataset_BUSI_with_GT
    python scripts/benchmark_serve.py --workdir runs/fusion --images images --requests 1000

Serves the run with the command in a process of its own and asks both endpoints, with each number of
clients, about the PNG files of a folder in turn. A client asks again as soon as it is answered.
Printed are the requests a second, the median and the 95th percentile of the seconds until an answer
is here, and the memory of the server before and after (resident, MiB). Clients and server share the
processors. docs/serving.md has a table.
"""

import argparse
import concurrent.futures
import http.client
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_WARM_UP = 20


class Server:
    """The command, ready to answer."""

    def __init__(self, workdir: Path):
        """Starts it, and waits until it is ready; its log goes where this process's goes."""
        command = [sys.executable, "-m", "jaxbusi.serve", "--workdir", str(workdir)]
        command += ["--port", "0", "--rate", "1000000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # open http://127.0.0.1:PORT/ …
        if not line.startswith("open http"):
            raise RuntimeError(f"the server did not start; it ended with {self.process.wait()}")
        self.port = int(line.split(":")[2].split("/")[0])

    def mib(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def ask(self, endpoint: str, image: bytes) -> float:
        """Sends an image on a connection of its own; the seconds until the answer is here."""
        begun = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", f"/api/{endpoint}", image)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        return time.perf_counter() - begun


def measure(
    server: Server, endpoint: str, images: Sequence[bytes], clients: int, requests: int
) -> tuple[float, np.ndarray]:
    """Seconds that all requests took by the clock, and float64[requests] of each."""
    chosen = list(itertools.islice(itertools.cycle(images), requests))
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        begun = time.perf_counter()
        seconds = list(pool.map(lambda image: server.ask(endpoint, image), chosen))
        return time.perf_counter() - begun, np.array(seconds)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workdir", type=Path, required=True, help="the run")
    parser.add_argument("--images", type=Path, required=True, help="a folder of PNG files")
    parser.add_argument("--requests", type=int, default=200, help="of each line of the table")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 20])
    options = parser.parse_args()
    paths = [path for path in sorted(options.images.rglob("*.png")) if "_mask" not in path.name]
    images = [path.read_bytes() for path in paths]
    if not images:
        parser.error(f"{options.images} holds no PNG files")
    server = Server(options.workdir)
    try:
        for endpoint in ("classify", "explain"):
            measure(server, endpoint, images, max(options.clients), _WARM_UP)
        print("endpoint   clients   requests/s   median s   95 % s   MiB before   after")
        for endpoint, clients in itertools.product(("classify", "explain"), options.clients):
            before = server.mib()
            clock, seconds = measure(server, endpoint, images, clients, options.requests)
            middle, late = np.percentile(seconds, (50, 95))
            print(
                f"{endpoint:10s} {clients:7d} {options.requests / clock:12.1f} {middle:10.2f} "
                f"{late:8.2f} {before:12.0f} {server.mib():7.0f}",
                flush=True,
            )
    finally:
        server.process.terminate()
        server.process.wait()


if __name__ == "__main__":
    main()
