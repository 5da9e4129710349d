"""The definitions that tests compare losses with: plain numbers, no torch."""

import math


def softmax(row, temperature=1.0):
    exponentials = [math.exp(value / temperature) for value in row]
    return [e / sum(exponentials) for e in exponentials]


def answers(logits, temperature=1.0):
    """The softened answer to each image."""
    return [softmax(row, temperature) for row in logits.tolist()]


def kl(p, q):
    """KL(p || q)."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def divergences(student, teacher, temperature=1.0):
    """KL(teacher || student) per image."""
    pairs = zip(answers(teacher, temperature), answers(student, temperature), strict=True)
    return [kl(p, q) for p, q in pairs]
