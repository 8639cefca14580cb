"""CLIP's vision transformer as the paper uses it.

Shapes: B pictures, T tokens (the class token first) of width E.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from chatsearch.model.config import ClipConfig
from chatsearch.model.vision import VisionFeatures


class ClipVision(nn.Module):
    """Tokens from the next-to-last layer, f_CLS from the last layer's class token after the final norm."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.token_layer = config.token_layer
        self.transformer = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                projection_dim=config.hidden_size,
            )
        )

    def forward(self, pixels_B3HW: Tensor) -> VisionFeatures:
        """Features of scaled pixels."""
        output = self.transformer(pixel_values=pixels_B3HW, output_hidden_states=True)
        # hidden_states: the embeddings, then one entry a layer.
        return VisionFeatures(output.pooler_output, output.hidden_states[self.token_layer])
