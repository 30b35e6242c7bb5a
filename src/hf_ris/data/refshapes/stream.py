"""The endless training stream: scenes drawn on the way, none twice, without a file in between."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from .rows import check_arguments, iterate_rows


class RefShapesStream(IterableDataset):
    """
    Endless rows of RefShapes as plain dictionaries with a PIL `image`, with the columns of [`load_refshapes`].

    Row `n` is always the same. Rows are dealt in blocks to the processes and, within a process, to the `DataLoader`'s workers.
    With `block_size` equal to the batch size per process, the batches come in the same order for any number of workers, and
    a stream that starts at the number of rows that all processes have consumed together continues exactly there. Rows of one
    scene share a PIL object: copy it before drawing on it.

    Args:
        name (`str` or `Sequence[str]`, *optional*, defaults to `"refshapes"`): "refshapes", "refshapes+" or "refshapesg", or
            several of them: each scene is then described in every variant in turn.
        split (`str`, *optional*, defaults to `"train"`): "train", "val", "testA" or "testB".
        start (`int`, *optional*, defaults to 0): Number of the first row.
        block_size (`int`, *optional*, defaults to 2): Rows that go to one worker at a time. Two rows share an image,
            which is drawn once when the block holds both.
        no_target_share (`float`, *optional*, defaults to 0.0): Share of rows whose expressions are true of no object.
        rank (`int`, *optional*, defaults to 0): Number of this process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.

    Raises:
        ValueError: If a name or the split is unknown, or a number out of range.

    Example:

    ```python
    >>> from hf_ris.data import RefShapesStream

    >>> row = next(iter(RefShapesStream("refshapes+")))
    >>> row["image"].size
    (320, 320)
    ```
    """

    def __init__(
        self,
        name: str | Sequence[str] = "refshapes",
        split: str = "train",
        start: int = 0,
        block_size: int = 2,
        no_target_share: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.variants = (name,) if isinstance(name, str) else tuple(name)
        if not self.variants:
            raise ValueError("`name` must hold at least one variant, got none.")
        for variant in self.variants:
            check_arguments(variant, split, no_target_share)
        if start < 0:
            raise ValueError(f"`start` must not be negative, got {start}.")
        if block_size < 1:
            raise ValueError(f"`block_size` must be positive, got {block_size}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be between 0 and world_size - 1 = {world_size - 1}, got {rank}.")
        self.split = split
        self.start = start
        self.block_size = block_size
        self.no_target_share = no_target_share
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        block = self.rank + number * self.world_size
        while True:
            first = self.start + block * self.block_size
            yield from iterate_rows(self.variants, self.split, first, first + self.block_size, self.no_target_share)
            block += self.world_size * workers
