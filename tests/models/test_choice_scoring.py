"""Words scored behind prompts: as a loop over single prompts finds them, by masked and causal models, whole or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import transformers as hf
from tiny_words import KINDS, model_of, tokenizer_of
from torch import Tensor

from crossgraft.errors import InputError
from crossgraft.models.choice_scoring import ChoiceScorer, kind_of
from crossgraft.tasks.colors import COLORS, SPELLINGS

PROMPTS = ("The color of coal is", "What is the usual color of the sea?", "Snow usually has the color of", "it is")


def scorer_of(family: str, *, whole: bool = True, seed: int = 0, **options: object) -> ChoiceScorer:
    tokenizer = tokenizer_of(family, whole=whole)
    model = model_of(family, len(tokenizer), seed)
    return ChoiceScorer(model, tokenizer, SPELLINGS, kind=KINDS[family], **options)  # type: ignore[arg-type]


@torch.no_grad()
def naive(scorer: ChoiceScorer, prompt: str, word: str) -> float:
    """The mean log-probability of a word's tokens behind one prompt, without padding or batches."""
    tokenizer, model = scorer.tokenizer, scorer.model
    if scorer.kind == "causal":
        before = tokenizer(prompt).input_ids
        both = tokenizer(f"{prompt} {word}").input_ids
        assert both[: len(before)] == before
        logs = model(torch.tensor([both])).logits[0].log_softmax(-1)
        new = range(len(before), len(both))
        return sum(float(logs[at - 1, both[at]]) for at in new) / len(new)
    whole = tokenizer(f"{prompt} {word}.").input_ids
    count = len(whole) - len(tokenizer(f"{prompt}.").input_ids)
    first = len(tokenizer(prompt).input_ids) - 1  # less the end
    hidden = list(whole)
    hidden[first : first + count] = [tokenizer.mask_token_id] * count
    logs = model(torch.tensor([hidden])).logits[0].log_softmax(-1)
    return sum(float(logs[at, whole[at]]) for at in range(first, first + count)) / count


@pytest.mark.parametrize("whole", [True, False], ids=["one-token", "several"])
@pytest.mark.parametrize("family", KINDS)
def test_scores_are_those_of_a_loop_over_single_prompts(family: str, whole: bool) -> None:
    scorer = scorer_of(family, whole=whole)
    assert scorer.one_token is whole
    expected = torch.tensor([[naive(scorer, prompt, word) for word in scorer.words] for prompt in PROMPTS])
    assert torch.allclose(scorer.word_scores(PROMPTS), expected, atol=1e-5)
    assert expected.std(1).min() > 0.1  # the words differ


@pytest.mark.parametrize("family", KINDS)
def test_a_space_is_part_of_the_word_where_the_tokenizer_says_so(family: str) -> None:
    scorer = scorer_of(family)
    tokens = scorer.tokenizer.convert_ids_to_tokens([own[0] for own in scorer._tokens])
    assert tokens[0] == {"bert": "red", "roberta": "Ġred", "llama": "▁red"}[family]


@pytest.mark.parametrize("whole", [True, False], ids=["one-token", "several"])
@pytest.mark.parametrize("family", KINDS)
def test_neither_batches_nor_padding_change_a_score(family: str, whole: bool) -> None:
    alone = torch.cat([scorer_of(family, whole=whole)([prompt]) for prompt in PROMPTS])
    for size in (1, 3, 64):
        assert torch.allclose(scorer_of(family, whole=whole, batch_size=size)(PROMPTS), alone, atol=1e-5)
    left = scorer_of(family, whole=whole)
    left.tokenizer.padding_side = "left"  # as generation wants it
    assert torch.allclose(left(PROMPTS), alone, atol=1e-5)


@pytest.mark.parametrize("family", KINDS)
def test_two_spellings_are_one_choice(family: str) -> None:
    scorer = scorer_of(family)
    assert scorer.choices == COLORS
    assert scorer.words == (*COLORS, "gray")
    words, found = scorer.word_scores(PROMPTS), scorer(PROMPTS)
    assert torch.equal(found[:, :-1], words[:, :10])
    assert torch.allclose(found[:, -1].exp(), words[:, 10].exp() + words[:, 11].exp())
    parts = scorer_of(family, whole=False)
    assert torch.equal(parts(PROMPTS)[:, -1], parts.word_scores(PROMPTS)[:, 10:].amax(1))


def test_words_of_several_tokens_are_said() -> None:
    said: list[str] = []
    scorer_of("bert", say=said.append)
    assert said == []
    scorer_of("bert", whole=False, say=said.append)
    assert said == [
        "purple: several tokens each for this tokenizer, so all words are scored by the mean log-probability of "
        "their tokens"
    ]


