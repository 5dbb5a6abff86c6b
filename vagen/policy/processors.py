"""Processors that need no video support: stock Qwen processors insist on torchvision, which CPU machines may lack."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3VLProcessor


class ImageOnlyQwen3VLProcessor(Qwen3VLProcessor):
    """The stock Qwen3-VL processor without its video half."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **_: Any):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)
