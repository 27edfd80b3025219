"""A drafter for a policy: one multi-token-prediction layer, trained on what the policy itself draws.

    samples (prompt, response) --policy, frozen--> hidden states, p --MtpLayer, K drafts--> q_1 .. q_K --> loss

    layer.py    the layer, unrolled as the engine will run it
    rule.py     from its logits to q: at which temperature and with which tail cut the engine draws drafts
    chains.py   samples -> p and q of every draft that may be made in them, and the gradient of a loss of them
    losses.py   how far q is from p: cross-entropy, KL, total variation, end to end over K drafts (pure)
    train.py    own samples -> a trained layer and its acceptance by position: before a run
    online.py   the same beside a policy that learns: a step of the layer after each step of the policy
    files.py    the layer beside the policy's weights, under the names vLLM loads

The policy never gets a gradient: drafts are verified, so a better drafter changes the speed and nothing else.
"""
