"""Recipes that train small models from nothing on drawings; `train_tiny.py` runs them."""

from tiny_models import build_cris_tiny, build_magnet_mini, build_magnet_tiny
from tiny_pretraining import NameRows, learn_attributes

from hf_ris.data.refshapes import NAMES
from hf_ris.training import Recipe, Stage


ARGUMENTS = {
    "per_device_eval_batch_size": 32,
    "eval_steps": 300,
    "save_steps": 300,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "dataloader_num_workers": 1,
}


def batches(steps: int, size: int, learning_rate: float, warmup_steps: int = 50) -> dict[str, float]:
    return {
        "max_steps": steps,
        "per_device_train_batch_size": size,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
    }


RECIPES = {
    "magnet-tiny-refshapes": Recipe(
        about="the bundled checkpoint, from nothing, on drawings, in about 20 minutes on one GPU with 16 cores beside it",
        build=build_magnet_tiny,
        config={"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
        refshapes=NAMES,
        no_target_share=0.1,
        ambiguous_share=0.1,
        full_size_labels=True,
        muon=True,
        stages=(
            # First what things look like, then what that is called, then whole expressions: on small images, of which
            # several times as many fit into the same time, and at last on large ones, for small things and fine masks.
            Stage(128, batches(1200, 256, 2e-3, warmup_steps=100), pretraining=learn_attributes),
            Stage(128, batches(300, 256, 2e-3), rows=NameRows, image_encoder_lr=0.05),
            Stage(128, batches(719, 512, 2e-3), image_encoder_lr=0.1, mask_grounding=False),
            Stage(256, batches(1544, 256, 1.5e-3), image_encoder_lr=0.3, mask_grounding=False),
        ),
        arguments=ARGUMENTS,
    ),
    "magnet-mini-refshapes": Recipe(
        about="a smaller MagNet than the bundled one, from nothing, on drawings, in 130 minutes on two CPU cores",
        build=build_magnet_mini,
        config={"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5},
        refshapes=NAMES,
        muon=True,
        stages=(
            Stage(80, batches(5000, 32, 1.4e-3, warmup_steps=100), pretraining=learn_attributes),
            Stage(80, batches(300, 48, 1.4e-3), rows=NameRows, image_encoder_lr=0.05),
            Stage(80, batches(1500, 48, 1.4e-3), image_encoder_lr=0.05),
            Stage(160, batches(3600, 24, 1e-3), image_encoder_lr=0.1, mask_grounding=False),
        ),
        arguments=ARGUMENTS,
    ),
    "cris-tiny-refshapes": Recipe(
        about="a small CRIS, from nothing, on drawings, on two CPU cores",
        build=build_cris_tiny,
        refshapes=NAMES,
        muon=True,
        muon_convolutions=True,
        stages=(
            Stage(96, batches(3000, 32, 1.4e-3, warmup_steps=100), pretraining=learn_attributes),
            Stage(96, batches(300, 48, 1.4e-3), rows=NameRows, image_encoder_lr=0.05),
            Stage(96, batches(1500, 48, 1.4e-3), image_encoder_lr=0.05),
        ),
        arguments=ARGUMENTS,
    ),
}
