"""Rows to train and evaluate on. All that is random about a training row follows from its `seed`."""

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data.refshapes.rows import ROWS_PER_SCENE, ambiguous_rows, turn_rows
from ..data.refshapes.scene import generator


class RenderedRows(Dataset):
    """Base of rows that are made from drawings: those of one drawing stand together, and it is rendered once for them."""

    _last: tuple[int, Any] = (-1, None)

    def render(self, index: int) -> Any:
        """Make a drawing and what its rows need."""
        raise NotImplementedError

    def cached_render(self, index: int) -> Any:
        """Call `render`, or return its last result where the index is the same."""
        if index != self._last[0]:
            self._last = index, self.render(index)
        return self._last[1]


class RefShapesRows(RenderedRows):
    """
    Rows of RefShapes' train split, rendered when they are asked for. Rows of one image stand together; each scene is described
    in every variant in turn.

    Args:
        variants (`Sequence[str]`): Some of "refshapes", "refshapes+" and "refshapesg".
        num_rows (`int`): Length.
        start (`int`, *optional*, defaults to 0): Number of the first row; row `n` is always the same.
        ambiguous_share (`float`, *optional*, defaults to 0.0): Share of drawings whose rows do not say which of several objects they
            mean, where enough of them look the same; of long expressions every second drawing allows it.
        no_target_share (`float`, *optional*, defaults to 0.0): Of the other rows, the share whose expressions are true of no object.
    """

    def __init__(
        self,
        variants: Sequence[str],
        num_rows: int,
        start: int = 0,
        no_target_share: float = 0.0,
        ambiguous_share: float = 0.0,
    ) -> None:
        self.variants = tuple(variants)
        self.num_rows = num_rows
        self.start = start
        self.no_target_share = no_target_share
        self.ambiguous_share = ambiguous_share

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        turn, number = divmod(self.start + index, ROWS_PER_SCENE)
        return {**self.cached_render(turn)[number], "seed": self.start + index}

    def render(self, index: int) -> list[dict[str, Any]]:
        scene, variant = divmod(index, len(self.variants))
        if self.ambiguous_share and generator(index, 7).random() < self.ambiguous_share:
            rows = ambiguous_rows(self.variants[variant], "train", scene)
            if len(rows) == ROWS_PER_SCENE:
                return rows
        return turn_rows(self.variants, "train", index, self.no_target_share)


class EpochRows(Dataset):
    """
    Rows of a dataset, with other seeds in each epoch.

    Args:
        rows (`datasets.Dataset`): Rows as the loaders of `hf_ris.data` give them.
        seed (`int`): Seed of the training.
    """

    def __init__(self, rows: datasets.Dataset, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # a loader's workers may outlive an epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "seed": hash((self.seed, int(self.epoch), index)) % 2**63}


class SetEpoch(TrainerCallback):
    """Sets the epoch of [`EpochRows`]."""

    def __init__(self, rows: EpochRows) -> None:
        self.rows = rows

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.rows.epoch.fill_(int(state.epoch))


class EvaluationRows(Dataset):
    """
    Rows without randomness, so that every evaluation asks the same: each has its first expression and is not mirrored.

    Args:
        rows (`datasets.Dataset`): Rows as the loaders of `hf_ris.data` give them.
    """

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "seed": None}


__all__ = ["EpochRows", "EvaluationRows", "RefShapesRows", "RenderedRows", "SetEpoch"]
