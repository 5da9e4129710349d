"""Data-free knowledge distillation: search for the recipe that shrinks a teacher best."""

__version__ = "0.1.0"
