"""Data: records, tokenizer, token ids, MindRecord."""
