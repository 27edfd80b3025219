"""Rollouts in, weights out: DeepSpeed ranks that evaluate every token at the temperature it was drawn at."""
