"""What is trained and evaluated on, row by row. Each training row has a `draw`: all that is random about it follows from this."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.refshapes.rows import ROWS_PER_SCENE, rows_of_turn


class RowsOfDrawings(Dataset):
    """Base of rows that are made from drawings: those of one drawing stand together, and it is drawn once for them."""

    _last: tuple[int, Any] = (-1, None)

    def draw(self, index: int) -> Any:
        """A drawing and what is known of it."""
        raise NotImplementedError

    def drawn(self, index: int) -> Any:
        """The same, but kept until the next is asked for."""
        if index != self._last[0]:
            self._last = index, self.draw(index)
        return self._last[1]


class DrawnRows(RowsOfDrawings):
    """
    Rows of RefShapes' train split, drawn when they are asked for. In reading order, all that show a picture stand together, each
    scene described in every manner in turn.

    Args:
        names (`Sequence[str]`): Manners: "refshapes", "refshapes+", "refshapesg".
        num_rows (`int`): How many.
        start (`int`, *optional*, defaults to 0): Number of the first; row `n` is always the same.
    """

    def __init__(self, names: Sequence[str], num_rows: int, start: int = 0) -> None:
        self.names = tuple(names)
        self.num_rows = num_rows
        self.start = start

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        turn, number = divmod(self.start + index, ROWS_PER_SCENE)
        return {**self.drawn(turn)[number], "draw": self.start + index}

    def draw(self, turn: int) -> list[dict[str, Any]]:
        return rows_of_turn(self.names, "train", turn)


class RowsOfEpochs(Dataset):
    """
    Rows of a dataset, drawn anew in each epoch.

    Args:
        rows (`datasets.Dataset`): Rows as the loaders of `hf_ris.data` give them.
        seed (`int`): What chance starts from.
    """

    def __init__(self, rows: datasets.Dataset, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # a loader's workers may outlive an epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "draw": hash((self.seed, int(self.epoch), index)) % 2**63}


class TellEpoch(TrainerCallback):
    """Tells [`RowsOfEpochs`] which epoch begins."""

    def __init__(self, rows: RowsOfEpochs) -> None:
        self.rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.rows.epoch.fill_(int(state.epoch))


class EvaluationRows(Dataset):
    """Rows about which nothing is random, so that every evaluation asks the same."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "draw": None}


__all__ = ["DrawnRows", "EvaluationRows", "RowsOfDrawings", "RowsOfEpochs", "TellEpoch"]
