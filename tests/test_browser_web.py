"""The page without a server as its visitors meet it: the built files in a real browser that reaches this machine alone."""

import base64
import io
import json
import os
import random
import shutil
from threading import Thread

import numpy as np
import pytest
from browsers import SCREENS, chromium, expect, opened, overhang
from PIL import Image
from transformers import pipeline

from hf_ris import web
from hf_ris.data.refshapes.rows import scene_rows
from hf_ris.systems import BUNDLED_CHECKPOINT
from hf_ris.visualization import COLOURS


pytestmark = pytest.mark.browser

SCENE = web.HERE / "assets" / "demo_scene.png"
FIRST_SCORE = "1.00"  # of what the page asks about it when it opens
TEAPOT, TREE = web.FIRST_SCENE
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "site"
    try:
        web.build_site(folder)
    except OSError as error:
        pytest.skip(f"npm's registry does not answer, and its packages are not in the cache: {error}")
    return folder


@pytest.fixture(scope="module")
def address(site):
    with web.make_server(site, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def ris():
    return pipeline("referring-segmentation", model=str(BUNDLED_CHECKPOINT), device="cpu")


@pytest.fixture(scope="module")
def browser():
    with chromium(OFFLINE, *CAMERA) as browser:
        yield browser


@pytest.fixture
def page(browser, address, request):
    """The page once it has answered about its own scene, and without that answer."""
    with opened(browser, address, request) as page:
        expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)
        page.locator("#clear").click()
        yield page


def ask(page, *texts):
    for text in texts:
        page.locator("#expression").fill(text)
        page.locator("#expression").press("Enter")
    expect(page.locator("#answers .waiting")).to_have_count(0)


def upload(page, image, file_format="PNG", **options):
    content = io.BytesIO()
    image.save(content, file_format, **options)
    choose(page, content.getvalue())


def choose(page, content):
    """Choose a file, and wait until it is shown."""
    before = page.locator("#image").get_attribute("src")
    page.locator("#file").set_input_files({"name": "image", "mimeType": "image/png", "buffer": content})
    expect(page.locator("#image")).not_to_have_attribute("src", before)
    expect(page.locator("#image")).to_have_attribute("alt", "Your image")


def save(page, button):
    with page.expect_download() as download:
        button.click()
    return Image.open(download.value.path())


def mask_of(page, text):
    row = page.locator("#answers li").filter(has_text=text)
    image = save(page, row.get_by_label("Download the mask"))
    mask = np.asarray(image)
    assert image.mode == "L"
    assert set(np.unique(mask)) <= {0, 255}
    return mask > 0


def overlap(mask, other):
    return (mask & other).sum() / max(1, (mask | other).sum())


# What it answers


def test_masks_are_those_of_python(page, ris):
    generator = random.Random(0)
    overlaps, differences = [], []
    for number in range(20):
        rows = scene_rows("refshapes", "val", number)
        row = generator.choice(rows)
        text = generator.choice(row["expressions"])["sent"]
        upload(page, row["image"])
        ask(page, text)
        answer = ris(row["image"], text=text, output_format="array")
        overlaps.append(overlap(mask_of(page, text), answer["mask"]))
        shown = page.locator("#answers .score").inner_text()
        differences.append(abs(float(shown) - answer["score"]))
    assert min(overlaps) >= 0.99
    assert max(differences) <= 0.006, "scores are shown with two digits"


@pytest.mark.parametrize("kind", ["turned", "transparent", "palette", "grey", "large", "narrow"])
def test_images_are_read_as_by_python(page, ris, kind):
    scene, options = Image.open(SCENE), {}
    if kind == "turned":  # as phones write photos
        exif = Image.Exif()
        exif[0x0112] = 6
        scene, options = (
            scene.transpose(Image.Transpose.ROTATE_90),
            {"file_format": "JPEG", "quality": 95, "exif": exif},
        )
    elif kind == "transparent":
        cover = Image.linear_gradient("L").resize(scene.size)
        scene.putalpha(cover)
    elif kind == "palette":
        scene = scene.quantize(64)
    elif kind == "grey":
        scene = scene.convert("L")
    elif kind == "large":
        scene, options = scene.resize((4032, 3024)), {"file_format": "JPEG"}
    else:
        scene = scene.resize((900, 3))
    content = io.BytesIO()
    scene.save(content, options.pop("file_format", "PNG"), **options)
    choose(page, content.getvalue())
    ask(page, "the teapot")
    answer = ris(content.getvalue(), text="the teapot", output_format="array")
    mask = mask_of(page, "the teapot")
    assert mask.shape == answer["mask"].shape
    assert overlap(mask, answer["mask"]) >= 0.99 or not (mask | answer["mask"]).any()


