"""The start of MindFormers' own trainer on a run YAML, where a job names no script of MindFormers' for it.

    python mindformers_start.py --config attempts/1/mindformers.yaml --run_mode train

It is sent to the hosts as a file of its own, and imports what MindFormers 1.0 to 2.1 have under these names.
"""

import argparse
import sys
from importlib import import_module

_MODES = ("train", "finetune", "eval", "predict")


def main() -> None:
    """Build MindFormers' context and trainer of the run YAML, and run it."""
    parser = argparse.ArgumentParser(description="Start MindFormers' trainer.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--run_mode", required=True, choices=_MODES)
    args = parser.parse_args()
    try:
        trainer = import_module("mindformers.trainer")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mindformers":
            raise
        sys.exit(f"mindformers is not installed for {sys.executable}")
    config = import_module("mindformers.tools.register").MindFormerConfig(args.config)
    config.run_mode = args.run_mode
    import_module("mindformers.core.context").build_context(config)
    made = trainer.Trainer(config)
    # As MindFormers' own run_mindformer.py calls it: Trainer.finetune() without a checkpoint, evaluate() and
    # predict() pass over the load_checkpoint of the run YAML, and train() does not.
    if args.run_mode == "eval":
        made.evaluate(eval_checkpoint=config.load_checkpoint)
    elif args.run_mode == "predict":
        made.predict(
            predict_checkpoint=config.load_checkpoint,
            input_data=config.input_data,
            batch_size=config.predict_batch_size,
        )
    else:
        made.train()


if __name__ == "__main__":
    main()
