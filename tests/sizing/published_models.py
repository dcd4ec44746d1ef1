"""Published configurations of dense decoders, and how many values their publishers' files hold.

Numbers: the totals of the safetensors indexes (bytes over two), which are those that the model pages show.
GLM-4-9B holds 32 rotary frequencies in addition, which are no parameters.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PUBLISHED"]

_QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Qwen/Qwen3-0.6B": (
        {
            **_QWEN3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "tie_word_embeddings": True,
        },
        # Its file has the table again as the head: 751,632,384 with it.
        751_632_384 - 151_936 * 1024,
    ),
    "Qwen/Qwen3-8B": (
        {
            **_QWEN3,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
        },
        16_381_470_720 // 2,
    ),
    "Qwen/Qwen3-32B": (
        {
            **_QWEN3,
            "hidden_size": 5120,
            "intermediate_size": 25600,
            "num_attention_heads": 64,
            "num_hidden_layers": 64,
        },
        65_524_246_528 // 2,
    ),
    "Qwen/Qwen2.5-7B": (
        {
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "vocab_size": 152064,
        },
        15_231_233_024 // 2,
    ),
    "meta-llama/Meta-Llama-3-8B": (
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "vocab_size": 128256,
        },
        16_060_522_496 // 2,
    ),
    "THUDM/glm-4-9b": (
        {
            "architectures": ["ChatGLMModel"],
            "model_type": "chatglm",
            "add_bias_linear": False,
            "add_qkv_bias": True,
            "ffn_hidden_size": 13696,
            "hidden_size": 4096,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "num_attention_heads": 32,
            "num_layers": 40,
            "original_rope": True,
            "padded_vocab_size": 151552,
            "post_layer_norm": True,
            "rmsnorm": True,
            "seq_length": 8192,
            "tie_word_embeddings": False,
            "vocab_size": 151552,
        },
        9_399_951_392 - 32,  # as PyTorch counts it, with the buffer
    ),
    "THUDM/GLM-4-9B-0414": (
        {
            "architectures": ["Glm4ForCausalLM"],
            "model_type": "glm4",
            "attention_bias": True,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 13696,
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
            "vocab_size": 151552,
        },
        9_400_279_040,
    ),
}
