"""The pure maths of a draw: entropy, tempered log-probability and the temperature of each token.

torch only, no vLLM. The sampler and the learner both use these functions, so they cannot disagree.
"""
