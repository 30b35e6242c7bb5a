"""Measures the zero-shot systems, and writes the tables into a document.

python scripts/report_zero_shot.py rectifier docs/zero_shot.md                       # on cases made by hand, both modes
python scripts/report_zero_shot.py photos docs/zero_shot.md --data FOLDER            # on real photos with a detector's regions
python scripts/report_zero_shot.py refshapes docs/zero_shot.md --model FOLDER        # each term of the scores, on unseen drawn scenes
python scripts/report_zero_shot.py guidance docs/zero_shot.md --model FOLDER         # Global-Local with and without spatial guidance
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_ris import GlobalLocalConfig, GlobalLocalForReferringSegmentation, TASForReferringSegmentation
from hf_ris.data.refshapes import NAMES, draw_scene
from hf_ris.data.refshapes.rows import scene_targets
from hf_ris.modeling.as_published import centre_of, rectify_as_published
from hf_ris.modeling.language_expression import Expression
from hf_ris.modeling.language_lexicon import COMMON_PLACES, words
from hf_ris.modeling.language_parsing import Chunk, Parse, Word, parse_by_rules
from hf_ris.modeling.modeling_tas import rescale
from hf_ris.modeling.tas_rectifier import Layout, rectify
from hf_ris.modeling.without_torch import rle_to_mask
from hf_ris.referring_segmentation_iou import summarize
from hf_ris.reporting import machine, table, write_section


# An expression with one of these speaks of a place, or seems to.
PLACE_WORDS = COMMON_PLACES | words("far nearest closest behind background foreground side first second third")
CASES = Path(__file__).parents[1] / "tests" / "spatial_cases.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["rectifier", "photos", "refshapes", "guidance"])
    parser.add_argument("documents", nargs="*", help="Markdown files with sections of these names")
    parser.add_argument("--data", type=Path, help="folder with rows.jsonl, spacy_parses.jsonl and proposals")
    parser.add_argument("--model", help="folder or Hub id of a TAS; with refshapes and guidance")
    parser.add_argument("--scenes", type=int, default=150, help="with refshapes and guidance: of each variant")
    parser.add_argument("--split", default="val", help="with refshapes and guidance")
    arguments = parser.parse_args()
    if arguments.what == "rectifier":
        report = report_rectifier()
    elif arguments.what == "photos":
        if arguments.data is None:
            parser.error("photos needs --data")
        report = report_photos(arguments.data)
    else:
        if arguments.model is None:
            parser.error(f"{arguments.what} needs --model")
        make_report = report_refshapes if arguments.what == "refshapes" else report_guidance
        report = make_report(arguments.model, arguments.split, arguments.scenes)
    print(report)
    for document in arguments.documents:
        write_section(document, arguments.what, report)


def pick_as_published(expression: Expression, masks: np.ndarray, fits: np.ndarray) -> int:
    centres = [[int(place) for place in centre_of(mask)] for mask in masks]
    return rectify_as_published(expression, centres, torch.from_numpy(fits).softmax(dim=0).numpy())


def report_rectifier() -> str:
    """Report how often each mode changes what the scores alone would pick, and is right."""
    content = json.loads(CASES.read_text(encoding="utf-8"))
    picks: dict[str, list[tuple[int, int, int]]] = {"none": [], "paper": [], "default": []}
    for name, referent, text, answer, *_ in content["cases"]:
        scene = content["scenes"][name]
        labels = [label for label, *_ in scene["objects"]]
        masks = np.zeros((len(labels), scene["size"][1] // 10, scene["size"][0] // 10), bool)
        for mask, (_, *box) in zip(masks, scene["objects"], strict=True):
            left, top, right, bottom = (round(edge / 10) for edge in box)
            mask[top:bottom, left:right] = True
        referent_fits = iter(scene["fits"].get(referent, [1.0]))
        fits = np.array([next(referent_fits) if label == referent else 0.1 for label in labels])
        expression = Expression(text)

        def score_phrase(phrase: str, labels: list[str] = labels) -> np.ndarray:
            return np.array([1.0 if label in phrase else 0.1 for label in labels])

        start = int(fits.argmax())
        published = pick_as_published(expression, masks, fits)
        mended, _ = rectify(expression, Layout.of(masks), fits, score_phrase)
        for mode, pick in (("none", start), ("paper", published), ("default", mended)):
            picks[mode].append((start, pick, answer))
    rows = []
    for mode, found in picks.items():
        changed = [(pick, answer) for start, pick, answer in found if pick != start]
        right = sum(pick == answer for _, pick, answer in found)
        rows.append(
            [
                mode,
                f"{right / len(found):.0%}",
                f"{len(changed) / len(found):.0%}",
                f"{sum(pick == answer for pick, answer in changed) / len(changed):.0%}" if changed else "",
            ]
        )
    headings = ["rectifier", "right", "changes the pick", "right where it does"]
    return f"{table(headings, rows)}\n\n" + (
        f"{len(content['cases'])} expressions about {len(content['scenes'])} scenes made by hand, `tests/spatial_cases.json`: "
        "things of the referent's kind fit best, and mostly another of them fits a little better than the referent. Expressions are parsed by rules, which the "
        "paper's rectifier was not made for: it reads dependencies."
    )


def recorded_parse(record: dict[str, Any]) -> Parse:
    tokens = [Word(token["text"], token["pos"], token["head"]) for token in record["tokens"]]
    chunks = [Chunk(chunk["start"], chunk["end"], chunk["root"]) for chunk in record["noun_chunks"]]
    return Parse(record["text"].lower(), tuple(tokens), tuple(chunks))


def report_photos(data: Path) -> str:
    """Report the rectifiers alone: all regions fit as well."""
    parses = {
        record["text"]: recorded_parse(record) for record in map(json.loads, (data / "spacy_parses.jsonl").open())
    }
    chances, found = [], {"first": [], "paper": [], "default": []}
    for row in map(json.loads, (data / "rows.jsonl").open()):
        text = row["expression"].lower()
        if not PLACE_WORDS & set(text.split()):
            continue
        stored = np.load(data / "proposals" / f"{Path(row['image']).stem}.npz")
        masks = np.unpackbits(stored["masks"], axis=-1)[..., : stored["shape"][-1]].astype(bool)
        masks = masks[masks.any(axis=(1, 2))]
        true = rle_to_mask(row["rle"])
        overlaps = np.array([(mask & true).sum() / (mask | true).sum() for mask in masks])
        fits = np.ones(len(masks))
        parse = parses.get(row["expression"]) or parses.get(text) or parse_by_rules(text)
        expression = Expression(text, lambda _, parse=parse: parse)
        picks = {
            "paper": pick_as_published(expression, masks, fits),
            "default": rectify(expression, Layout.of(masks), fits)[0],
            "first": 0,
        }
        chances.append((overlaps.mean(), (overlaps >= 0.5).mean()))
        for mode, pick in picks.items():
            found[mode].append((overlaps[pick], overlaps[pick] >= 0.5))
    rows = [["any region, by chance", *(f"{value:.3f}" for value in np.mean(chances, axis=0))]]
    rows += [
        [
            "the first region" if mode == "first" else f"{mode} rectifier alone",
            *(f"{value:.3f}" for value in np.mean(each, axis=0)),
        ]
        for mode, each in found.items()
    ]
    return f"{table(['choice', 'mIoU', 'P@0.5'], rows)}\n\n" + (
        f"The {len(chances)} of 44 expressions of RefCOCO, on 12 of its photos, that speak of places, a detector's "
        "recorded regions, all taken to fit as well: what places alone tell. Parses by spaCy, recorded."
    )


def questions(split: str, name: str, scenes: int) -> Iterator[tuple[np.ndarray, np.ndarray, str, np.ndarray]]:
    """Draw images: masks of all that is in them, expressions, and their referents' masks; the rows that others are evaluated on."""
    for index in range(scenes):
        scene, referents = scene_targets(name, split, index)
        image, masks = draw_scene(scene)
        visible = masks[masks.any(axis=(1, 2))]
        for number, texts in referents:
            yield np.asarray(image), visible, texts[0], masks[number]


