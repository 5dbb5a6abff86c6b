"""Processors that need no video support: stock Qwen processors insist on torchvision, which CPU machines may lack.

They bear the stock names, and what they save describes the video half too, so that stock ``AutoProcessor`` loads the
folder where torchvision is installed.
"""

from __future__ import annotations

from typing import Any, ClassVar

import transformers


class _ImageOnly:
    """A stock processor without its video half."""

    video_processor_type: ClassVar[str]

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **saved: Any,
    ):
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)  # type: ignore[call-arg]
        self._saved_video_half = saved.get("video_processor")

    def to_dict(self) -> dict[str, Any]:
        """What ``processor_config.json`` gets: a video half as it was loaded, else one with the image half's sizes."""
        image: Any = self.image_processor  # type: ignore[attr-defined]
        video_half = self._saved_video_half or {
            "video_processor_type": self.video_processor_type,
            **{size: getattr(image, size) for size in ("patch_size", "merge_size", "temporal_patch_size")},
        }
        return {**super().to_dict(), "video_processor": video_half}  # type: ignore[misc]


class Qwen2VLProcessor(_ImageOnly, transformers.Qwen2VLProcessor):
    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen2_5_VLProcessor(_ImageOnly, transformers.Qwen2_5_VLProcessor):  # noqa: N801 - the stock name
    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen3VLProcessor(_ImageOnly, transformers.Qwen3VLProcessor):
    video_processor_type = "Qwen3VLVideoProcessor"


IMAGE_ONLY: dict[str, Any] = {  # by model type
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
}
