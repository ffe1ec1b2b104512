"""Models small enough to train in a test. T tokens, V vocabulary."""

from distill_ray.models.ref import ModelRef

VOCAB = 300


def init(model_type: str = "llama", **changes) -> dict:
    """An architecture config of a few thousand parameters."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return {"model_type": model_type, "vocab_size": VOCAB, **sizes, **changes}


def ref(seed: int = 0, **changes) -> ModelRef:
    """Fresh random weights."""
    return ModelRef("init", init=init(**changes), seed=seed)
