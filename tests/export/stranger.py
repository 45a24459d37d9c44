"""Run by itself: stock tools read, judge and train folders in a Python that cannot import innovator."""

from __future__ import annotations

import json
import sys


def read(folder: str, saved: str, padded: dict[str, list[list[int]]], n_new: int) -> dict[str, object]:
    """What transformers computes and says of a padded batch, and computes once more from what it has saved."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    batch = {name: torch.tensor(rows) for name, rows in padded.items()}
    spoken_BT = model.generate(**batch, max_new_tokens=n_new, do_sample=False)
    model.save_pretrained(saved)
    again = AutoModelForCausalLM.from_pretrained(saved, trust_remote_code=True)
    return {
        "logits": model(**batch).logits.tolist(),
        "again": again(**batch).logits.tolist(),
        "spoken": spoken_BT[:, -n_new:].tolist(),
    }


def judge(folder: str, tasks: str, limit: int) -> dict[str, object]:
    """lm-eval's accuracy, and what it asked and heard."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    judged = simple_evaluate(
        "hf",
        {"pretrained": folder, "trust_remote_code": True, "dtype": "float32", "device": "cpu"},
        tasks=["choice", "speech"],
        task_manager=TaskManager(include_path=tasks, include_defaults=False),
        limit=limit,
        batch_size=3,
        bootstrap_iters=0,
    )
    return {
        "acc": judged["results"]["choice"]["acc,none"],
        "choice": [[sample["arguments"], sample["resps"]] for sample in judged["samples"]["choice"]],
        "speech": [[sample["arguments"][0][0], sample["resps"][0][0]] for sample in judged["samples"]["speech"]],
    }


def train(folder: str, out: str, texts: list[str]) -> list[float]:
    """The loss of each of three steps over all texts that TRL takes before it saves the model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir=out,
        max_steps=3,
        per_device_train_batch_size=len(texts),
        learning_rate=1e-2,
        logging_steps=1,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True),
        processing_class=AutoTokenizer.from_pretrained(folder, trust_remote_code=True),
        train_dataset=Dataset.from_list([{"text": text} for text in texts]),
        args=settings,
    )
    trainer.train()
    trainer.save_model(out)
    return [step["loss"] for step in trainer.state.log_history if "loss" in step]


def main(order: dict[str, object]) -> dict[str, object]:
    """Everything at once, for imports take longer than the work."""
    said: dict[str, object] = {
        "read": read(order["own"], order["saved"], order["padded"], order["n_new"]),
        "judge": {name: judge(order[name], order["tasks"], order["limit"]) for name in ("own", "stock")},
        "train": train(order["stock"], order["trained"], order["texts"]),
    }
    ours = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "innovator"}
    return {**said, "ours": [name for name, module in ours.items() if module is not None]}


if __name__ == "__main__":
    sys.modules["innovator"] = None
    print(json.dumps(main(json.loads(sys.argv[1]))))
