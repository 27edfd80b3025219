"""Task -> prompt token ids: the one place where text becomes what the engine continues and the learner conditions on.

Engine and learner both receive ids, never text, so no tokenizer can add a special token on one side only:

    plain   [bos] + prompt          (no bos where the tokenizer has none)
    chat    the tokenizer's chat template with the prompt as the user's turn, up to where the assistant begins

A response is the tokens after that, the end-of-sequence token included when the policy draws it.
"""

from transformers import PreTrainedTokenizerBase

from orchestration.tasks.task import Task


def encode_prompt(tokenizer: PreTrainedTokenizerBase, task: Task, chat: bool) -> tuple[int, ...]:
    """The ids of a task's prompt; as a chat turn where `chat` is True and the tokenizer has a template."""
    if chat and tokenizer.chat_template:
        turn = [{"role": "user", "content": task.prompt}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        return tuple(tokenizer.encode(text, add_special_tokens=False))
    return encode_plain(tokenizer, task.prompt)


def encode_plain(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """[bos] + prompt, the form in which the warm start sees prompts."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return (*start, *tokenizer.encode(prompt, add_special_tokens=False))