SIZES = [
    (320, 320, 160, 160),
    (1, 9, 160, 160),
    (333, 1, 160, 97),
    (161, 159, 160, 160),
    (13, 4001, 160, 64),
    (90, 60, 480, 31),
]


def test_the_models_input_is_the_processors_bit_for_bit(page, ris):
    generator = np.random.default_rng(0)
    script = """async ([pixels, width, height, newWidth, newHeight, mean, std]) => {
        const { resizeBilinear, pixelValues } = await import("/processing.js");
        const bytes = Uint8ClampedArray.from(atob(pixels), (each) => each.charCodeAt(0));
        const readRows = (top, rows) => bytes.subarray(top * width * 4, (top + rows) * width * 4);
        const resized = resizeBilinear(readRows, [height, width], [newHeight, newWidth]);
        return [[...resized], [...pixelValues(resized, mean, std)]];
    }"""
    image_processor = ris.processor.image_processor
    statistics = [list(image_processor.image_mean), list(image_processor.image_std)]
    for width, height, new_width, new_height in SIZES:
        pixels = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
        encoded = base64.b64encode(pixels.tobytes()).decode()
        resized, values = page.evaluate(script, [encoded, width, height, new_width, new_height, *statistics])
        image = Image.fromarray(pixels[..., :3].copy())
        expected = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
        assert (np.reshape(resized, (new_height, new_width, 3)) == np.asarray(expected)).all()
        size = {"height": new_height, "width": new_width}
        wanted = image_processor(image, size=size, return_tensors="pt").pixel_values[0].numpy()
        assert (np.float32(values).reshape(wanted.shape) == wanted).all()


def test_tokens_are_those_of_python(page, ris):
    texts = [
        each["sent"]
        for number in range(40)
        for row in scene_rows("refshapes", "val", number)
        for each in row["expressions"]
    ]
    texts += [
        "",
        "  The RED  mug!",
        "a café-crème",
        "naïve — “tree”",
        "你好 tree",
        "🦄 unicorn",
        "mug's",
        "x" * 200,
        "the\tmug\u200b\u0301",
    ]
    script = """async (texts) => {
        const { Tokenizer } = await import("/vendor/tokenizers/tokenizers.min.mjs");
        const [tokens, settings] = await Promise.all(
            ["tokenizer", "tokenizer_config"].map(async (name) => (await fetch(`/model/${name}.json`)).json()));
        const tokenizer = new Tokenizer(tokens, settings);
        return texts.map((text) => tokenizer.encode(text).ids);
    }"""
    assert page.evaluate(script, texts) == ris.processor.tokenizer(texts)["input_ids"]


def test_colours_are_those_of_the_package(page):
    ask(page, *["the tree", "the teapot", "the mug"])
    colours = page.locator("#answers li").evaluate_all(
        "rows => rows.map((row) => row.style.getPropertyValue('--colour'))"
    )
    assert colours == [f"rgb({','.join(map(str, colour))})" for colour in COLOURS[:3]]


# What visitors do


@pytest.mark.parametrize("page", [*SCREENS, pytest.param({}, id="wide")], indirect=True)
def test_three_expressions_on_any_screen(page):
    ask(page, TEAPOT, TREE, "the yellow teapot")
    expect(page.locator("#masks canvas")).to_have_count(3)
    expect(page.locator("#status")).to_contain_text("Answered in")
    assert overhang(page) <= 0, "nothing has to be scrolled sideways"


