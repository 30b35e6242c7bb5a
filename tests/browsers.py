"""A real browser for the tests of pages; `make test-browser` installs it where it is missing."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


sync_api = pytest.importorskip("playwright.sync_api")
SCREENSHOTS = Path(os.environ.get("HF_RIS_SCREENSHOTS", "build/screenshots"))
PATIENCE = 60_000  # milliseconds
expect = sync_api.expect
expect.set_options(timeout=PATIENCE)
SCREENS = [
    pytest.param({"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}, id="phone"),
    pytest.param({"color_scheme": "dark"}, id="dark"),
]


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser that is started with these options."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no chromium; `make test-browser` installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, request: pytest.FixtureRequest, script: str = "") -> Iterator[Any]:
    """A page of the size and in the colours that a test asks for, after a script of its own, with a screenshot at its end."""
    options = getattr(request, "param", {})
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options})
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(script)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    context.close()
    assert errors == []


def overhang(page: Any) -> int:
    """Pixels by which a page is wider than its screen."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
