"""The pure maths of a draw: how hot a token is drawn, from which others, how probably. torch only, no vLLM.

Sampler and learner both use these functions, so they cannot disagree. In the life of a token:

    control/           a step's statistics -> the policy of the next requests
    learned.py         hidden state -> action of the temperature head          (policies that need "hidden")
    distribution.py    logits -> entropy, tempered probabilities
    temperature/       entropy -> temperature of the token
    truncation/        tempered logits -> those that may be drawn, and the learner's logprob inside that set
    categorical.py     probabilities -> one token
    verify.py          probabilities and drafts -> several tokens, as exactly distributed as one by one
    speculation.py     what was accepted -> how many drafts to make
"""
