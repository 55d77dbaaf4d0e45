"""The toy checkpoint that the repository carries, and what diffusers must be told of it."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

TOY = "toy"
FOLDER = Path(__file__).with_name("toy")
TOY_FILE = FOLDER / "toy.safetensors"
CONFIG_FILE = FOLDER / "toy.json"
"""The diffusers configs of its parts: one file, by part."""
TOY_CONTROLNET = FOLDER / "controlnet"
"""Places the object where its hint is white."""
MERGES = 49152 - 256 - 2
MERGES_FILE = Path(__file__).with_name("clip") / "merges.txt.xz"
"""Those of CLIP's byte pairs that it has numbers for, one a line, in their order."""
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """One letter for each byte, in the vocabulary's order: the bytes that print in Latin-1, then stand-ins for the rest."""
    printing = [byte for byte in range(256) if 0x21 <= byte <= 0x7E or (byte >= 0xA1 and byte != 0xAD)]
    return [chr(byte) for byte in printing] + [chr(256 + number) for number in range(256 - len(printing))]


def write_tokenizer(folder: Path) -> None:
    """CLIP's vocabulary, which OpenAI published under the MIT licence (clip/LICENSE), as transformers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    with lzma.open(MERGES_FILE, "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[:MERGES]
    letters = byte_letters()
    vocabulary = [*letters, *(c + "</w>" for c in letters), *("".join(m.split()) for m in merges), START, END]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    numbers = {token: number for number, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    settings: dict[str, Any] = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def write_text_encoder(folder: Path) -> None:
    """The text encoder's config beside its tokenizer: what the original SD1 code reads."""
    write_tokenizer(folder)
    config = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))["text_encoder"]
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def suit_cpu(pipeline: Any) -> None:
    """On a CPU the toy's VAE is a fifth faster with its channels last; the UNet is not."""
    import torch

    pipeline.vae.to(memory_format=torch.channels_last)
