"""A side head that places a student's embeddings in the space of the label texts (MUSE)."""

from __future__ import annotations

from torch import Tensor, nn

from dfkd.methods.errors import ConfigError
from dfkd.methods.random_streams import global_stream
from dfkd.methods.student import Student


class TextSpace(nn.Module):
    """P: features [B, F] to the space of label-text embeddings [C, D], standardized.

    Standardized means: centered over the classes, and scaled to unit variance, so that distances
    are of order 1 whatever the encoder.
    """

    texts: Tensor

    def __init__(self, features: int, embeddings: Tensor) -> None:
        super().__init__()
        spread = embeddings - embeddings.mean(0)
        scale = spread.square().mean().sqrt().clamp_min(1e-12)
        self.register_buffer("texts", spread / scale, persistent=False)  # f_y
        self.head = nn.Linear(features, embeddings.shape[1])

    @classmethod
    def beside(cls, student: Student, embeddings: Tensor, seed: int) -> TextSpace:
        """One on the input of the student's last linear layer, trained along with it.

        Raises ConfigError for a student without such a layer.
        """
        if student.head is None:
            raise ConfigError(
                "the student has no linear head, so it embeds nothing; set "
                "student_diversity_weight=0 and generator_diversity_weight=0"
            )
        with global_stream(embeddings.device, "text space", seed):
            space = cls(student.head.in_features, embeddings).to(embeddings.device)
        student.adopt(space)
        return space

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """||P(f_S(x)) - f_y||^2 / D per image [B]: how far it is from its class."""
        embedded: Tensor = self.head(features)
        return (embedded - self.texts[labels]).square().mean(1)
