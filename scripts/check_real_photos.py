"""Runs photos through a model and prints sizes, time and peak memory. It says nothing about accuracy.

python scripts/check_real_photos.py PHOTOS --model magnet-folder-or-hub-id
python scripts/check_real_photos.py PHOTOS                                   # the bundled checkpoint
python scripts/check_real_photos.py PHOTOS --random --vocabulary vocab.txt   # published size, random weights
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import torch
from transformers import BertTokenizer, Pipeline, pipeline

from hf_ris import MagNetConfig, MagNetForReferringSegmentation, MagNetImageProcessor, MagNetProcessor
from hf_ris.modeling.inputs import load_image
from hf_ris.reporting import machine


EXPRESSIONS = ["the person on the left", "the largest animal"]


def random_pipeline(vocabulary: str) -> Pipeline:
    """MagNet at the published size and 480 x 480 pixels, without trained weights."""
    torch.manual_seed(0)
    tokenizer = BertTokenizer(vocabulary, model_max_length=20)
    model = MagNetForReferringSegmentation(MagNetConfig(language_attention_mask="published")).eval()
    processor = MagNetProcessor(MagNetImageProcessor(), tokenizer)
    return pipeline("referring-segmentation", model=model, processor=processor, device="cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with .jpg files")
    parser.add_argument("--model", help="a folder or Hub id; by default the bundled checkpoint")
    parser.add_argument("--random", action="store_true", help="the published size with random weights")
    parser.add_argument("--vocabulary", help="BERT vocabulary file, with --random")
    arguments = parser.parse_args()
    if arguments.random and not arguments.vocabulary:
        parser.error("--random needs --vocabulary")

    ris = random_pipeline(arguments.vocabulary) if arguments.random else None
    ris = ris or pipeline("referring-segmentation", model=arguments.model, device="cpu")
    seconds = []
    for photo in sorted(arguments.photos.rglob("*.jpg")):
        size = load_image(photo).size
        start = time.perf_counter()
        results = ris(str(photo), text=EXPRESSIONS)
        seconds.append(time.perf_counter() - start)
        sizes = {result["mask"].size for result in results}
        print(f"{photo.name}: {size[0]} x {size[1]}, masks {'fit' if sizes == {size} else sizes}, {seconds[-1]:.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{len(seconds)} photos, {len(EXPRESSIONS)} expressions each: median {statistics.median(seconds):.2f} s a photo, "
        f"peak memory {peak:.0f} MB ({machine()})"
    )


if __name__ == "__main__":
    main()
