"""
Every non-public name of another library that this one uses, with the reason.

An upgrade may take any of them away without notice. Then a test here fails and says which, where the code itself might go on
and silently do less.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_ris
from hf_ris import registration
from hf_ris.modeling.zero_shot_parts import COLLECTED


ROOT = Path(__file__).parents[1]
TRAINED, PIPELINE = "transformers.PreTrainedModel", "transformers.Pipeline"

# Name -> who has it, as an attribute or as one that a method sets, and why it is used. Names that libraries document for those who
# extend them stand here, too: `_forward` is private in name only.
PRIVATE = {
    "_BaseAutoModelClass": ("transformers.models.auto.auto_factory", "base of AutoModelForReferringSegmentation"),
    "_LazyAutoMapping": (
        "transformers.models.auto.auto_factory",
        "its mapping imports a system's model when it is loaded",
    ),
    "_model_mapping": (
        "transformers.models.auto.auto_factory._BaseAutoModelClass",
        "where an Auto class has its mapping",
    ),
    "_initialize_weights": (TRAINED, "overridden to reach modules that have no parameters of their own"),
    "_auto_class": (TRAINED, "names the Auto class under which a saved folder's code is loaded"),
    "_registered_impl": (
        "transformers.pipelines.PIPELINE_REGISTRY.register_pipeline",
        "removed, or a saved pipeline would demand trust_remote_code where hf_ris is installed",
    ),
    "_forward_params": (PIPELINE, "options that a pipeline was made with hold for an evaluation"),
    "_postprocess_params": (PIPELINE, "thresholds that a pipeline was made with hold for an evaluation"),
    "_sanitize_parameters": (PIPELINE, "documented: a pipeline's options"),
    "_forward": (PIPELINE, "documented: a pipeline's model call"),
    "_load_tokenizer": (PIPELINE, "says what `pipeline()` loads"),
    "_load_feature_extractor": (PIPELINE, "says what `pipeline()` loads"),
    "_load_image_processor": (PIPELINE, "says what `pipeline()` loads"),
    "_load_video_processor": (PIPELINE, "says what `pipeline()` loads"),
    "_load_processor": (PIPELINE, "says what `pipeline()` loads"),
    "_upload_modified_files": (
        "transformers.utils.hub.PushToHubMixin",
        "puts the model's card into what push_to_hub uploads",
    ),
    "_merge_kwargs": ("transformers.ProcessorMixin", "sorts a call's options by image processor and tokenizer"),
    "_preprocess": ("transformers.image_processing_backends.PilBackend", "rescales and normalises what we resized"),
    "_preprocess_image_like_inputs": (
        "transformers.image_processing_backends.PilBackend",
        "masks are resized with images",
    ),
    "_from_config": (TRAINED, "makes a model in a given precision"),
    "_init_weights": (TRAINED, "documented: how parameters are initialised"),
    "_attn_implementation": ("transformers.PreTrainedConfig", "which attention function a model was set to"),
    "_can_set_attn_implementation": (
        TRAINED,
        "transformers reads a model's source to find out; for CLIP's ResNet it cannot",
    ),
    "_can_compile_fullgraph": (TRAINED, "torch.compile takes the whole model"),
    "_supports_sdpa": (TRAINED, "documented: attention implementations"),
    "_supports_attention_backend": (TRAINED, "documented: attention implementations"),
    "_no_split_modules": (TRAINED, "documented: what device_map keeps together"),
    "_keys_to_ignore_on_load_unexpected": (TRAINED, "weights of losses that a configuration switches off"),
    "_commit_hash": ("transformers.PreTrainedConfig", "the revision that results were made with"),
    "_n_gpu": (
        "transformers.TrainingArguments",
        "several GPUs in one process would be dealt images and expressions apart",
    ),
    "_actions": ("argparse._ActionsContainer", "TrainingArguments' defaults are left out, so that a recipe's hold"),
    "_hf_hook": (
        "accelerate.hooks.add_hook_to_module",
        "brings weights of an offloaded part that no call would bring",
    ),
    "_BatchNorm": ("torch.nn.modules.batchnorm", "finds batch norms of any dimension"),
    "_modules": (
        "torch.nn.Module.add_module",
        "one module of a shallow copy is replaced, and the network stays as it is",
    ),
    "_version": ("torch.Tensor", "notices weights that changed in place"),
    "_foreach_add_": ("torch", "one call for all of Muon's parameters"),
    "_foreach_lerp": ("torch", "one call for all of Muon's parameters"),
    "_foreach_lerp_": ("torch", "one call for all of Muon's parameters"),
    "_foreach_mul_": ("torch", "one call for all of Muon's parameters"),
    "_info": ("datasets.GeneratorBasedBuilder", "documented: a dataset builder's columns"),
    "_split_generators": ("datasets.GeneratorBasedBuilder", "documented: a dataset builder's splits"),
    "_generate_examples": ("datasets.GeneratorBasedBuilder", "documented: a dataset builder's rows"),
    **dict.fromkeys(COLLECTED, (TRAINED, "a part that is no PreTrainedModel passes its network's on")),
}

# Public in name, but not documented: a function's path, and the parameters that are passed.
UNDOCUMENTED = {
    "transformers.models.swin.modeling_swin.SwinPatchEmbeddings.maybe_pad": ("height", "width"),
    "transformers.models.swin.modeling_swin.SwinEmbeddings.forward": ("interpolate_pos_encoding",),
    "transformers.models.swin.modeling_swin.SwinLayer.forward": ("input_dimensions", "always_partition"),
    "transformers.models.swin.modeling_swin.SwinLayer.maybe_pad": ("height", "width"),
    "transformers.models.swin.modeling_swin.SwinLayer.cyclic_shift": ("reverse",),
    "transformers.models.swin.modeling_swin.SwinLayer.get_attn_mask": ("height", "width", "dtype", "device"),
    "transformers.models.swin.modeling_swin.window_partition": ("window_size",),
    "transformers.models.swin.modeling_swin.window_reverse": ("window_size", "height", "width"),
    "transformers.models.swin.modeling_swin.SwinPatchMerging.forward": ("input_dimensions",),
    "transformers.models.bert.modeling_bert.BertLayer.forward": ("hidden_states", "attention_mask"),
    "transformers.models.bert.modeling_bert.BertPredictionHeadTransform.forward": ("hidden_states",),
    "transformers.models.clip.modeling_clip.CLIPEncoderLayer.forward": ("hidden_states", "attention_mask"),
    "transformers.models.siglip.modeling_siglip.SiglipEncoderLayer.forward": ("hidden_states", "attention_mask"),
    "transformers.models.siglip2.modeling_siglip2.Siglip2EncoderLayer.forward": ("hidden_states", "attention_mask"),
    "transformers.models.siglip2.modeling_siglip2.Siglip2VisionEmbeddings.forward": ("pixel_values", "spatial_shapes"),
    "transformers.models.metaclip_2.modeling_metaclip_2.MetaClip2EncoderLayer.forward": (
        "hidden_states",
        "attention_mask",
    ),
    "transformers.Trainer.save_model": ("_internal_call",),
    "transformers.models.clipseg.modeling_clipseg.CLIPSegDecoder.forward": ("hidden_states", "conditional_embeddings"),
    "transformers.models.clipseg.modeling_clipseg.CLIPSegModel.get_image_features": ("pixel_values", "kwargs"),
    "transformers.Sam3Model.forward": ("vision_embeds", "input_ids", "attention_mask"),
    "transformers.models.florence2.modeling_florence2.Florence2ForConditionalGeneration.get_placeholder_mask": (
        "input_ids",
        "inputs_embeds",
        "image_features",
    ),
    "transformers.models.florence2.processing_florence2.Florence2PostProcessor.parse_description_with_polygons_from_text_and_spans": (
        "text",
        "image_size",
        "allow_empty_phrase",
    ),
    "transformers.dynamic_module_utils.custom_object_save": ("folder", "config"),
    "transformers.masking_utils.create_bidirectional_mask": ("config", "inputs_embeds", "attention_mask"),
    "huggingface_hub.file_download.repo_folder_name": ("repo_id", "repo_type"),
}


def resolve(path: str) -> Any:
    """Import what a dotted path names: a module, or something in one."""
    found, *rest = path.split(".")
    thing = importlib.import_module(found)
    for number, name in enumerate(rest):
        try:
            thing = getattr(thing, name)
        except AttributeError:
            thing = importlib.import_module(".".join([found, *rest[: number + 1]]))
    return thing


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_is_still_there(name):
    holder, reason = PRIVATE[name]
    thing = resolve(holder)
    found = hasattr(thing, name) or re.search(rf"\b{name}\b", inspect.getsource(thing))
    assert found, f"{holder} has no {name}: {reason}"


@pytest.mark.parametrize("path", UNDOCUMENTED)
def test_an_undocumented_function_takes_what_we_pass(path):
    parameters = inspect.signature(resolve(path)).parameters
    assert set(UNDOCUMENTED[path]) <= set(parameters)


def test_networks_have_the_parts_that_we_call():
    """By name, inside of networks that transformers builds."""
    from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel, SwinConfig, SwinModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    swin = SwinModel(SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4, image_size=32))
    assert swin.embeddings.patch_embeddings and swin.encoder.layers[0].blocks and swin.encoder.layers[0].downsample
    assert swin.layernorm
    block = swin.encoder.layers[0].blocks[0]
    assert block.attention.q_proj and block.attention.k_proj and block.attention.v_proj and block.attention.o_proj
    assert block.attention.relative_position_bias and block.attention.num_attention_heads and block.attention.scaling
    assert block.layernorm_before and block.layernorm_after and block.mlp and block.drop_path
    assert BertModel(BertConfig(**small, vocab_size=8)).encoder.layer
    clip = CLIPModel(
        CLIPConfig(text_config={**small, "vocab_size": 8}, vision_config={**small, "image_size": 32, "patch_size": 16})
    )
    assert clip.vision_model.pre_layrnorm and clip.vision_model.post_layernorm and clip.vision_model.encoder.layers
    attention = clip.vision_model.encoder.layers[0].self_attn
    assert attention.q_proj and attention.k_proj and attention.v_proj and attention.out_proj
    assert attention.num_heads and attention.scale
    assert clip.visual_projection and clip.logit_scale is not None
    assert clip.all_tied_weights_keys is not None


def test_remote_code_lies_in_the_package_that_configurations_look_for():
    """A configuration knows by its module's name whether it is a folder's own code."""
    from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME

    assert TRANSFORMERS_DYNAMIC_MODULE_NAME == "transformers_modules"


REGISTERED = """
import sys
import hf_ris
from hf_ris import registration
from hf_ris.systems import SYSTEMS

