"""The pipeline: every way to call it, what comes back, and what it refuses."""

import io
import itertools
import logging
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
import transformers.utils.hub
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_parts import save_clip
from transformers import CLIPModel, CLIPProcessor, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_ris
from hf_ris.data import decode_mask
from hf_ris.data.refshapes import EXAMPLES
from hf_ris.data.refshapes.rows import ambiguous_rows, scene_rows
from hf_ris.systems import BUNDLED_CHECKPOINT


def array_of(result: dict) -> np.ndarray:
    return np.asarray(result["mask"]) > 0


def assert_same(first, second) -> None:
    """The same results, up to rounding: a pixel on the threshold may fall either way."""
    if isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
        return
    assert first["label"] == second["label"]
    assert first["score"] == pytest.approx(second["score"], abs=1e-4)
    assert array_of(first).shape == array_of(second).shape
    assert (array_of(first) != array_of(second)).mean() < 0.002


def test_one_expression_gives_one_result(ris, images):
    result = ris(images[0], text="the red mug")
    assert list(result) == ["label", "score", "mask", "box"]
    assert result["label"] == "the red mug"
    assert isinstance(result["score"], float) and 0.5 < result["score"] <= 1
    assert result["mask"].mode == "L" and result["mask"].size == images[0].size
    assert set(np.unique(result["mask"])) == {0, 255}
    box = result["box"]

    inside = np.zeros_like(array_of(result))
    inside[box["ymin"] : box["ymax"], box["xmin"] : box["xmax"]] = True
    assert not (array_of(result) & ~inside).any()


def test_a_list_of_expressions_keeps_its_order(ris, images):
    texts = ["the red mug", "a tree", "the red mug", "upper left star"]
    results = ris(images[0], text=texts)
    assert [result["label"] for result in results] == texts
    assert_same(results, [ris(images[0], text=text) for text in texts])
    assert (array_of(results[0]) != array_of(results[1])).any(), "the words must matter, or this test shows nothing"
    assert isinstance(ris(images[0], text=["a tree"]), list)


def test_the_image_may_be_named(ris, images):
    assert_same(ris(image=images[0], text="a tree"), ris(images[0], text="a tree"))
    assert_same(ris(image=images, text="a tree"), ris(images, text="a tree"))


def test_the_image_goes_through_the_model_once(ris, images):
    shapes = []

    def note(module, args, kwargs):
        shapes.append((kwargs["pixel_values"].shape[0], kwargs["input_ids"].shape[0]))

    hook = ris.model.register_forward_pre_hook(note, with_kwargs=True)
    ris(images[0], text=["the red mug", "a tree", "a star"])
    hook.remove()
    assert shapes == [(1, 3)]


def test_batched_equals_one_by_one(ris, images):
    inputs = [
        {"image": images[0], "text": "the red mug"},
        {"image": images[1], "text": ["a tree", "the star", "blue fish"]},
        {"image": images[2], "text": ["a house"]},
    ]
    alone = [ris(item) for item in inputs]
    assert [type(result) for result in alone] == [dict, list, list]
    for batch_size in (2, 3, 8):
        assert_same(ris(inputs, batch_size=batch_size), alone)


def test_inputs_are_grouped_by_their_number_of_expressions(ris, images):
    """Twenty expressions of one image and one of seven others are 27 masks, whatever stands together in a batch."""
    shapes = []
    hook = ris.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append((len(kwargs["pixel_values"]), len(kwargs["input_ids"]))),
        with_kwargs=True,
    )
    inputs = [{"image": images[0], "text": "a tree"} for _ in range(8)]
    inputs[3] = {"image": images[1], "text": ["a tree", "the star"] * 10}
    try:
        together = ris(inputs, batch_size=8)
    finally:
        hook.remove()
    assert shapes == [(7, 7), (1, 20)]
    assert_same(together, [ris(item) for item in inputs])


