"""How many values MindFormers' own networks hold; run by the Python of `.venv-mindformers`.

argv[1]: a JSON list of the fields of their configurations. Prints `COUNTS` and a JSON list.
"""

import json
import sys

import mindspore
from mindformers.models.glm2 import ChatGLM2Config, ChatGLM2ForConditionalGeneration
from mindformers.models.llama import LlamaConfig, LlamaForCausalLM

mindspore.set_context(mode=0, device_target="CPU")
KINDS = {
    "LlamaConfig": (LlamaConfig, LlamaForCausalLM),
    "ChatGLM2Config": (ChatGLM2Config, ChatGLM2ForConditionalGeneration),
}
counts = []
for fields in json.loads(sys.argv[1]):
    config, network = KINDS[fields.pop("type")]
    counts.append(sum(parameter.size for parameter in network(config(**fields)).trainable_params()))
print("COUNTS", json.dumps(counts))
