"""Writes one model folder. Runs inside the engine environment (torch, transformers); started by models.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 1024
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 768,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


def tiny(folder: Path) -> None:
    _tiny_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**TINY, initializer_range=0.1)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, then filler words: any text encodes, any id decodes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet]
    words += [f"<w{i}>" for i in range(VOCABULARY - len(words))]
    plain = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[], unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=TEMPLATE,
        model_max_length=4096,
    )


def smollm(gguf: Path, folder: Path) -> None:
    """A model read from GGUF refuses to be saved, so its weights move into a fresh one of the same shape."""
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    fields = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    fresh = LlamaForCausalLM(LlamaConfig(**fields))
    fresh.load_state_dict(loaded.state_dict())
    fresh.to(torch.bfloat16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}, indent=1))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tiny", folder]:
            tiny(Path(folder))
        case ["smollm", gguf, folder]:
            smollm(Path(gguf), Path(folder))
        case _:
            sys.exit(f"usage: {sys.argv[0]} tiny FOLDER | smollm GGUF FOLDER")