def test_masks_are_hidden_removed_and_downloaded(page):
    ask(page, TEAPOT, TREE)
    image = page.locator("#overlay")
    both = np.asarray(save(page, image).convert("RGB")).astype(int)
    page.locator("#answers .toggle").filter(has_text=TREE).click()
    expect(page.locator("#masks canvas.off")).to_have_count(1)
    one = np.asarray(save(page, image).convert("RGB")).astype(int)
    scene = np.asarray(Image.open(SCENE)).astype(int)
    assert both.shape == one.shape == scene.shape
    assert 0 < np.abs(one - scene).max(-1).astype(bool).sum() < np.abs(both - scene).max(-1).astype(bool).sum()
    page.get_by_label(f"Remove: {TREE}").click()
    expect(page.locator("#answers li")).to_have_count(1)
    expect(page.locator("#suggestions").get_by_text(TREE)).to_be_visible()


def test_by_keyboard_alone(page):
    page.locator("#expression").focus()
    page.keyboard.type("the tr")
    page.keyboard.press("Escape")
    expect(page.locator("#expression")).to_have_value("")
    page.keyboard.type(TEAPOT)
    page.keyboard.press("Enter")
    expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.className")
    assert focused == "toggle", "after the button and the other suggestion"
    assert page.locator(":focus-visible").evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
    page.keyboard.press("Space")
    expect(page.locator("#masks canvas.off")).to_have_count(1)


