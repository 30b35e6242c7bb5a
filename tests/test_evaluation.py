"""Evaluation measures what was asked, and a document's sections are replaced, not piled up."""

import itertools

import numpy as np
import pytest
from PIL import Image

from hf_ris.data import RefShapesStream
from hf_ris.data.collator import decode_mask
from hf_ris.evaluation import evaluate_pipeline
from hf_ris.reporting import table, write_section


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(itertools.islice(RefShapesStream(split="val"), 6))


def answering(masks_by_text):
    """A pipeline that knows the answers."""

    def ris(inputs, batch_size, output_format):
        for item in inputs:
            assert isinstance(item["image"], Image.Image)
            yield [{"mask": masks_by_text[text]} for text in item["text"]]

    return ris


def test_right_answers_score_one_and_shuffled_ones_do_not(rows):
    answers = {expression["sent"]: decode_mask(row["mask"]) for row in rows for expression in row["expressions"]}
    metrics = evaluate_pipeline(answering(answers), rows)

    assert metrics["mIoU"] == metrics["oIoU"] == metrics["P@0.9"] == 1.0
    assert metrics["expressions"] == sum(len(row["expressions"]) for row in rows)
    assert evaluate_pipeline(answering(answers), rows, shuffle_expressions=True)["mIoU"] < 0.3


def test_empty_answers_score_zero(rows):
    nothing = dict.fromkeys((e["sent"] for row in rows for e in row["expressions"]), np.zeros((320, 320), dtype=bool))

    assert evaluate_pipeline(answering(nothing), rows)["mIoU"] == 0.0


def test_a_real_pipeline_runs(ris, rows):
    assert 0.0 <= evaluate_pipeline(ris, rows, batch_size=4)["mIoU"] <= 1.0


def test_nothing_to_evaluate_is_named(ris):
    with pytest.raises(ValueError, match="rows"):
        evaluate_pipeline(ris, [])


def test_too_few_pictures_to_shuffle_are_named(ris, rows):
    with pytest.raises(ValueError, match="2 rows"):
        evaluate_pipeline(ris, rows[:2], shuffle_expressions=True)


def test_a_section_is_replaced(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- figures -->\nold\n<!-- /figures -->\nafter\n")
    for _ in range(2):
        write_section(document, "figures", table(["a", "b"], [["1", "2"]]))

    assert document.read_text() == (
        "before\n<!-- figures -->\n| a | b |\n| --- | --- |\n| 1 | 2 |\n<!-- /figures -->\nafter\n"
    )
    with pytest.raises(ValueError, match="other"):
        write_section(document, "other", "text")