def global_local_of(tas: TASForReferringSegmentation) -> GlobalLocalForReferringSegmentation:
    """Make a Global-Local with a TAS's image-text model."""
    config = GlobalLocalConfig(image_text_config=tas.config.image_text_config, parser=tas.config.parser)
    model = GlobalLocalForReferringSegmentation(config).eval()
    model.image_text = tas.image_text
    return model


def report_guidance(source: str, split: str, scenes: int) -> str:
    """Report what spatial guidance and TAS's rectifier add to Global-Local, with true regions."""
    model = global_local_of(TASForReferringSegmentation.from_pretrained(source))
    model.config.visual_mix, model.config.spatial_guidance = 0.5, 1.0
    weights = (0.0, 0.05, 0.1, 0.2, 0.4)
    labels = ["neither", *(f"guided, {weight}" for weight in weights[1:]), "rectified"]
    columns, numbers = [labels], []
    for name in NAMES:
        rows = []
        for image, regions, text, true in questions(split, name, scenes):
            score, guidance = model([image], [text], [regions], explain=True).terms[0].values()
            rectified, _ = rectify(Expression(text), Layout.of(regions), rescale(score).numpy())
            picks = [*(int((score + weight * guidance).argmax()) for weight in weights), rectified]
            rows.append([(regions[pick] & true).sum() / (regions[pick] | true).sum() for pick in picks])
        ious = np.array(rows)
        gains = ious - ious[:, :1]
        errors = gains.std(axis=0, ddof=1) / np.sqrt(len(ious))
        cells = [f"{ious[:, 0].mean():.3f}"]
        cells += [
            f"{mean:.3f} ({gain:+.3f} ± {error:.3f})"
            for mean, gain, error in list(zip(ious.mean(axis=0), gains.mean(axis=0), errors, strict=True))[1:]
        ]
        columns.append(cells)
        numbers.append(f"{len(ious)} of `{name}`")
    rows = [list(row) for row in zip(*columns, strict=True)]
    return f"{table(['Global-Local, half of each', *(f'`{name}`' for name in NAMES)], rows)}\n\n" + (
        "mIoU with true masks of all that is in the image; in brackets the mean of the paired differences to the first row, and its standard "
        f"error. Expressions about unseen scenes of `{split}`: {', '.join(numbers)}. The rectifier knows no fits of other things here. "
        f"Measured on {machine()}."
    )