def test_torchs_random_numbers_are_left_alone(ris, images):
    def ask_in_every_way():
        ris(images[0], text="a tree")
        ris(images, text="a tree", batch_size=2)
        list(ris(({"image": image, "text": "a tree"} for image in images), batch_size=2))
        ris(images, text="a tree", num_workers=1)

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ask_in_every_way()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_streams_are_prepared_in_threads(num_workers, ris, images):
    rows = [{"image": images[number % 3], "text": "a tree"} for number in range(11)]
    rows[4] = {"image": "no image", "text": "a tree"}
    expected = list(ris(iter(rows), batch_size=2, on_error="report"))
    threads = set()

    def read():
        for row in rows:
            threads.add(threading.current_thread())
            yield row

    answers = list(ris(read(), batch_size=2, num_workers=num_workers, on_error="report"))
    assert answers.pop(4) == expected.pop(4) != {}
    assert_same(answers, expected)
    assert len(threads - {threading.main_thread()}) == 1  # transformers looks at the first row itself


def test_threads_end_with_a_stream_that_breaks_or_is_left(ris, images):
    def read():
        yield from ({"image": images[0], "text": "a tree"} for _ in range(5))
        raise OSError("the connection was lost")

    before = threading.active_count()
    with pytest.raises(OSError, match="connection was lost"):
        list(ris(read(), num_workers=2))
    left = ris(({"image": images[0], "text": "a tree"} for _ in itertools.count()), num_workers=2)
    assert next(left)["label"] == "a tree"
    left.close()
    while threading.active_count() > before:  # of a batch that was being prepared
        time.sleep(0.01)


def test_workers_get_no_copy_of_the_model(ris):
    assert not any(isinstance(value, torch.nn.Module) for value in vars(ris.reader).values())


MANY_MASKS = """
import resource
import numpy as np, torch
torch.set_num_threads(1)
from PIL import Image
import hf_ris
from transformers import pipeline

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ris = pipeline("referring-segmentation", device="cpu")
cells = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
small, large = Image.fromarray(cells).resize((300, 300)), Image.fromarray(cells).resize((3000, 3000))
texts = [f"the red mug {number}" for number in range(40)]
ris(small, text=texts, output_format="rle")
before = peak()
assert len(ris(large, text=texts, output_format="rle")) == 40
print(peak() - before)
"""


