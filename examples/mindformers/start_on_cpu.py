"""Starts MindFormers' trainer on a CPU: what `run_mindformer.py` does, of `--config` and `--run_mode`.

Three things of MindFormers 1.9.0 are for an Ascend alone, and are left out: the fused kernel of RMSNorm, and
the two ends of the overflow check of a training step.
"""

import argparse

import mindspore
from mindformers.core.context import build_context
from mindformers.models.llama import llama_layer
from mindformers.tools.register import MindFormerConfig
from mindformers.trainer import Trainer
from mindformers.wrapper.wrapper import MFTrainOneStepCell


# MindSpore compiles these two: it knows the cell by the name `self`.
def begin_overflow_check(self, before, inputs):
    return before, inputs


def is_overflow(self, status, gradients):
    return mindspore.ops.zeros((), mindspore.bool_)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", required=True)
    parser.add_argument("--run_mode", required=True, choices=["train"])
    words = parser.parse_args()

    llama_layer.check_rmsnorm_big_kernel_valid = lambda *_: False
    MFTrainOneStepCell.start_overflow_check = begin_overflow_check
    MFTrainOneStepCell.get_overflow_status = is_overflow

    config = MindFormerConfig(words.config)
    build_context(config)
    Trainer(config).train()


if __name__ == "__main__":
    main()
