"""A model spread over processes (FSDP2) learns the same, and saves the same files, as one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_ris import MagNetForReferringSegmentation


@pytest.mark.slow
def test_a_spread_model_is_the_same_model(tmp_path):
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(script),
        str(tmp_path),
    ]
    scripts = str(Path(__file__).parents[1] / "scripts")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": scripts}
    subprocess.run(command, check=True, timeout=200, env=environment)

    whole, spread = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "spread"))
    torch.testing.assert_close(spread, whole)
    saved = MagNetForReferringSegmentation.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in torch.load(tmp_path / "weights.pt").items())
    code = json.loads((tmp_path / "model" / "config.json").read_text())["auto_map"]
    assert code["AutoModelForImageSegmentation"] == "modeling_magnet.MagNetForReferringSegmentation"


SPREAD = """
import sys
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hf_ris.data import ReferringSegmentationCollator
from hf_ris.training.rows import RefShapesRows
from tiny_models import build_magnet_mini

folder = sys.argv[1]
torch.distributed.init_process_group("gloo")
losses = {"mask_grounding_loss_weight": 1.0, "alignment_loss_weight": 0.5}
(whole, processor), (spread, _) = (build_magnet_mini(0, losses) for _ in range(2))
processor.image_processor.size = {"height": 32, "width": 32}
collator = ReferringSegmentationCollator(processor, padding="longest", mask_probability=0.15)
rows = RefShapesRows(("refshapes",), 8)
batch = collator([rows[index] for index in range(8)])

# As accelerate does it: the layers that the model names, the word embeddings, and the rest.
mesh = init_device_mesh("cpu", (2,))
layers = [module for module in spread.modules() if type(module).__name__ in spread._no_split_modules]
for module in (spread.get_input_embeddings(), *reversed(layers), spread):  # inner ones first
    fully_shard(module, mesh=mesh)

for name, model in (("whole", whole), ("spread", spread)):
    torch.manual_seed(0)
    loss = model.train()(**batch).loss
    loss.backward()
    grads = {each: parameter.grad for each, parameter in model.named_parameters() if parameter.grad is not None}
    grads = {each: getattr(grad, "full_tensor", lambda grad=grad: grad)() for each, grad in grads.items()}
    if torch.distributed.get_rank() == 0:
        torch.save({"loss": loss.detach(), **grads}, f"{folder}/{name}.pt")

weights = get_model_state_dict(spread, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if torch.distributed.get_rank() == 0:
    spread.save_pretrained(f"{folder}/model", state_dict=weights)
    torch.save(whole.state_dict(), f"{folder}/weights.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
