"""Optimizers and schedules that `Trainer` does not have: Muon with AdamW, and CRIS's published schedule."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


# Tables (one row is read at a time), queries, and what steers sampling or makes kernels: none maps features to features.
NON_MATRICES = (
    "embedding",
    "bias_table",
    "query_",
    "sampling_offsets",
    "attention_weights",
    "head",
    "kernel_projection",
)
MATRIX_LR = 5.0  # times AdamW's learning rate
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al., which converge fast rather than exactly
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Move all singular values of matrices (n, r, c), r ≤ c, close to 1, by Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    states = matrices.bfloat16()
    states = states / states.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = states @ states.mT
        states = torch.baddbmm(states, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), states, beta=a)
    return states


# Not `torch.optim.Muon`, which refuses convolutions and takes 0.14 s a step longer, as it orthogonalizes one matrix at a time.
class Muon(Optimizer):
    """
    Muon (Jordan et al., 2024) with Nesterov momentum, scaled to AdamW's step length as in "Muon is Scalable for LLM Training"
    (Liu et al., 2025, section 2.2). Matrices of one shape are orthogonalized together.

    Args:
        matrices (`Iterable`): Parameters of two dimensions, or kernels of convolutions (a row for each output channel); or groups
            of them.
        lr (`float`): Learning rate.
        weight_decay (`float`): Decoupled weight decay.
        momentum (`float`): Share that the gradients' moving average keeps at each step.
    """

    def __init__(self, matrices: Iterable[Any], lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[tuple(matrix.shape)].append(matrix)
            for (rows, *rest), matrices in by_shape.items():
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                gradients = [matrix.grad for matrix in matrices]
                averages = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"])).flatten(2)
                columns = math.prod(rest)
                updates = orthogonalize(updates) if rows <= columns else orthogonalize(updates.mT).mT
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                step_length = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                updates = updates.to(matrices[0].dtype).unflatten(2, rest)
                torch._foreach_add_(matrices, list(updates), alpha=-step_length)


class MuonWithAdamW(Optimizer):
    """
    Train every linear layer's weight with [`Muon`] and everything else with AdamW: embeddings, norms, biases, heads, and
    convolutions unless `convolutions` is set.

    From random weights, an image encoder of windowed attention then needs less than half as many images as with AdamW alone.

    Args:
        model (`nn.Module`): The model to train.
        lr (`float`): Learning rate of AdamW; that of Muon is `MATRIX_LR` times as large.
        weight_decay (`float`, *optional*, defaults to 0.01): Of both, on parameters of two and more dimensions.
        momentum (`float`, *optional*, defaults to 0.9): Muon's momentum.
        image_encoder_lr (`float`, *optional*, defaults to 1.0): Factor on the image encoder's learning rates.
        convolutions (`bool`, *optional*, defaults to `False`): Whether Muon also trains the kernels of convolutions with more
            than three input channels.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.9,
        image_encoder_lr: float = 1.0,
        convolutions: bool = False,
    ) -> None:
        image_encoder = getattr(model, "image_encoder", None)
        image_encoder_ids = set() if image_encoder is None else {id(each) for each in image_encoder.parameters()}
        by_options = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_kernel = convolutions and parameter.ndim == 4 and parameter.shape[1] > 3
                is_matrix = (parameter.ndim == 2 or is_kernel) and not any(part in name for part in NON_MATRICES)
                factor = image_encoder_lr if id(parameter) in image_encoder_ids else 1.0
                by_options[is_matrix, parameter.ndim > 1, factor].append(parameter)
        groups: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for (is_matrix, decays, factor), parameters in by_options.items():
            rate = lr * factor * (MATRIX_LR if is_matrix else 1.0)
            decay = weight_decay if decays else 0.0
            groups[is_matrix].append({"params": parameters, "lr": rate, "weight_decay": decay})
        adamw, muon = AdamW(groups[False], lr, fused=True), Muon(groups[True], lr, 0.0, momentum)
        self.parts: tuple[Optimizer, ...] = (adamw, muon)
        # The parts' group dictionaries themselves, so that they see what schedulers write here.
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


def cris_schedule(
    model: Any, lr: float, steps_per_epoch: int, drop_after: int = 35, backbone_share: float = 0.1
) -> tuple[Optimizer, LambdaLR]:
    """
    Make CRIS's published optimizer: Adam, with a tenth of the learning rate for CLIP and, after `drop_after` epochs, for all.

    As in the published code, CLIP's lower rate begins with the second epoch: it is set where torch reads it at the end of an
    epoch only. Drawn rows are one epoch.

    Args:
        model (`nn.Module`): A [`CRISForReferringSegmentation`].
        lr (`float`): Learning rate.
        steps_per_epoch (`int`): Steps of the optimizer.
        drop_after (`int`, *optional*, defaults to 35): Epochs at the full rate.
        backbone_share (`float`, *optional*, defaults to 0.1): Factor on CLIP's learning rate.

    Raises:
        ValueError: If the model is not a CRIS.
    """

    def rate(step: int, share: float) -> float:
        epoch = step // steps_per_epoch
        return (0.1 if epoch >= drop_after else 1.0) * (share if epoch else 1.0)

    if model.config.model_type != "cris":
        raise ValueError(
            f"`model` must be a CRIS for this recipe's schedule, which tells CLIP from the rest, got a {type(model).__name__}."
        )
    clip_ids = {id(parameter) for part in (model.clip, model.shortcut) for parameter in part.parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in clip_ids].append(parameter)
    optimizer = Adam([{"params": parameters} for parameters in groups.values()], lr)
    return optimizer, LambdaLR(optimizer, [partial(rate, share=share) for share in (backbone_share, 1.0)])


__all__ = ["MuonWithAdamW", "cris_schedule"]
