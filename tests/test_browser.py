"""The demo as its visitors meet it, in a real browser. `make test-browser` runs these, once for each change."""

from functools import partial
from pathlib import Path

import httpx2
import pytest
from browsers import SCREENS, chromium, expect, opened, overhang
from huggingface_hub.errors import GatedRepoError
from test_hub_models import save_clipseg
from tiny_grounded import save_owlv2, save_sam2

import hf_ris
from hf_ris.systems import BUNDLED_CHECKPOINT, BUNDLED_ZERO_SHOT


pytestmark = pytest.mark.browser
demo = pytest.importorskip("hf_ris.demo")

SCENE = Path(hf_ris.__file__).parent / "assets" / "demo_scene.png"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    offered = {
        "bundled": partial(demo.load, str(BUNDLED_CHECKPOINT)),
        "zero-shot": partial(demo.load, str(BUNDLED_ZERO_SHOT)),
    }
    page = demo.build(demo.Offer(offered, tuple(offered)), folder)
    _, url, _ = demo.serve(page, folder, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture(scope="module")
def photo_address(tmp_path_factory):
    """The page where the Hub answers, with tiny models in place of the published ones, and one behind a gate."""
    folder = tmp_path_factory.mktemp("photos")
    detector, segmenter = save_owlv2(folder / "detector"), save_sam2(folder / "segmenter")

    def meet_a_gate():
        raise GatedRepoError("403", response=httpx2.Response(403, request=httpx2.Request("GET", "http://hub")))

    offered = {
        "photos": partial(demo.load, str(save_clipseg(folder / "clipseg"))),
        "pair": partial(hf_ris.grounded, detector, segmenter, device="cpu"),
        "gated": meet_a_gate,
        "bundled": partial(demo.load, str(BUNDLED_CHECKPOINT)),
    }
    page = demo.build(demo.Offer(offered, ("bundled",)), folder)
    _, url, _ = demo.serve(page, folder, prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, address, request):
    with opened(browser, address, request) as page:
        yield page


@pytest.fixture
def photo_page(browser, photo_address, request):
    with opened(browser, photo_address, request) as page:
        yield page


def upload_scene(page, text):
    page.locator("#image input[type=file]").first.set_input_files(SCENE)
    expect(page.locator("#image img").first).to_be_visible()
    page.locator("#expressions textarea").fill(text)


def ask(page, rows):
    page.locator("#go").click()
    expect(page.locator("#table tbody tr")).to_have_count(rows)
    expect(page.locator("#note")).to_contain_text(f"{rows} of {rows} answered")


def test_three_expressions(page):
    upload_scene(page, "the black teapot in the middle\nthe little pink tree on the right\nthe tree")
    ask(page, 3)
    expect(page.locator("#answer img.mask")).to_have_count(3)
    expect(page.locator("#table")).to_contain_text("the black teapot in the middle")
    expect(page.locator("#note")).to_contain_text("3 of 3 answered")
    with page.expect_download() as download:
        page.get_by_text("Download the masks").click()
    assert download.value.suggested_filename == "masks.zip"


def test_a_higher_threshold_makes_masks_smaller(page):
    upload_scene(page, "the black teapot in the middle")
    ask(page, 1)
    share = page.locator("#table tbody td").nth(3)
    before = share.inner_text()
    slider = page.locator("#threshold input[type=range]")
    slider.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    expect(share).not_to_have_text(before)
    assert float(share.inner_text().strip("%")) < float(before.strip("%"))
    chosen = slider.input_value()
    ask(page, 1)
    assert slider.input_value() == chosen, "what was set by hand stays"


def test_opacity_changes_without_asking_again(page):
    upload_scene(page, "the tree")
    ask(page, 1)
    mask = page.locator("#answer img.mask").first
    before = mask.evaluate("element => getComputedStyle(element).opacity")
    page.locator("#opacity input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(
        "before => getComputedStyle(document.querySelector('#answer img.mask')).opacity !== before", arg=before
    )


def test_another_model_explains_itself(page):
    upload_scene(page, "the black teapot in the middle")
    page.locator("#model input").click()
    page.get_by_role("option", name="zero-shot").click()
    ask(page, 1)
    page.get_by_role("tab", name="Explanation").click()
    expect(page.locator("#explanation img")).to_be_visible()


def test_what_is_wrong_is_said(page):
    page.locator("#go").click()
    expect(page.locator("#note")).to_contain_text("There is no image yet")
    upload_scene(page, "the black teapot in the middle")
    ask(page, 1)
    page.locator("#expressions textarea").fill("\n".join(["the tree"] * 9))
    page.locator("#go").click()
    expect(page.locator("#note")).to_contain_text("9 expressions")
    expect(page.locator("#table tbody tr")).to_have_count(1)  # the last answer stays


def test_by_keyboard_alone(page):
    upload_scene(page, "")
    page.locator("#expressions textarea").focus()
    page.keyboard.type("the black teapot in the middle")
    page.keyboard.press("Shift+Enter")
    expect(page.locator("#table tbody tr")).to_have_count(1)


def test_a_scene_is_drawn(page):
    page.locator("#draw").click()
    expect(page.locator("#image img").first).to_be_visible()
    rows = len(page.locator("#expressions textarea").input_value().splitlines())
    assert rows
    ask(page, rows)


def choose(page, model):
    page.locator("#model input").click()
    page.get_by_role("option", name=model).click()


@pytest.mark.parametrize("photo_page", [*SCREENS, pytest.param({}, id="wide")], indirect=True)
def test_what_a_detector_found_is_drawn(photo_page):
    expect(photo_page.locator("#model input")).to_have_value("photos")
    choose(photo_page, "pair")
    expect(photo_page.locator("#state")).to_contain_text("pair is ready")
    upload_scene(photo_page, "the red mug on the left\na tree")
    ask(photo_page, 2)
    photo_page.get_by_role("tab", name="Explanation").click()
    expect(photo_page.locator("#explanation img")).to_be_visible()
    assert overhang(photo_page) <= 0, "nothing has to be scrolled sideways"


def test_a_gate_is_named_and_other_models_answer(photo_page):
    choose(photo_page, "gated")
    expect(photo_page.locator("#state")).to_contain_text("This model is gated")
    choose(photo_page, "photos")
    upload_scene(photo_page, "the tree")
    ask(photo_page, 1)
    expect(photo_page.locator("#state")).to_contain_text("photos is ready")


def test_a_drawn_scene_is_for_the_bundled_model(photo_page):
    photo_page.locator("#examples tbody tr").first.click()
    expect(photo_page.locator("#model input")).to_have_value("bundled")
    expect(photo_page.locator("#state")).to_contain_text("bundled is ready")


@pytest.mark.parametrize("page", SCREENS, indirect=True)
def test_fits_any_screen(page):
    upload_scene(page, "the black teapot in the middle\nthe little pink tree on the right")
    ask(page, 2)
    assert overhang(page) <= 0, "nothing has to be scrolled sideways"
