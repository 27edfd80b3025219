"""Task -> prompt ids, plain and as a chat turn."""

import pytest

from orchestration.models.prompts import encode_prompt
from orchestration.models.tokenizer import train_tokenizer
from orchestration.tasks.task import Task

TASK = Task(id="t", prompt="7+5=", verifier="math", reference={"answer": "12"})
TEMPLATE = (
    "{% for m in messages %}<bos>{{ m.role }}:{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)


@pytest.fixture
def tokenizer():
    return train_tokenizer(["7+5=12"], (), vocab_size=300)


def test_a_plain_prompt_starts_with_bos_once(tokenizer):
    """[bos] + prompt, without an end token."""
    ids = encode_prompt(tokenizer, TASK, chat=False)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "7+5="


def test_a_chat_prompt_is_the_template_up_to_the_assistant(tokenizer):
    """The template alone places special tokens: no second bos is put in front."""
    tokenizer.chat_template = TEMPLATE
    ids = encode_prompt(tokenizer, TASK, chat=True)
    assert tokenizer.decode(ids) == "<bos>user:7+5=<eos><bos>assistant:"
    assert ids.count(tokenizer.bos_token_id) == 2


@pytest.mark.parametrize("chat", [True, False])
def test_without_a_template_a_chat_task_is_plain(tokenizer, chat):
    """`chat` is a wish: a model without a template gets the plain form."""
    assert encode_prompt(tokenizer, TASK, chat=chat) == encode_prompt(tokenizer, TASK, chat=False)


def test_a_tokenizer_without_bos_adds_none(tokenizer):
    """Qwen's own tokenizers have no bos token."""
    tokenizer.bos_token = None
    assert tokenizer.decode(encode_prompt(tokenizer, TASK, chat=False)) == "7+5="
