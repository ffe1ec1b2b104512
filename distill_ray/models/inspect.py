"""Check a model and estimate its size without reading its weights. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill_ray.config.errors import Problem, did_you_mean
from distill_ray.config.models import ModelSource
from distill_ray.core.memory import ModelShape
from distill_ray.models.folder import folder_problems, read_json, tensors_of
from distill_ray.models.gguf import read_header
from distill_ray.models.packages import file_of

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")


def check_model(source: ModelSource, where: str) -> list[Problem]:
    """Find problems that would keep a model from loading; hub ids are checked when they load."""
    if source.init is not None:
        return _check_init(source.init, f"{where}.init")
    if source.path is not None:
        problems = _check_folder(Path(source.path), f"{where}.path")
    elif source.gguf is not None:
        problems = _check_gguf(source.gguf, f"{where}.gguf")
    else:
        return []
    if problems or source.num_hidden_layers is None:
        return problems
    if source.gguf is not None:
        num_layers = read_header(file_of(source.gguf)).layers
    else:
        num_layers = _first(read_json(Path(str(source.path)) / "config.json"), LAYERS)
    return layers_problems(f"{where}.num_hidden_layers", source.num_hidden_layers, num_layers)


def layers_problems(where: str, num_kept: int, num_layers: int) -> list[Problem]:
    """Find problems with keeping only the first layers of a model.

    Args:
        where: what to name in the message.
        num_kept: layers to keep.
        num_layers: layers of the model, 0 if its config doesn't say.
    """
    if not num_layers:
        return [Problem(where, "the model's config doesn't tell its layers, so it can't be cut.")]
    if num_kept > num_layers:
        return [
            Problem(
                where,
                f"{num_kept} layers of {num_layers} can't be kept.",
                f"Give 1 to {num_layers}.",
            )
        ]
    return []


def _check_gguf(place: str, where: str) -> list[Problem]:
    try:
        file = file_of(place)
    except FileNotFoundError as error:
        return [Problem(where, f"{error}.")]
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*.gguf")]
        return [Problem(where, f"no such file: {file}.", did_you_mean(file.name, near))]
    try:
        read_header(file)
    except (OSError, ValueError) as error:
        return [Problem(where, f"{error}.")]
    return []


def _check_folder(folder: Path, where: str) -> list[Problem]:
    if not folder.is_dir():
        near = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        return [Problem(where, f"no such folder: {folder}.", did_you_mean(folder.name, near))]
    if not (folder / "config.json").is_file():
        return [Problem(where, f"{folder} has no config.json.", "Give a Hugging Face folder.")]
    if problems := folder_problems(folder, where):
        return problems
    if any(folder.glob("*.safetensors")):
        return []
    pickled = sorted(p.name for pattern in PICKLED for p in folder.glob(pattern))
    if pickled:
        what = f"{folder} has pickled weights only ({pickled[0]}), which can run any code."
        return [Problem(where, what, "Convert them: model.save_pretrained writes safetensors.")]
    return [Problem(where, f"{folder} has no weights.", "Safetensors files are needed.")]


def _check_init(init: Mapping[str, Any], where: str) -> list[Problem]:
    if _has_known_keys(init):
        return []
    from transformers import CONFIG_MAPPING  # Imports torch: seconds, for a good error message.

    kind = init["model_type"]
    if kind not in CONFIG_MAPPING:
        what = f"no architecture {kind!r} in transformers."
        return [Problem(f"{where}.model_type", what, did_you_mean(kind, CONFIG_MAPPING.keys()))]
    known = set(CONFIG_MAPPING[kind]().to_dict())
    return [
        Problem(f"{where}.{key}", f"unknown to {kind}.", did_you_mean(key, known))
        for key in init
        if key not in known
    ]


def _has_known_keys(init: Mapping[str, Any]) -> bool:
    """Whether every key is a word of the architecture's config module; imports nothing."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return False
    root, kind = Path(spec.origin).parent, str(init["model_type"]).replace("-", "_")
    files = (root / "models" / kind / f"configuration_{kind}.py", root / "configuration_utils.py")
    if not all(file.is_file() for file in files):
        return False
    words = set(re.findall(r"\w+", "".join(file.read_text() for file in files)))
    return set(init) <= words