DELIVER = """async ([type, content]) => {
    const bytes = Uint8Array.from(atob(content), (each) => each.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
    const options = { bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer };
    document.body.dispatchEvent(new (type === "drop" ? DragEvent : ClipboardEvent)(type, options));
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted(page, way):
    page.evaluate(DELIVER, [way, base64.b64encode(SCENE.read_bytes()).decode()])
    expect(page.locator("#image")).to_have_attribute("alt", "Your image")
    ask(page, TEAPOT)
    expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)


def test_several_lines_are_pasted(page):
    page.locator("#expression").evaluate(
        """(field, text) => {
            const transfer = new DataTransfer();
            transfer.setData("text", text);
            field.dispatchEvent(new ClipboardEvent("paste", { bubbles: true, cancelable: true, clipboardData: transfer }));
        }""",
        f"{TEAPOT}\n\n{TREE}\n",
    )
    expect(page.locator("#answers li:not(.waiting)")).to_have_count(2)


def test_a_photo_is_taken(page):
    page.locator("#camera").click()
    expect(page.locator("#shoot")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#video")).to_be_hidden()
    page.locator("#camera").click()
    page.locator("#shoot").click()
    expect(page.locator("#image")).to_have_attribute("alt", "Your image")
    expect(page.locator("#limits")).to_contain_class("urgent")
    ask(page, "the tree")


def test_a_scene_is_chosen(page):
    page.locator("#scenes button").nth(1).click()
    expect(page.locator("#image")).to_have_attribute("alt", "Drawn scene 2")
    page.locator("#suggestions button").first.click()
    expect(page.locator("#answers li:not(.waiting)")).to_have_count(1)


# What goes wrong


def test_what_is_wrong_is_said(page):
    problem = page.locator("#problem")
    for text in ("", "?!"):
        ask(page, text)
        expect(problem).to_have_text("Say in words what to look for.")
    ask(page, "the zebra on the zebra", "the zebra behind a giraffe")
    notes = page.locator("#answers .note")
    expect(notes.nth(0)).to_contain_text("does not know the word “zebra”")
    expect(notes.nth(1)).to_contain_text("does not know the words “zebra” and “giraffe”")
    ask(page, " ".join(["the tree"] * 30))
    expect(notes.nth(2)).to_contain_text("has 62 tokens; the first 32 are read")
    cut_off = SCENE.read_bytes()[:100]
    for content, words in ((b"no image", "This file is no image"), (cut_off, "This image cannot be decoded")):
        page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": content})
        expect(problem).to_contain_text(words)
    expect(page.locator("#answers li")).to_have_count(3)  # answers about the image that is still shown
    wide = io.BytesIO()
    Image.new("1", (30_000, 3_000)).save(wide, "PNG")
    page.locator("#file").set_input_files({"name": "x.png", "mimeType": "image/png", "buffer": wide.getvalue()})
    expect(problem).to_have_text("This image has 30000 x 3000 pixels; at most 89 million can be read.")
    page.locator("#clear").click()
    ask(
        page,
        *(f"the {word} tree" for word in ("red", "blue", "green", "pink", "black", "white", "gray", "big")),
        "the tree",
    )
    expect(problem).to_contain_text("At most 8 expressions")


@pytest.mark.parametrize(
    ("script", "query", "problem", "means"),
    [
        pytest.param("delete Navigator.prototype.gpu", "", "", "WebAssembly", id="no WebGPU"),
        pytest.param("", "?device=webgpu", "", "WebAssembly", id="WebGPU fails"),
        pytest.param("", "?threads=2", "", "WebAssembly, 2 threads)", id="two threads"),
        pytest.param("WebAssembly.validate = () => false", "", "has no SIMD", None, id="no SIMD"),
    ],
)
def test_browsers_that_lack_something(browser, address, request, script, query, problem, means):
    with opened(browser, address + query, request, script) as page:
        if means is None:
            expect(page.locator("#problem")).to_contain_text(problem)
            return
        expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)
        expect(page.locator("#status")).to_contain_text(means)
        expect(page.locator("#notice")).to_have_text(
            "WebGPU fails here; WebAssembly answers instead." if "webgpu" in query else ""
        )


def test_without_a_camera_none_is_offered(browser, address, request):
    with opened(browser, address, request, "MediaDevices.prototype.enumerateDevices = async () => []") as page:
        expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)
        expect(page.locator("#camera")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", None, "model/config.json cannot be fetched: the server answers 404."),
        ("config.json", "{", "model/config.json is damaged."),
        ("config.json", {"model_type": "bert"}, "its type must be onnx_referring_segmentation, got bert."),
        ("config.json", {"preparation": {"fit": "letterbox"}}, "its image's fit must be squash, got letterbox."),
        ("onnx/model.onnx", "no model", "The model cannot be started; it may be damaged:"),
    ],
    ids=["missing", "cut off", "of another kind", "of another system", "no graph"],
)
def test_a_model_that_cannot_be_run(site, browser, request, tmp_path, name, content, problem):
    copy = tmp_path / "site"
    shutil.copytree(site, copy, copy_function=os.link)
    file = copy / "model" / name
    known = json.loads((site / "model" / "config.json").read_text(encoding="utf-8"))
    file.unlink()
    if isinstance(content, dict):
        content = json.dumps({**known, **content})
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with web.make_server(copy, 0) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with opened(browser, f"http://127.0.0.1:{server.server_address[1]}", request) as page:
            expect(page.locator("#problem")).to_contain_text(problem)
        server.shutdown()


def test_nothing_leaves_this_machine(site, browser, request, tmp_path, monkeypatch):
    """Neither the page nor its worker may ask another server, also where the site's own sends no headers, as on the Hub."""
    monkeypatch.setattr(web, "HEADERS", {})
    asked = []
    (tmp_path / "there").write_text("elsewhere", encoding="utf-8")
    with web.make_server(site, 0) as server, web.make_server(tmp_path, 0) as other:
        for each in (server, other):
            Thread(target=each.serve_forever, daemon=True).start()
        there = f"http://127.0.0.1:{other.server_address[1]}/there"
        with opened(browser, f"http://127.0.0.1:{server.server_address[1]}/?threads=2", request) as page:
            page.context.on("request", lambda sent: asked.append(sent.url))
            expect(page.locator("#answers .score")).to_have_text(FIRST_SCORE)
            expect(page.locator("#status")).to_contain_text("WebAssembly, 1 thread)")  # others need the headers
            script = "(there) => fetch(there, { mode: 'no-cors' }).then(() => 'reached', () => 'refused')"
            assert page.evaluate(script, there) == "refused"
            assert [worker.evaluate(script, there) for worker in page.workers] == ["refused"]
        for each in (server, other):
            each.shutdown()
    assert {url.split("/")[2] for url in asked if url.startswith("http") and url != there} <= {
        f"127.0.0.1:{server.server_address[1]}"
    }
