"""
What trains a model, where it is not `Trainer`'s own: Muon for the matrices inside a network and AdamW for the rest, as one
optimizer; and CRIS's published schedule.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


# Matrices that are tables (one row is read at a time), queries, steer sampling or make kernels: none maps features to features.
NOT_MAPS = ("embedding", "bias_table", "query_", "sampling_offsets", "attention_weights", "head", "kernel_projection")
MATRIX_LR = 5.0  # times AdamW's learning rate


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al., which converge fast rather than exactly
NEWTON_SCHULZ_STEPS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Moves all singular values of matrices (n, r, c), r ≤ c, close to 1, by Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    states = matrices.bfloat16()
    states = states / states.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = states @ states.mT
        states = torch.baddbmm(states, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), states, beta=a)
    return states


class Muon(Optimizer):
    """
    Muon (Jordan et al., 2024) with Nesterov momentum, scaled to AdamW's step length as in "Muon is Scalable for LLM Training"
    (Liu et al., 2025, section 2.2).

    The same as `torch.optim.Muon`, but matrices of one shape are orthogonalised together: a small model has hundreds, of few
    shapes, and one by one they take a quarter of a training step on the CPU.

    Args:
        matrices (`Iterable`): Parameters of two dimensions, or kernels of convolutions, which map all that they see at once to a
            channel; or groups of them.
        lr (`float`): Learning rate.
        weight_decay (`float`): Decoupled.
        momentum (`float`): Of the gradients' moving average.
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
                columns = math.prod(rest)
                for matrix in matrices:
                    if not self.state[matrix]:
                        self.state[matrix]["momentum"] = torch.zeros_like(matrix)
                gradients = [matrix.grad for matrix in matrices]
                averages = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, averages, group["momentum"])).flatten(2)
                updates = orthogonalize(updates) if rows <= columns else orthogonalize(updates.mT).mT
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                step_length = group["lr"] * 0.2 * max(rows, columns) ** 0.5
                updates = updates.to(matrices[0].dtype).unflatten(2, rest)
                torch._foreach_add_(matrices, list(updates), alpha=-step_length)


class MuonWithAdamW(Optimizer):
    """
    [`Muon`] on every linear layer's weight, AdamW on everything else: embeddings, norms, biases, heads, and convolutions unless these are
    asked for.

    From nothing, an image encoder of windowed attention learns shapes from less than half as many pictures as with AdamW alone.

    Args:
        model (`nn.Module`): What is trained.
        lr (`float`): Learning rate of AdamW; that of Muon is `MATRIX_LR` times as large.
        weight_decay (`float`, *optional*, defaults to 0.01): Of both, on parameters of two and more dimensions.
        momentum (`float`, *optional*, defaults to 0.9): Of Muon.
        image_encoder_lr (`float`, *optional*, defaults to 1.0): Learning rates of the image encoder, as a share of the others.
        convolutions (`bool`, *optional*, defaults to `False`): Whether Muon also trains the kernels of convolutions of more than three
            channels, as a network of convolutions needs it.
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
        alike = defaultdict(list)
        image_encoder = getattr(model, "image_encoder", None)
        in_image_encoder = set() if image_encoder is None else {id(each) for each in image_encoder.parameters()}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_kernel = convolutions and parameter.ndim == 4 and parameter.shape[1] > 3
                is_map = (parameter.ndim == 2 or is_kernel) and not any(part in name for part in NOT_MAPS)
                share = image_encoder_lr if id(parameter) in in_image_encoder else 1.0
                alike[is_map, parameter.ndim > 1, share].append(parameter)
        groups: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for (is_map, decays, share), parameters in alike.items():
            rate = lr * share * (MATRIX_LR if is_map else 1.0)
            groups[is_map].append({"params": parameters, "lr": rate, "weight_decay": weight_decay if decays else 0.0})
        self.parts: tuple[Optimizer, ...] = (
            AdamW(groups[False], lr, fused=True),
            Muon(groups[True], lr, 0.0, momentum),
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


def cris_schedule(
    model: Any, lr: float, steps_per_epoch: int, drop_after: int = 35, backbone_share: float = 0.1
) -> tuple[Optimizer, LambdaLR]:
    """
    Adam, its learning rate a tenth after `drop_after` epochs, and that of CLIP a tenth of the others'. As the published code
    runs: it sets CLIP's own rate where torch reads it at the end of an epoch only, so that the first is trained at the full one.

    Args:
        model (`nn.Module`): A [`CRISForReferringSegmentation`].
        lr (`float`): Learning rate.
        steps_per_epoch (`int`): Steps of the optimizer.
        drop_after (`int`, *optional*, defaults to 35): Epochs.
        backbone_share (`float`, *optional*, defaults to 0.1): From the second epoch on. Drawings are one epoch.

    Raises:
        ValueError: If this is no CRIS.
    """

    def rate(step: int, share: float) -> float:
        epoch = step // steps_per_epoch
        return (0.1 if epoch >= drop_after else 1.0) * (share if epoch else 1.0)

    if model.config.model_type != "cris":
        raise ValueError(f"this schedule is of a CRIS, not of a {type(model).__name__}: it tells CLIP from the rest")
    of_clip = {id(parameter) for part in (model.clip, model.shortcut) for parameter in part.parameters()}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in of_clip].append(parameter)
    optimizer = Adam([{"params": parameters} for parameters in groups.values()], lr)
    return optimizer, LambdaLR(optimizer, [partial(rate, share=share) for share in (backbone_share, 1.0)])


__all__ = ["MuonWithAdamW", "cris_schedule"]
