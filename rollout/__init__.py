"""Prompts in, rollouts out: vLLM engines in Ray actors that report how every single token was drawn."""
