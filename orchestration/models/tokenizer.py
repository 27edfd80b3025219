"""The tiny policy's tokenizer: Qwen2's, with a small vocabulary of its own in which a decision is one token.

Cost on a CPU is tokens, so text that never varies (a module header) is one token, while every gate, literal and
parenthesis is one of its own: the policy can still make each mistake. All 256 bytes are in the vocabulary, so any
text in Unicode NFC can be encoded and comes back unchanged.

Why Qwen2's class: for `model_type: qwen2`, transformers 5 loads Qwen2Tokenizer whatever class a folder names, and
quietly puts Qwen2's own pre-tokenizer in place of the saved one. So the vocabulary is made right under that one.
"""

import json
import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"  # ids 0, 1 and 2
# No token reaches across these, finer than Qwen2's pieces: " word", "~(", one digit, " symbol", white space.
PIECES = r" ?[A-Za-z]+|~?\(|[0-9]| ?[^\sA-Za-z0-9]|\s"


def train_tokenizer(texts: Iterable[str], boilerplate: Sequence[str], vocab_size: int) -> Qwen2Tokenizer:
    """A tokenizer of at most `vocab_size` tokens, learned from `texts`; each string of `boilerplate` is one of them."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(boilerplate),
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(_without(boilerplate, texts), trainer)
    learned = json.loads(learner.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in boilerplate])
    return tokenizer


def _without(boilerplate: Sequence[str], texts: Iterable[str]) -> Iterable[str]:
    if not boilerplate:
        return texts
    pattern = re.compile("|".join(re.escape(text) for text in boilerplate))
    return (piece for text in texts for piece in pattern.split(text))