for module in registration.REGISTRIES:
    __import__(module)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

for system in SYSTEMS.values():
    assert CONFIG_MAPPING[system.model_type] is system.config(), system.name
    assert PROCESSOR_MAPPING[system.config()] is system.processor(), system.name
    assert system.image_processor() is None or system.config() in IMAGE_PROCESSOR_MAPPING, system.name
assert {"referring-segmentation", "zero-shot-referring-segmentation"} <= set(PIPELINE_REGISTRY.get_supported_tasks())
"""


@pytest.mark.parametrize("module", registration.REGISTRIES)
def test_the_module_that_a_registration_waits_for_exists(module):
    """Were it renamed, nothing would be registered, and nobody would say so."""
    assert importlib.util.find_spec(module) is not None


def test_everything_is_registered_once_these_modules_are_imported():
    done = subprocess.run([sys.executable, "-c", REGISTERED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_names_every_private_name_that_is_used():
    trees = [
        ast.parse(path.read_text(encoding="utf-8"))
        for folder in ("src", "modeling", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    ours |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    ours |= {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }
    used = {name for node in nodes for name in names_of(node) if is_private(name)}
    assert used - ours - set(PRIVATE) == set(), "of another library, and without a reason in the table"


def names_of(node: ast.AST) -> list[str]:
    """The names that a node asks of something: an attribute, an import, `getattr` and its like."""
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr", "setattr")
    ):
        return [node.args[1].value] if isinstance(node.args[1], ast.Constant) else []
    return []


def is_private(name: Any) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_the_table_names_every_private_name_that_our_classes_override():
    for _, name, _ in pkgutil.walk_packages(hf_ris.__path__, "hf_ris."):
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and value.__module__ == name:
                for base in value.__mro__[1:]:
                    if base.__module__.partition(".")[0] in (
                        "transformers",
                        "datasets",
                        "huggingface_hub",
                        "accelerate",
                    ):
                        overridden = {each for each in vars(value).keys() & vars(base).keys() if is_private(each)}
                        assert overridden <= set(PRIVATE), f"{value.__name__} overrides names of {base.__name__}"


def test_the_table_names_nothing_else():
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("src", "modeling", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    )
    assert [name for name in PRIVATE if name not in text] == []
