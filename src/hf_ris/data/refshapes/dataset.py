"""RefShapes as a `datasets.Dataset`, built once and kept in the datasets cache."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from ..features import FEATURES, plain_split
from .rows import ROWS_PER_SCENE, check_arguments, iterate_rows


VERSION = "1.1.0"
_ROWS_AT_ONCE = 50 * ROWS_PER_SCENE
DEFAULT_NUM_ROWS = {"train": 20_000, "val": 2_000, "testA": 1_000, "testB": 1_000}


@dataclass
class RefShapesConfig(datasets.BuilderConfig):
    """All that a cached RefShapes dataset depends on; see [`load_refshapes`]."""

    refer_name: str = "refshapes"
    split: str = "train"
    num_rows: int = 0
    no_target_share: float = 0.0


class RefShapesBuilder(datasets.GeneratorBasedBuilder):
    """Draws one split of RefShapes; see [`load_refshapes`]."""

    BUILDER_CONFIG_CLASS = RefShapesConfig
    # Arrow's default of 1,000 rows would hold too many images in memory.
    DEFAULT_WRITER_BATCH_SIZE = 200

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Drawn scenes with exact masks and referring expressions.",
            features=FEATURES,
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        # `datasets` shares a list among its processes.
        starts = list(range(0, self.config.num_rows, _ROWS_AT_ONCE))
        return [datasets.SplitGenerator(name=self.config.split, gen_kwargs={"starts": starts})]

    def _generate_examples(self, starts: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.config
        for start in starts:
            stop = min(start + _ROWS_AT_ONCE, config.num_rows)
            image, encoded = None, b""
            rows = iterate_rows([config.refer_name], config.split, start, stop, config.no_target_share)
            for number, row in enumerate(rows, start):
                if row["image"] is not image:  # rows of one scene share the image: compress it once
                    image, encoded = row["image"], _to_png(row["image"])
                yield number, {**row, "image": {"bytes": encoded, "path": row["file_name"]}}


def load_refshapes(
    name: str = "refshapes",
    split: str = "train",
    num_rows: int | None = None,
    no_target_share: float = 0.0,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
) -> datasets.Dataset:
    """
    Draw a split of RefShapes, or take it from the datasets cache.

    Args:
        name (`str`, *optional*, defaults to `"refshapes"`): Variant: "refshapes" (short, with location words), "refshapes+"
            (appearance only) or "refshapesg" (long, relational).
        split (`str`, *optional*, defaults to `"train"`): "train", "val", "testA" (animals and people-like figures)
            or "testB" (everything else).
        num_rows (`int`, *optional*): Number of rows; by default 20,000 for train, 2,000 for val and 1,000 for each
            test split. A longer dataset begins with the rows of a shorter one.
        no_target_share (`float`, *optional*, defaults to 0.0): Share of rows whose expressions are true of no object;
            their mask is empty, their `bbox` zero and their `category` "".
        cache_dir (`str` or `Path`, *optional*): Folder to keep it in; by default the datasets cache.
        num_proc (`int`, *optional*): Number of processes that draw.

    Returns:
        A dataset with the columns of RefCOCO: `image`, `mask` (compressed COCO RLE), `bbox` (x, y, width, height),
        `area`, `category`, `ref_id`, `ann_ids`, `image_id`, `file_name`, `split` and `expressions`.

    Raises:
        ValueError: If the name or split is unknown, the number of rows negative or the share not between 0 and 1.

    Example:

    ```python
    >>> from hf_ris.data import load_refshapes

    >>> dataset = load_refshapes("refshapes", "val", num_rows=500)
    >>> dataset[0]["expressions"][0]["sent"]  # doctest: +SKIP
    ```
    """
    split = plain_split(split)
    check_arguments(name, split, no_target_share)
    if num_rows is None:
        num_rows = DEFAULT_NUM_ROWS[split]
    if num_rows < 0:
        raise ValueError(f"`num_rows` must not be negative, got {num_rows}.")
    options = {"refer_name": name, "split": split, "num_rows": num_rows, "no_target_share": float(no_target_share)}
    builder = RefShapesBuilder(
        cache_dir=None if cache_dir is None else str(cache_dir),
        dataset_name="refshapes",
        config_name=f"{name}-{split}",
        hash=source_hash(),
        version=VERSION,
        **options,
    )
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split=split)


def _to_png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=2)
    return buffer.getvalue()


@cache
def source_hash() -> str:
    """Hash this package's code: the cache would not notice otherwise that drawings or expressions have changed."""
    digest = blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
