"""Rollouts in, weights out: DeepSpeed ranks in Ray actors that evaluate every token at the temperature it was drawn at."""
