"""A hub's cache that holds the architectures of the models in configs/cloud.yaml, no weights."""

from __future__ import annotations

import json
from pathlib import Path

# hidden, layers, heads, intermediate, tied: "Qwen3 Technical Report" (arXiv 2505.09388), table 1,
# and each model's config.json on the hub.
QWEN3 = {
    "Qwen/Qwen3-0.6B": (1024, 28, 16, 3072, True),
    "Qwen/Qwen3-4B": (2560, 36, 32, 9728, True),
    "Qwen/Qwen3-8B": (4096, 36, 32, 12288, False),
}


def write_hub(cache: Path) -> Path:
    """Fill a folder as the hub's client would with `hf download MODEL config.json`."""
    for name, (hidden, layers, heads, intermediate, tied) in QWEN3.items():
        config = {
            "model_type": "qwen3",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": intermediate,
            "vocab_size": 151936,
            "tie_word_embeddings": tied,
        }
        model = cache / f"models--{name.replace('/', '--')}"
        commit = model / "snapshots" / ("c" * 40)
        commit.mkdir(parents=True)
        (commit / "config.json").write_text(json.dumps(config))
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("c" * 40)
    return cache
