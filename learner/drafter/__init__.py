"""A drafter for a policy: one multi-token-prediction layer, trained on what the policy itself draws.

    own samples (prompt, response) --policy, frozen--> hidden states, p --MtpLayer, K drafts--> q_1 .. q_K --> loss

    layer.py    the layer, unrolled as the engine will run it
    losses.py   how far q is from p: cross-entropy, KL, total variation, end to end over K drafts (pure)
    train.py    samples -> a trained layer and its acceptance by position
    files.py    the layer beside the policy's weights, under the names vLLM loads

The policy never gets a gradient: drafts are verified, so a better drafter changes the speed and nothing else.
"""
