"""Measure the page without a server in chromium, and write the table into a document; or save what it looks like.

python scripts/benchmark_web.py docs/browser.md
python scripts/benchmark_web.py --screenshot docs/images/browser.jpg
"""

import argparse
import re
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

from playwright.sync_api import sync_playwright

from hf_ris.data.refshapes.rows import scene_rows
from hf_ris.reporting import machine, table, write_section
from hf_ris.web import FIRST_SCENE, build_site, make_server


LOADS = 5
FURTHER = 20  # answers after the first
THREADS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document", nargs="?", help="Markdown file with the sections browser-speed and browser-size")
    parser.add_argument("--screenshot", help="image file to write instead")
    arguments = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as parent, sync_playwright() as playwright:
        site = Path(parent) / "site"
        build_site(site)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        with make_server(site, 0) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            if arguments.screenshot:
                save_screenshot(browser, address, arguments.screenshot)
                return
            reports = {"browser-speed": report_speed(browser, address), "browser-size": report_size(site)}
            server.shutdown()
    for name, report in reports.items():
        print(report)
        if arguments.document:
            write_section(arguments.document, name, report)


def save_screenshot(browser: Any, address: str, path: str) -> None:
    page = browser.new_page(viewport={"width": 1240, "height": 800})
    page.goto(address)
    ask(page, FIRST_SCENE[1])
    ask(page, "the yellow teapot")
    page.locator("h1").hover()  # away from the answers
    page.mouse.click(2, 2)
    page.wait_for_timeout(500)  # the masks appear slowly
    page.screenshot(path=path, type="jpeg", quality=85)


def ask(page: Any, text: str) -> float:
    """Ask the page, wait for its answer, and give the seconds that it took by its own clock."""
    page.locator("#status:has-text('Answered')").wait_for()  # the one before
    page.locator("#status").evaluate("status => { status.textContent = ''; }")
    page.locator("#expression").fill(text)
    page.locator("#expression").press("Enter")
    return read_seconds(page)


def read_seconds(page: Any) -> float:
    status = page.locator("#status:has-text('Answered')")
    status.wait_for()
    return float(re.search(r"[\d.]+", status.inner_text())[0])


def report_speed(browser: Any, address: str) -> str:
    texts = [
        row["expressions"][0]["sent"]
        for number in range(FURTHER)
        for row in scene_rows("refshapes", "val", number)[:1]
    ]
    rows = []
    for threads in THREADS:
        loads, firsts, further = [], [], []
        for _ in range(LOADS):
            page = browser.new_context().new_page()  # with an empty cache
            start = time.perf_counter()
            page.goto(f"{address}/?threads={threads}&device=wasm")
            firsts.append(read_seconds(page))
            loads.append(time.perf_counter() - start - firsts[-1])
            for text in dict.fromkeys(texts):
                page.locator("#clear").click()
                further.append(ask(page, text))
            page.context.close()
        rows.append([str(threads), *(f"{median(each):.2f} s" for each in (loads, firsts, further))])
    header = ["threads", "from opening the page to a ready model", "first answer", "further answer"]
    how = (
        f"Chromium {browser.version}, WebAssembly, served from the same machine; the bundled model, a scene of 320 x 320 pixels, median of {LOADS} "
        f"loads with an empty cache and {FURTHER} further answers each. Measured on {machine()}."
    )
    return f"{table(header, rows)}\n\n{how}"


def report_size(site: Path) -> str:
    parts = ["*", "model/**/*", "vendor/onnxruntime-web/*", "vendor/tokenizers/*", "scenes/*"]
    rows = []
    for part in parts:
        sizes = [path.stat().st_size for path in site.glob(part) if path.is_file()]
        rows.append([part.partition("*")[0] or "the page's own", str(len(sizes)), f"{sum(sizes) / 1e6:.2f} MB"])
    return table(["folder", "files", "size"], rows)


if __name__ == "__main__":
    main()