def report_refshapes(source: str, split: str, scenes: int) -> str:
    """Report each term of the scores, with true regions and with those of like colour."""
    tas = TASForReferringSegmentation.from_pretrained(source).eval()
    both = global_local_of(tas)
    tas.config.cache_size = both.config.cache_size = 64  # every variant is a setting, and all keep what they saw
    variants = [
        ("Global-Local: local alone", both, {"visual_mix": 0.0}),
        ("Global-Local: global alone", both, {"visual_mix": 1.0}),
        ("Global-Local, half of each", both, {"visual_mix": 0.5}),
        ("Global-Local, 0.85 global", both, {"visual_mix": 0.85}),
        ("Global-Local, 0.95 global", both, {"visual_mix": 0.95}),
        ("TAS: V", tas, {"caption_weight": 0.0, "negative_weight": 0.0, "spatial_rectifier": False}),
        ("TAS: V + P", tas, {"caption_weight": 0.1, "negative_weight": 0.0, "spatial_rectifier": False}),
        ("TAS: V + P - N", tas, {"caption_weight": 0.1, "negative_weight": 0.7, "spatial_rectifier": False}),
        ("TAS: V + P - N, rectified", tas, {"caption_weight": 0.1, "negative_weight": 0.7, "spatial_rectifier": True}),
        ("TAS: V + P, rectified", tas, {"caption_weight": 0.1, "negative_weight": 0.0, "spatial_rectifier": True}),
    ]
    counts: dict[tuple[str, str, str], list[tuple[int, int, int]]] = {}
    chances: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for name in NAMES:
        last, of_colour = None, None
        for image, things, text, true in questions(split, name, scenes):
            if last is None or not np.array_equal(image, last):
                last, of_colour = image, tas.find_regions(image)  # both choose among those that TAS keeps
            for kind, regions in (("true", things), ("colour", of_colour)):
                for label, model, settings in variants:
                    for field, value in settings.items():
                        setattr(model.config, field, value)
                    pick = model([image], [text], [regions]).picks[0]
                    found = regions[pick] if pick is not None else np.zeros_like(true)
                    sizes = (int((found & true).sum()), int(found.sum()), int(true.sum()))
                    counts.setdefault((label, kind, name), []).append(sizes)
                shares = [(region & true).sum() / (region | true).sum() for region in regions]
                chances.setdefault((kind, name), []).append((np.mean(shares), np.mean(np.array(shares) >= 0.5)))
                best = max(regions, key=lambda region: (region & true).sum() / (region | true).sum())
                sizes = (int((best & true).sum()), int(best.sum()), int(true.sum()))
                counts.setdefault(("the best region", kind, name), []).append(sizes)
    parts = []
    for kind, title in (
        ("true", "True masks of all that is in the image"),
        ("colour", "Regions of like colour, those that TAS keeps"),
    ):
        rows = []
        for label in [*(label for label, *_ in variants), "the best region"]:
            figures = [summarize(counts[label, kind, name]) for name in NAMES]
            rows.append(
                [label, *(f"{each['mIoU']:.3f} / {each['oIoU']:.3f} / {each['P@0.5']:.3f}" for each in figures)]
            )
        means = [np.mean(chances[kind, name], axis=0) for name in NAMES]
        rows.append(["any region, by chance", *(f"{each[0]:.3f} / / {each[1]:.3f}" for each in means)])
        parts.append(f"{title}; mIoU / oIoU / P@0.5:\n\n{table(['', *(f'`{name}`' for name in NAMES)], rows)}")
    numbers = ", ".join(f"{len(counts['TAS: V', 'true', name])} of `{name}`" for name in NAMES)
    parts.append(f"Expressions about unseen scenes of `{split}`: {numbers}. Measured on {machine()}.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
