"""Several endless streams as one."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from torch.utils.data import IterableDataset


class MixedStream(IterableDataset):
    """
    Deals rows from several endless streams in turn.

    Args:
        streams (`Sequence[IterableDataset]`): Endless streams of rows.
        block_size (`int`, *optional*, defaults to 2): Rows taken from one before the next one's turn; two keep the
            rows of a RefShapes scene together.
    """

    def __init__(self, streams: Sequence[IterableDataset], block_size: int = 2) -> None:
        super().__init__()
        self.streams = list(streams)
        self.block_size = block_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        iterators = [iter(stream) for stream in self.streams]
        while True:
            for iterator in iterators:
                yield from islice(iterator, self.block_size)