def shape_of(source: ModelSource, vocab_size: int | None) -> ModelShape | None:
    """Read a model's sizes from its config and the headers of its weights.

    A hub model needs its `config.json` in the hub's cache; None without it.
    """
    if source.init is not None:
        config = {"vocab_size": vocab_size or 32000, **source.init}
        parameters = _count_llama(config) or _count_on_meta(config)
        return _shape(config, parameters)
    if source.path is not None:
        folder = Path(source.path)
        config = read_json(folder / "config.json")
        counts = {
            name: math.prod(shape)
            for file in folder.glob("*.safetensors")
            for name, shape in tensors_of(file).items()
        }
        layers = source.num_hidden_layers
        return _shape(config, _count_kept(counts, layers), layers)
    if source.gguf is not None:
        header = read_header(file_of(source.gguf))
        return ModelShape(
            _count_kept(header.weights, source.num_hidden_layers),
            hidden=header.of_architecture("embedding_length"),
            layers=source.num_hidden_layers or header.layers,
            vocabulary=header.vocabulary,
        )
    from huggingface_hub import try_to_load_from_cache  # Uses no network.

    path = try_to_load_from_cache(str(source.hub), "config.json", revision=source.revision)
    if not isinstance(path, str):
        return None
    config = read_json(Path(path))
    if source.num_hidden_layers:
        config |= dict.fromkeys((k for k in LAYERS if k in config), source.num_hidden_layers)
    return _shape(config, _count_llama(config) or _count_on_meta(config))


def _shape(config: Mapping[str, Any], parameters: int, layers: int | None = None) -> ModelShape:
    return ModelShape(
        parameters,
        hidden=_first(config, ("hidden_size", "n_embd", "d_model")),
        layers=layers or _first(config, LAYERS),
        vocabulary=_first(config, ("vocab_size",)),
    )


def _first(config: Mapping[str, Any], names: Sequence[str]) -> int:
    return next((int(config[n]) for n in names if config.get(n)), 0)


def _count_kept(counts: Mapping[str, int], layers: int | None) -> int:
    """Count parameters of the first layers; the first number in a tensor's name is its layer."""

    def cut(name: str) -> bool:
        number = re.search(r"\.(\d+)\.", name)
        return layers is not None and number is not None and int(number[1]) >= layers

    return sum(count for name, count in counts.items() if not cut(name))


def _count_llama(config: Mapping[str, Any]) -> int | None:
    """Count parameters of the Llama family; None for another one, or for unusual options."""
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    kind = config["model_type"]
    if kind not in LLAMA_LIKE or any(name not in config for name in needed):
        return None
    if config.get("attention_bias") or config.get("mlp_bias"):
        return None
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or (128 if kind == "qwen3" else hidden // heads)
    queries = heads * head_dim
    keys = config.get("num_key_value_heads", 32 if kind == "qwen2" else heads) * head_dim
    if kind in ("mistral", "qwen3") and "num_key_value_heads" not in config:
        return None
    bias = queries + 2 * keys if kind == "qwen2" else 0
    norms = 2 * hidden + (2 * head_dim if kind == "qwen3" else 0)
    attention = 2 * hidden * queries + 2 * hidden * keys + bias
    layer = attention + 3 * hidden * config["intermediate_size"] + norms
    embeddings = (1 if config.get("tie_word_embeddings") else 2) * config["vocab_size"] * hidden
    return int(config["num_hidden_layers"] * layer + embeddings + hidden)


def _count_on_meta(config: Mapping[str, Any]) -> int:
    """Count parameters of any architecture, built without memory; imports take some seconds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return sum(p.numel() for p in model.parameters())
