"""Conversations in the shape of real checkpoints' templates: prompts, answers, generation and packing stay stock's.

The templates are those that the checkpoints publish, as far as conversations of text and images go, with the tiny
tokenizer's mark for the end of a turn in the place of their own.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken

from vagen.cloze.scoring import score
from vagen.config import Tiny
from vagen.policy import tiny
from vagen.policy.chat import Chat
from vagen.policy.constrain import Constrainer, Vocabulary
from vagen.policy.generate import generate, score_answers
from vagen.policy.packing import share_features
from vagen.policy.policy import ClozeFormat, Policy

END = tiny.END
IMAGE_PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
)
QWEN2_5_VL = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    f"You are a helpful assistant.{END}\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    f"{END}\n{{% else %}}{IMAGE_PARTS}{END}\n{{% endif %}}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_VL = (  # no system message of its own
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    f"{{% if message['content'] is string %}}{{{{ message['content'] }}}}{{% else %}}{IMAGE_PARTS}{{% endif %}}{END}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLVLM = (  # "User:" is followed by an image at once and by text after a space; the answer by a space
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    f"{END}\n{{% endfor %}}{{% if add_generation_prompt %}}{{{{ 'Assistant:' }}}}{{% endif %}}"
)
LLAVA = (  # turns end with a space: only the tokenizer knows how answers end
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
TEMPLATES = {"qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL, "idefics3": SMOLVLM, "llava": LLAVA}


@pytest.fixture(params=["plain", "begins"])
def chat(request, architecture, make_chat) -> Chat:
    """A chat in a family's template; ``begins``: with a tokenizer that puts a token of beginning before texts."""
    plain = make_chat(architecture, explain=True, seed=3)
    processor = type(plain.policy.processor).__new__(type(plain.policy.processor))
    processor.__dict__.update(plain.policy.processor.__dict__)
    processor.chat_template = TEMPLATES[architecture]
    if request.param == "begins":
        from tokenizers.processors import TemplateProcessing

        tokenizer = type(processor.tokenizer)(
            tokenizer_object=type(processor.tokenizer.backend_tokenizer).from_str(
                processor.tokenizer.backend_tokenizer.to_str()
            ),
            **{name: str(token) for name, token in processor.tokenizer.special_tokens_map.items() if "_token" in name},
            bos_token=AddedToken(tiny.USER, special=True),  # any token will do
        )
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{tiny.USER} $A", special_tokens=[(tiny.USER, tokenizer.convert_tokens_to_ids(tiny.USER))]
        )
        processor.tokenizer = tokenizer
    return Chat(replace(plain.policy, processor=processor))


def test_prompts_answers_and_generation_are_stock(chat, every_cloze, with_pictures):
    model, processor = chat.policy.model, chat.policy.processor
    pairs = with_pictures(every_cloze("sokoban-6x6")[::3])
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    answers = generate(chat, prompts, 6)
    assert len(set(answers)) > 1
    scores = score_answers(chat, prompts, [[sample.answer] for sample, _ in pairs])
    for (sample, pictures), (prompt, _), answer, log_prob in zip(pairs, prompts, answers, scores, strict=True):
        images = [[Image.fromarray(picture.pixels) for picture in pictures]] if pictures else None
        question = chat.messages(sample)
        text = processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=images, return_tensors="pt")
        assert prompt.ids.tolist() == inputs["input_ids"][0].tolist(), f"{sample.name}: another prompt"
        assert chat.tokenizer.bos_token is None or prompt.ids[0] == chat.tokenizer.bos_token_id
        inputs = {n: t.to(model.dtype) if t.is_floating_point() else t for n, t in inputs.items()}
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, length:]
        assert answer == chat.decode(output.tolist()), f"{sample.name}: another answer"
        # The answer in the whole conversation is what is trained, and its likelihood the stock forward's.
        whole = processor.apply_chat_template(chat.messages(sample, sample.answer), tokenize=False)
        inputs = processor(text=[whole], images=images, return_tensors="pt")
        ids = inputs["input_ids"][0]
        trained = chat.answer_tokens(sample.answer)
        assert trained[-1] == chat.tokenizer.eos_token_id
        assert chat.decode(trained.tolist()) == sample.answer
        own = ids[length : length + len(trained) - 1].tolist()
        assert own == trained[:-1].tolist(), f"{sample.name}: other tokens"
        inputs = {n: t.to(model.dtype) if t.is_floating_point() else t for n, t in inputs.items()}
        with torch.no_grad():
            chances = model(**inputs).logits[0, length - 1 : length - 1 + len(trained)].log_softmax(-1)
        assert log_prob[0] == pytest.approx(float(chances[range(len(trained)), trained].sum()), abs=1e-4)