@pytest.mark.parametrize("whole", [True, False], ids=["one-token", "several"])
@pytest.mark.parametrize("family", KINDS)
def test_every_pass_is_told_the_prompts_of_its_rows(family: str, whole: bool) -> None:
    told: list[Sequence[str]] = []
    inside = False

    @contextmanager
    def looking(texts: Sequence[str]) -> Iterator[None]:
        nonlocal inside
        told.append(texts)
        inside = True
        yield
        inside = False

    scorer = scorer_of(family, whole=whole, looking=looking, batch_size=13)
    rows: list[int] = []

    def watch(module: torch.nn.Module, given: tuple[object, ...], named: dict[str, Tensor]) -> None:
        assert inside
        rows.append(len(named["input_ids"]))

    scorer.model.register_forward_pre_hook(watch, with_kwargs=True)
    scorer(PROMPTS)
    assert rows == [len(texts) for texts in told]
    assert max(rows) <= 13
    assert {text for texts in told for text in texts} == {*PROMPTS}  # no word that is scored, and no mask
    repeated = {("causal", False): 12, ("masked", False): 2}.get((KINDS[family], whole), 1)
    assert sum(rows) == repeated * len(PROMPTS)


def test_the_mode_is_put_back_and_nothing_is_tracked() -> None:
    scorer = scorer_of("llama")
    scorer.model.train()
    assert not scorer(PROMPTS).requires_grad
    assert scorer.model.training
    with pytest.raises(ValueError, match="text"):
        scorer([None])  # type: ignore[list-item]
    assert scorer.model.training


def test_half_precision_gives_float_scores() -> None:
    scorer = scorer_of("llama")
    expected = scorer(PROMPTS)
    scorer.model.to(torch.bfloat16)
    assert scorer(PROMPTS).dtype == torch.float32
    assert (scorer(PROMPTS) - expected).abs().max() < 1


def test_progress_is_told_in_prompts() -> None:
    done: list[int] = []
    scorer_of("llama", whole=False, batch_size=24)(PROMPTS, done.append)
    assert done == [2, 2]
    assert scorer_of("bert")([]).shape == (0, 11)


def test_an_end_that_a_tokenizer_adds_is_not_asked_behind() -> None:
    plain = scorer_of("llama")
    ended = scorer_of("llama")
    from tokenizers.processors import TemplateProcessing

    ended.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert ended.tokenizer("it is").input_ids[-1] == 2
    assert torch.equal(ended(PROMPTS), plain(PROMPTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "other"}, "choose from masked, causal"),
        ({"choices": []}, "choices must be different words"),
        ({"choices": ["red", "red"]}, "choices must be different words"),
        ({"choices": {"red": []}}, "choices must be different words"),
        ({"choices": ["red", "zzz"]}, "does not know 'zzz'"),
        ({"kind": "masked"}, "no mask token"),
    ],
)
def test_what_cannot_be_scored_is_said(options: dict[str, object], message: str) -> None:
    family = "llama" if options.get("kind") == "masked" else "bert"
    tokenizer = tokenizer_of(family)
    model = model_of(family, len(tokenizer))
    given = {"choices": ["red", "green"], "kind": KINDS[family]} | options
    with pytest.raises(InputError, match=message):
        ChoiceScorer(model, tokenizer, **given)  # type: ignore[arg-type]


def test_a_prompt_with_a_mask_is_refused() -> None:
    with pytest.raises(InputError, match="expected 1 masks"):
        scorer_of("bert")(["[MASK] is"])


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (hf.BertConfig(architectures=["BertForMaskedLM"]), "masked"),
        (hf.BertConfig(architectures=["BertForPreTraining"]), "masked"),
        (hf.BertConfig(architectures=["BertLMHeadModel"]), "causal"),
        (hf.BertConfig(architectures=["BertModel"]), "masked"),
        (hf.RobertaConfig(), "masked"),
        (hf.GPT2Config(architectures=["GPT2LMHeadModel"]), "causal"),
        (hf.LlamaConfig(), "causal"),
    ],
)
def test_the_kind_of_a_model(config: hf.PretrainedConfig, kind: str) -> None:
    assert kind_of(config) == kind


def test_models_of_neither_kind_are_refused() -> None:
    for config in (hf.T5Config(), hf.BartConfig(), hf.ViTConfig()):
        with pytest.raises(InputError, match=config.model_type):
            kind_of(config)