def test_many_expressions_on_a_large_photo_need_little_memory():
    """Forty masks of nine megapixels would be 360 MB."""
    done = subprocess.run([sys.executable, "-c", MANY_MASKS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, "MB"


def test_every_way_to_hand_in_several_images(ris, images):
    texts = ["the red mug", "a tree", "the star"]
    rows = [{"image": image, "text": text} for image, text in zip(images, texts, strict=True)]
    expected = [ris(image, text=text) for image, text in zip(images, texts, strict=True)]

    assert_same(ris(images, text=texts), expected)
    assert_same(ris(tuple(images), text=tuple(texts)), expected)
    assert_same(ris(rows), expected)
    assert_same(list(ris((row for row in rows), batch_size=2)), expected)
    dataset = datasets.Dataset.from_list(
        rows, features=datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    )
    assert_same(list(ris(dataset, batch_size=2)), expected)
    assert_same(list(ris(dataset.to_iterable_dataset())), expected)
    assert_same(ris(images, text=[[text] for text in texts]), [[result] for result in expected])

    same_text = [ris(image, text="a tree") for image in images]
    assert_same(ris(images, text="a tree"), same_text)
    assert_same(list(ris(KeyDataset(dataset, "image"), text="a tree", batch_size=2)), same_text)
    assert_same(list(ris(iter(images), text="a tree")), same_text)
    assert ris([]) == []


def test_columns_arrays_and_any_sequence(ris, images):
    texts = ["the red mug", "a tree", "the star"]
    rows = [{"image": image, "text": text, "ref_id": 7} for image, text in zip(images, texts, strict=True)]
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"), ref_id=datasets.Value("int64"))
    dataset = datasets.Dataset.from_list(rows, features=features)
    assert not isinstance(dataset["text"], list), "a column is a sequence of its own kind"
    expected = [ris(image, text=text) for image, text in zip(images, texts, strict=True)]

    assert_same(list(ris(dataset["image"], text=dataset["text"], batch_size=2)), expected)
    assert_same(ris(images, text=dataset["text"]), expected)
    assert_same(ris(images, text=np.array(texts)), expected)
    assert_same(list(ris(dataset["image"], text=[[text] for text in texts])), [[result] for result in expected])
    assert_same(ris(images[0], text=dataset["text"]), ris(images[0], text=texts))
    assert_same(ris(images[0], text=np.array(texts)), ris(images[0], text=texts))
    assert_same(ris({"image": images[0], "text": tuple(texts)}), ris(images[0], text=texts))
    assert_same(list(ris(dataset)), expected)
    assert_same(list(ris(dataset.to_iterable_dataset())), expected)
    with pytest.raises(ValueError, match="`text` holds 2 entries for 3 images"):
        ris(dataset["image"], text=dataset["text"][:2])


def test_tables_are_read_by_position(ris, images, tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    table = pd.DataFrame({"image": paths, "text": ["the red mug", "a tree", "the star"], "other": 1}).iloc[::-1]
    expected = [ris(path, text=text) for path, text in zip(table["image"], table["text"], strict=True)]
    assert_same(list(ris(table["image"], text=table["text"])), expected)
    assert_same(list(ris(table["image"], text=list(table["text"]))), expected)
    assert_same(list(ris(table)), expected)


def test_files_that_were_read_and_bytes_of_any_kind(ris, images):
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG")
    expected = ris(images[0], text="a tree")
    for given in (buffer, buffer, memoryview(buffer.getvalue())):  # its end is where the file stands, both times
        assert_same([ris(given, text="a tree")], [expected])


def test_what_cannot_be_read_is_reported_alone(ris, images):
    class Gone:
        def read(self):
            raise OSError("the disk is gone")

    unfit = [Gone(), torch.zeros(4, 4).to_sparse(), torch.zeros(3, 4, 4, device="meta")]
    *errors, answer = ris([*unfit, images[0]], text="a tree", on_error="report")
    assert all("`image`" in error["error"] for error in errors)
    assert "disk is gone" in errors[0]["error"]
    assert_same([answer], [ris(images[0], text="a tree")])


def test_files_urls_and_arrays_of_paths(ris, images, tmp_path):
    paths = [tmp_path / f"scene {number}.png" for number in range(2)]
    for image, path in zip(images, paths, strict=False):
        image.save(path)
    expected = [ris(image, text="a tree") for image in images[:2]]

    with open(paths[0], "rb") as file:
        assert_same(ris(file, text="a tree"), expected[0])
    assert_same(ris(paths[0].as_uri(), text="a tree"), expected[0])
    assert_same(ris(np.array([str(path) for path in paths]), text="a tree"), expected)
    assert_same(ris(bytearray(paths[0].read_bytes()), text="a tree"), expected[0])
    with open(paths[0], encoding="latin1") as file, pytest.raises(ValueError, match="mode 'rb'"):
        ris(file, text="a tree")
    with pytest.raises(ValueError, match="a file of this machine"):
        ris("file://elsewhere/scene.png", text="a tree")


def test_a_stream_may_have_a_length(ris, images):
    class Stream(torch.utils.data.IterableDataset):
        def __len__(self):
            return len(images)

        def __iter__(self):
            return iter(images)

    assert_same(list(ris(Stream(), text="a tree", batch_size=2)), ris(images, text="a tree"))


def test_generators_are_read_as_they_are_needed(ris, images):
    read = []

    def endless():
        while True:
            read.append(1)
            yield {"image": images[0], "text": "a tree"}

    results = ris(endless())
    next(results)
    assert len(read) <= 3


def test_paths_and_exif(ris, images, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    images[0].save(path, exif=exif)
    result = ris(str(path), text="a tree")
    assert result["mask"].size == (60, 80), "the mask belongs to the upright picture"
    assert_same(result, ris(images[0].transpose(Image.Transpose.ROTATE_270), text="a tree"))
    assert_same(result, ris(path, text="a tree"))


def test_output_formats_agree(ris, images):
    as_picture, as_array, as_code = (
        ris(images[0], text="a tree", output_format=name) for name in ("pil", "array", "rle")
    )
    assert as_array["mask"].dtype == np.bool_
    np.testing.assert_array_equal(as_array["mask"], array_of(as_picture))
    np.testing.assert_array_equal(coco_mask.decode(as_code["mask"]).astype(bool), as_array["mask"])
    assert as_picture["box"] == as_array["box"] == as_code["box"]


def test_threshold(ris, images):
    low, middle, high = (ris(images[0], text="a tree", threshold=value) for value in (0.2, 0.5, 0.8))
    assert array_of(low).sum() > array_of(middle).sum() > array_of(high).sum()
    assert_same(middle, ris(images[0], text="a tree"))
    nothing = ris(images[0], text="a tree", threshold=1.0)
    assert not array_of(nothing).any() and nothing["box"] is None and nothing["score"] == 0.0


def test_no_target_threshold_empties_the_mask(ris, images):
    result = ris(images[0], text="a tree")
    kept = ris(images[0], text="a tree", no_target_threshold=result["score"] - 0.01)
    emptied = ris(images[0], text="a tree", no_target_threshold=min(1.0, result["score"] + 0.01))
    assert_same(kept, result)
    assert emptied["box"] is None and not array_of(emptied).any()
    assert emptied["score"] == pytest.approx(result["score"], abs=1e-4), "the score still says why"


def test_options_can_be_set_once(tiny_model, processor, images, ris):
    strict = pipeline(
        "referring-segmentation",
        model=tiny_model,
        processor=processor,
        threshold=0.8,
        output_format="array",
        device="cpu",
    )
    assert_same(strict(images[0], text="a tree"), ris(images[0], text="a tree", threshold=0.8))
    assert_same(strict(images[0], text="a tree", threshold=0.5), ris(images[0], text="a tree"))


def test_saved_pipeline_gives_the_identical_mask(ris, model_folder, images):
    loaded = pipeline("referring-segmentation", model=str(model_folder), device="cpu")
    first, second = (each(images[0], text=["a tree", "the star"], output_format="array") for each in (ris, loaded))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["mask"], other["mask"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-6)


def test_the_pipeline_is_uploaded_whole(ris, tmp_path, monkeypatch):
    uploaded = []

    class Hub:
        def create_repo(self, repo_id, **_):
            return SimpleNamespace(repo_id=repo_id)

        def create_commit(self, operations, **_):
            uploaded.append({operation.path_in_repo for operation in operations})

    monkeypatch.setattr(transformers.utils.hub, "hf_api", Hub)
    with pytest.raises(ValueError, match=r"`push_to_hub` .* the pipeline's `push_to_hub\(repo_id\)`"):
        ris.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="someone/model")
    assert not uploaded and not (tmp_path / "saved").exists()

    ris.push_to_hub("someone/model")
    (files,) = uploaded
    assert files >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"}


def test_a_model_on_the_disk_is_asked_like_any(model_folder, images, ris, tmp_path):
    model = hf_ris.MagNetForReferringSegmentation.from_pretrained(
        model_folder, device_map={"": "disk"}, offload_folder=str(tmp_path)
    )
    asked = pipeline("referring-segmentation", model=model, processor=ris.processor)
    assert_same(asked(images[0], text="a tree"), ris(images[0], text="a tree"))
    assert set(model.hf_device_map.values()) == {"disk"}


def test_half_precision():
    """Of a trained model; where a random one looks may hang on the last bit."""
    example = EXAMPLES[0]
    image, texts = example.draw(), list(example.expressions)
    exact, half = (
        pipeline("referring-segmentation", dtype=dtype, device="cpu") for dtype in (torch.float32, torch.bfloat16)
    )
    inputs = exact.processor(images=[image], text=texts, return_tensors="pt")
    pixels = inputs.pop("pixel_values")
    with torch.no_grad():
        expected, found = (each.model(pixels.to(each.model.dtype), **inputs).logits for each in (exact, half))
    assert (found - expected).std() < 0.1 * expected.std()
    one, other = (array_of(each(image, text=texts[0])) for each in (half, exact))
    assert (one != other).mean() < 0.05


def test_real_photos_keep_their_sizes(ris, real_data):
    photos = sorted(
        (real_data / "refcoco_micro" / "refer" / "images" / "mscoco" / "images" / "train2014").glob("*.jpg")
    )
    assert photos
    results = ris([str(photo) for photo in photos], text="the man on the left", batch_size=4)
    for photo, result in zip(photos, results, strict=True):
        assert result["mask"].size == Image.open(photo).size


@pytest.mark.parametrize(
    "inputs, options, message",
    [
        ("image", {}, "`text` is missing"),
        ({"text": "a tree"}, {}, "`image` is missing"),
        ("image", {"text": "  "}, "`text` must say"),
        ("image", {"text": []}, "empty list"),
        ("image", {"text": ["a tree", None]}, r"`text\[1\]` must be a string"),
        ("image", {"text": 3}, "`text` must be a string"),
        (["image", "image"], {"text": ["a tree"]}, "1 entries for 2 images"),
        ({"image": "image", "text": "a tree"}, {"text": "a mug"}, "given twice"),
        ("no/such/file.png", {"text": "a tree"}, "no/such/file.png"),
        (3, {"text": "a tree"}, "`inputs` must be"),
        (np.zeros((0, 4, 3), np.uint8), {"text": "a tree"}, "no pixel"),
        ("generator", {"text": ["a tree"]}, "`text` must be one string"),
        ("image", {"text": "a tree", "threshold": 35}, "`threshold` must be a number between 0 and 1, got 35"),
        ("image", {"text": "a tree", "threshold": "0.5"}, "`threshold` must be a number between 0 and 1, got '0.5'"),
        ("image", {"text": "a tree", "threshold": True}, "`threshold` must be a number between 0 and 1, got True"),
        ("image", {"text": "a tree", "threshold": float("nan")}, "`threshold` must be a number .*, got nan"),
        ("image", {"text": "a tree", "no_target_threshold": [0.5]}, "`no_target_threshold` must be a number"),
        ("image", {"text": "a tree", "image": "second.png"}, "`image` is another name for `inputs`"),
        (None, {"text": "a tree"}, "`inputs` must be"),
        ("image", {"text": "a tree", "no_target_threshold": -1}, "`no_target_threshold`"),
        ("image", {"text": "a tree", "output_format": "tensor"}, r"`output_format` must be one of \['pil', 'array'"),
        ("image", {"text": "a tree", "output_format": ["pil"]}, "`output_format` must be one of"),
        ("generator", {"text": "a tree", "batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ("generator", {"text": "a tree", "num_workers": 1.5}, "`num_workers` must be a whole number"),
        ("image", {"text": "a tree", "timeout": "a"}, "`timeout` must be a number of seconds"),
        ("image", {"text": "a tree", "timeout": float("inf")}, "`timeout` must be a number of seconds"),
    ],
)
def test_unfit_calls_are_refused(ris, images, inputs, options, message):
    def fill(value):
        if isinstance(value, list):
            return [fill(entry) for entry in value]
        if isinstance(value, dict):
            return {name: fill(entry) for name, entry in value.items()}
        if isinstance(value, str) and value == "generator":
            return (image for image in images)
        return images[0] if isinstance(value, str) and value == "image" else value

    with pytest.raises(ValueError, match=message):
        ris(fill(inputs), **options)


def test_a_misspelt_option_is_refused(ris, images):
    with pytest.raises(TypeError, match="treshold"):
        ris(images[0], text="a tree", treshold=0.3)
    with pytest.raises(TypeError, match=r"'explain' .*zero-shot-referring-segmentation"):
        ris(images[0], text="a tree", explain=True)


def test_a_misspelt_or_foreign_key_is_refused(ris, images):
    for inputs in (
        {"image": images[0], "text": "a tree", "treshold": 0.9},
        [{"image": images[0], "text": "a tree", "treshold": 0.9}],
    ):
        with pytest.raises(ValueError, match=r"'treshold' is no part of an input; allowed are image, text"):
            ris(inputs)
    with pytest.raises(ValueError, match="'treshold'"):
        next(ris(iter([{"image": images[0], "text": "a tree", "treshold": 0.9}])))
    with pytest.raises(ValueError, match=r"'regions' .*zero-shot-referring-segmentation"):
        ris({"image": images[0], "text": "a tree", "regions": np.ones((1, 60, 80), bool)})


def test_a_threshold_can_be_unset(tiny_model, processor, images, ris):
    strict = pipeline(
        "referring-segmentation", model=tiny_model, processor=processor, threshold=0.8, timeout=5, device="cpu"
    )
    assert_same(strict(images[0], text="a tree", threshold=None), ris(images[0], text="a tree"))


def test_a_model_that_cannot_be_asked_is_refused_when_the_pipeline_is_made(tiny_model, processor, tmp_path):
    folder = save_clip(tmp_path)
    clip, clip_processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"CLIPModel with a CLIPProcessor.*such as MagNet"):
        pipeline("referring-segmentation", model=clip, processor=clip_processor, device="cpu")
    with pytest.raises(
        ValueError, match=r"such as MagNet.*of type clip. It can be the `image_text` of `hf_ris.zero_shot`"
    ):
        pipeline("referring-segmentation", model=str(folder))
    with pytest.raises(ValueError, match="MagNetForReferringSegmentation, which does not choose among regions"):
        pipeline("zero-shot-referring-segmentation", model=tiny_model, processor=processor, device="cpu")
    long = hf_ris.MagNetProcessor(processor.image_processor, processor.tokenizer, text_length=100)
    with pytest.raises(
        ValueError, match="`processor` cuts expressions to 100 tokens, and the model has positions for 64"
    ):
        pipeline("referring-segmentation", model=tiny_model, processor=long, device="cpu")


def test_a_model_needs_its_processor(tiny_model):
    with pytest.raises(Exception, match="processor"):
        pipeline("referring-segmentation", model=tiny_model)


def test_unknown_model_folder(tmp_path):
    with pytest.raises((ValueError, OSError), match="nothing-here"):
        pipeline("referring-segmentation", model=str(tmp_path / "nothing-here"))


def test_a_bundled_checkpoint_says_once_what_it_is(model_folder, monkeypatch, caplog):
    notices = {str(model_folder): "knows drawn shapes only"}
    monkeypatch.setattr(hf_ris.ReferringSegmentationPipeline, "model_notices", notices)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            pipeline("referring-segmentation", model=str(model_folder), device="cpu")
    assert sum("knows drawn shapes only" in record.getMessage() for record in caplog.records) == 1
    assert notices == {str(model_folder): "knows drawn shapes only"}


def test_unknown_words_are_named_once(images, caplog):
    ris = pipeline("referring-segmentation", device="cpu")
    texts = ["the blak teapot", "the black teapot", "the blak tree", "the \u732b"]
    with caplog.at_level(logging.WARNING):
        ris(images[0], text=texts)
        ris(images[0], text=texts)
    messages = [record.getMessage() for record in caplog.records if "lacks the word" in record.getMessage()]
    assert [message.split("'")[1] for message in messages] == ["blak", "\u732b"]


def test_warnings_end_and_follow_transformers_verbosity(processor, caplog):
    def warn(start):
        for number in range(start, start + 30):
            processor(text=f"the red mug {number} " * 6)

    processor = hf_ris.MagNetProcessor(processor.image_processor, processor.tokenizer)
    warn(0)
    assert caplog.text.count("only 20 are read") == 20
    assert caplog.text.count("no more warnings of this kind") == 2, "long expressions, and unknown words"
    caplog.clear()
    processor = hf_ris.MagNetProcessor(processor.image_processor, processor.tokenizer)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        warn(0)
    finally:
        transformers.logging.set_verbosity(verbosity)
    assert not caplog.records


def test_default_model_is_the_bundled_one(images):
    ris = pipeline("referring-segmentation", device="cpu")
    assert ris.model.name_or_path == str(BUNDLED_CHECKPOINT)
    assert ris(images[0], text="the red mug")["mask"].size == images[0].size


def test_the_bundled_model_knows_what_it_does_not_know():
    """Where nothing is meant the mask is empty, or the score low; where several things are, their masks are whole and the score low."""
    ris = pipeline("referring-segmentation", device="cpu")
    asked = {
        "one": [row for number in range(10) for row in scene_rows("refshapes", "val", number)],
        "nothing": [
            row for number in range(10) for row in scene_rows("refshapes", "val", number, no_target_share=1.0)
        ],
        "several": [row for number in range(10) for row in ambiguous_rows("refshapes", "val", number)],
    }
    below = {}
    for name, rows in asked.items():
        answers = [ris(row["image"], text=row["expressions"][0]["sent"]) for row in rows]
        below[name] = np.mean([answer["score"] < 0.5 for answer in answers])
        if name != "nothing":
            truths = [decode_mask(row["mask"]) for row in rows]
            masks = [np.asarray(answer["mask"]) > 0 for answer in answers]
            ious = [(a & b).sum() / (a | b).sum() for a, b in zip(masks, truths, strict=True)]
            assert np.mean(ious) > 0.8, name
    assert below["one"] < 0.2 and below["nothing"] > 0.8 and below["several"] > 0.7