def test_constrained_answers_begin_as_the_template_has_it(chat, every_cloze, with_pictures):
    constrainer = Constrainer(chat)
    pairs = with_pictures(every_cloze("sokoban-6x6")[::3])
    prompts = [(chat.prompt(sample, pictures), pictures) for sample, pictures in pairs]
    automata = [constrainer.for_sample(sample) for sample, _ in pairs]
    for (sample, _), automaton in zip(pairs, automata, strict=True):
        position = automaton.start
        for token in chat.answer_tokens(sample.answer).tolist():
            assert token in automaton.allowed(position), f"{sample.name}: the right answer is ruled out"
            position = automaton.advance(position, token)
        assert position is None
    answers = generate(chat, prompts, 1, automata=automata)
    assert all(score(sample, answer).parsed for (sample, _), answer in zip(pairs, answers, strict=True))


def test_tokens_of_a_sentencepiece_tokenizer_are_read_in_the_middle_of_a_text():
    """Llama's tokenizer writes a space as a mark and drops it at the beginning of a text; bytes spell the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"aleftu", "▁a", "le", "ft", "▁le"]
    merges = [("▁", "a"), ("l", "e"), ("f", "t"), ("▁", "le")]
    bpe = Tokenizer(models.BPE({w: n for n, w in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>")
    texts = Vocabulary(tokenizer).texts
    assert texts[words.index("▁le")] == " le"
    assert texts[words.index("▁")] == " "
    assert texts[words.index("ft")] == "ft"
    assert texts[words.index("<0x0A>")] == "\n"
    assert words.index("</s>") not in texts
    assert np.all([words.index(f"<0x{byte:02X}>") not in texts for byte in range(128, 256)]), "parts of characters"


def test_policies_of_other_end_tokens(architecture, every_cloze):
    """Qwen's checkpoints list several tokens that end a turn; each of them may end a constrained answer."""
    small = {"hidden_size": 32, "layers": 1, "head_size": 16, "vision_hidden_size": 32, "vision_layers": 1}
    model, processor = tiny.build(Tiny(architecture=architecture, **small), ("sokoban-6x6",), 0)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    chat = Chat(Policy("small", model, processor, ClozeFormat("grid", False)))
    automaton = Constrainer(chat).for_sample(every_cloze("sokoban-6x6")[0])
    assert set(automaton.ends) == {processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id}


@pytest.mark.parametrize("whole", [True, False])
def test_features_are_repeated_in_the_form_they_come_in(whole):
    """Versions of transformers give what DeepStack adds as one tensor or as one for each image."""
    parts = torch.arange(10.0).reshape(5, 2)  # of images with 2 and 3 tokens
    form = (lambda tensor: tensor) if whole else (lambda tensor: torch.split(tensor, [2, 3]))
    outputs = SimpleNamespace(pooler_output=torch.split(parts, [2, 3]), deepstack_features=[form(parts), form(-parts)])
    index = torch.tensor([2, 3, 4, 0, 1, 0, 1])
    shared = share_features(outputs, SimpleNamespace(features=index))
    for found, expected in zip(
        [shared.pooler_output, *shared.deepstack_features], [parts, parts, -parts], strict=True
    ):
        assert torch.equal(found if isinstance(found, torch.Tensor) else torch.cat(found), expected[index])
    assert isinstance(shared.deepstack_features[0], torch.Tensor) == whole
