"""Inference: decoding with a cache, chat, prediction, evaluation, MindIR."""
