"""Ask a demo on this machine from several clients at once, and write times and memory into a document.

python scripts/load_test.py docs/hub.md
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from urllib.error import URLError
from urllib.request import urlopen

from gradio_client import Client, handle_file

import hf_ris
from hf_ris.reporting import machine, table, write_section


IMAGE = Path(hf_ris.__file__).parent / "assets" / "demo_scene.png"
TEXT = "the black teapot in the middle\nthe little pink tree on the right"
MODEL = "MagNet tiny: bundled, knows drawings only"
PORT = 7891
WARM_UP = 200  # requests before memory is looked at: allocators and caches fill first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", nargs="?", help="Markdown file with a section named load-test")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="requests before memory is looked at")
    arguments = parser.parse_args()

    command = [sys.executable, "-m", "hf_ris.cli", "demo", "--port", str(PORT)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(server)
        clients = [Client(f"http://127.0.0.1:{PORT}", verbose=False) for _ in range(arguments.clients)]
        ask(clients, arguments.warm_up)
        before = resident(server.pid)
        start = time.perf_counter()
        seconds, failures = ask(clients, arguments.requests)
        elapsed = time.perf_counter() - start
        after = resident(server.pid)
    finally:
        server.terminate()
    rows = [
        [
            str(arguments.clients),
            str(arguments.requests),
            str(failures),
            f"{len(seconds) / elapsed:.1f}",
            f"{median(seconds):.2f} s",
            f"{quantiles(seconds, n=20)[-1]:.2f} s",
            f"{before:.0f} MB",
            f"{after:.0f} MB",
        ]
    ]
    header = ["clients", "requests", "failed", "a second", "median", "p95", "server's memory before", "after"]
    report = f"{table(header, rows)}\n\n" + (
        "Requests of `/segment` with an image of 320 x 320 pixels and two expressions to the bundled model, one after the other from each "
        f"client, clients and server on the same machine; the queue answers one at a time. Measured on {machine()}."
    )
    print(report)
    if arguments.document:
        write_section(arguments.document, "load-test", report)


def wait_for(server: subprocess.Popen, patience: float = 120) -> None:
    for _ in range(round(patience / 0.5)):
        if server.poll() is not None:
            raise RuntimeError("the demo ended at once; run `hf-ris demo` to see why")
        try:
            urlopen(f"http://127.0.0.1:{PORT}/").close()
        except URLError:
            time.sleep(0.5)
        else:
            return
    raise RuntimeError(f"the demo did not answer within {patience:.0f} seconds")


def ask(clients: list[Client], requests: int) -> tuple[list[float], int]:
    """Send requests; gives the seconds that each answered one took, and how many failed."""

    def run(client: Client, number: int) -> tuple[list[float], int]:
        seconds, failures = [], 0
        for _ in range(number):
            start = time.perf_counter()
            try:
                answers = client.predict(handle_file(IMAGE), TEXT, MODEL, 0.5, api_name="/segment")
                if [answer["label"] for answer in answers] != TEXT.split("\n"):
                    raise ValueError(f"answered with {answers}")
            except Exception as error:
                print(f"failed: {error}", file=sys.stderr)
                failures += 1
            else:
                seconds.append(time.perf_counter() - start)
        return seconds, failures

    each, rest = divmod(requests, len(clients))
    with ThreadPoolExecutor(len(clients)) as pool:
        found = list(pool.map(run, clients, [each + (number < rest) for number in range(len(clients))]))
    return [second for seconds, _ in found for second in seconds], sum(failures for _, failures in found)


def resident(process: int) -> float:
    """Read how many megabytes of memory a process holds."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
