"""Which of a few words a language model would put behind a text: how likely it is to say each of them.

A masked model (BERT, RoBERTa) fills a mask behind the last word, a causal one (GPT, LLaMA) goes on with the text. Words
of one token are read off the logits at that place (LAMA, Petroni et al. 2019, arXiv 1909.01066). If any word has
several tokens, each word gets the mean log-probability of its tokens, so that none wins by being short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crossgraft.errors import InputError

Kind = Literal["masked", "causal"]
KINDS = ("masked", "causal")
Looking = Callable[[Sequence[str]], AbstractContextManager[None]]
"""Texts of the rows of a batch -> a context in which the model sees what belongs to them."""

MASKED = frozenset(
    {"albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"}
    | {"xlm-roberta"}
)
_CARRIER = "is"  # a word that others are put behind, to see which tokens they have there


def kind_of(config: Any) -> Kind:
    """Whether a model is masked or causal, by the class that its configuration names, else by its family.

    Raises:
        InputError: neither says so, or it is an encoder-decoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"a {config.model_type} model reads with one half, writes with the other; choose BERT or GPT")
    for name in getattr(config, "architectures", None) or ():
        if name.endswith(("ForMaskedLM", "ForPreTraining")):
            return "masked"
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return "causal"
    if config.model_type in MASKED:
        return "masked"
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise InputError(
        f"a {config.model_type} model is neither a masked nor a causal language model that is known; say which with "
        "--kind, or choose another"
    )


class ChoiceScorer:
    """Scores a fixed list of choices behind prompts.

    Args:
        model: a language model with logits; adapted or not. It stays on its device and in its precision, is put in
            eval mode for the scoring and back afterwards.
        tokenizer: the model's, from transformers.
        choices: words, or names with the spellings of each.
        kind: masked or causal.
        looking: entered around every forward pass with the prompts of its rows, one a row (repeated where several words
            are scored behind one prompt). Never with the word that is scored: what is looked up by it would hand the
            answer over.
        batch_size: rows of a forward pass.
        ending: what stands behind a mask; masked models were taught whole sentences.
        say: hears, when the scorer is made, that words have several tokens.

    Attributes:
        choices: their names, in order.
        words: all spellings.
        one_token: whether every word is one token; if not, all are scored by the mean over their tokens.

    Raises:
        InputError: an unknown kind, no choices, a word twice, one that the tokenizer does not know, or a masked model's
            tokenizer without a mask.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        choices: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        kind: Kind,
        looking: Looking = lambda texts: nullcontext(),
        batch_size: int = 32,
        ending: str = ".",
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        if kind not in KINDS:
            raise InputError(f"kind {kind!r} is unknown: choose from {', '.join(KINDS)}")
        if kind == "masked" and tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token, so its model fills no masks; use kind causal")
        spellings = choices if isinstance(choices, Mapping) else {word: (word,) for word in choices}
        self.model, self.tokenizer, self.kind, self.looking = model, tokenizer, kind, looking
        self.batch_size, self.ending = batch_size, ending
        self.choices = tuple(spellings)
        self.words = tuple(word for own in spellings.values() for word in own)
        twice = len(set(self.words)) < len(self.words) or len(spellings) < len(choices)
        if not self.words or twice or not all(spellings.values()):
            raise InputError(f"choices must be different words, at least one each, found {choices!r:.200}")
        self._tokens = [_tokens_behind(tokenizer, word) for word in self.words]
        self._own = [[self.words.index(word) for word in own] for own in spellings.values()]
        long = [word for word, tokens in zip(self.words, self._tokens, strict=True) if len(tokens) > 1]
        self.one_token = not long
        if long:
            say(
                f"{', '.join(long)}: several tokens each for this tokenizer, so all words are scored by the mean "
                "log-probability of their tokens"
            )

    def __call__(self, prompts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Tensor:
        """How likely each choice is behind each prompt.

        Args:
            prompts: texts that end before the word.
            advance: hears how many prompts are done since the last time.

        Returns:
            Log-probabilities (n, choices), float32, on the CPU. A choice with several spellings has the sum of their
            probabilities; where words are scored by means over tokens, which do not add up, the best one's.
        """
        words = self.word_scores(prompts, advance)
        own = [words[:, places] for places in self._own]
        return torch.stack([part.logsumexp(1) if self.one_token else part.amax(1) for part in own], 1)

    @torch.no_grad()
    def word_scores(self, prompts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Tensor:
        """Log-probability of each word (n, words), of several tokens the mean over them; float32, on the CPU.

        Raises:
            InputError: a prompt of a masked model holds a mask itself.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            # A prompt takes as many rows as it has to be read with different words behind it.
            step = self.batch_size if self.kind == "masked" or self.one_token else self.batch_size // len(self.words)
            rows = []
            for start in range(0, len(prompts), max(step, 1)):
                part = prompts[start : start + max(step, 1)]
                rows.append(self._masked(part) if self.kind == "masked" else self._causal(part))
                advance(len(part))
        finally:
            self.model.train(was_training)
        return torch.cat(rows) if rows else torch.zeros(0, len(self.words))

    def _masked(self, prompts: Sequence[str]) -> Tensor:
        """One pass for each number of tokens that words have, with as many masks; all words of it are read there."""
        scores = torch.zeros(len(prompts), len(self.words))
        mask = self.tokenizer.mask_token
        for count in sorted({len(tokens) for tokens in self._tokens}):
            # RoBERTa's mask takes the space before it along, and is " red"; BERT knows no spaces.
            texts = [f"{prompt} {mask * count}{self.ending}" for prompt in prompts]
            ids = [list(self.tokenizer(text).input_ids) for text in texts]
            at = [[place for place, token in enumerate(row) if token == self.tokenizer.mask_token_id] for row in ids]
            if wrong := [text for text, places in zip(texts, at, strict=True) if len(places) != count]:
                raise InputError(f"expected {count} masks in {wrong[0]!r}; leave {mask} out of the prompt")
            logits = self._logits(ids, prompts)
            rows = torch.arange(len(prompts), device=logits.device)[:, None]
            found = logits[rows, torch.tensor(at, device=logits.device)].float().log_softmax(-1).cpu()  # (n, m, words)
            for number, tokens in enumerate(self._tokens):
                if len(tokens) == count:
                    scores[:, number] = found[:, range(count), tokens].mean(1)
        return scores

    def _causal(self, prompts: Sequence[str]) -> Tensor:
        asked = [_without_end(self.tokenizer, prompt) for prompt in prompts]
        if self.one_token:
            logits = self._logits(asked, prompts)
            last = torch.tensor([len(row) - 1 for row in asked], device=logits.device)
            found = logits[torch.arange(len(asked), device=logits.device), last].float().log_softmax(-1).cpu()
            return found[:, [tokens[0] for tokens in self._tokens]]
        scores = torch.zeros(len(prompts), len(self.words))
        pairs = [(row, number) for row in range(len(asked)) for number in range(len(self.words))]
        for start in range(0, len(pairs), self.batch_size):
            part = pairs[start : start + self.batch_size]
            ids = [asked[row] + self._tokens[number] for row, number in part]
            logits = self._logits(ids, [prompts[row] for row, _ in part])
            for place, (row, number) in enumerate(part):
                before, tokens = len(asked[row]) - 1, self._tokens[number]
                found = logits[place, before : before + len(tokens)].float().log_softmax(-1)  # (m, words)
                scores[row, number] = found[range(len(tokens)), tokens].mean().cpu()
        return scores

    def _logits(self, ids: Sequence[Sequence[int]], prompts: Sequence[str]) -> Tensor:
        """Rows of tokens -> logits (B, L, words). Padded on the right, where no token before it can see it."""
        device = next(self.model.parameters()).device
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        given = [torch.tensor(row, device=device) for row in ids]
        inputs: dict[str, Any] = {
            "input_ids": nn.utils.rnn.pad_sequence(given, batch_first=True, padding_value=padding),
            "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in given], batch_first=True),
        }
        if self.kind == "causal":
            inputs["use_cache"] = False
        with self.looking(list(prompts)):
            logits: Tensor = self.model(**inputs).logits
        return logits


def _tokens_behind(tokenizer: Any, word: str) -> list[int]:
    """The tokens of a word that stands behind another one, with the space that many tokenizers make part of it.

    Raises:
        InputError: the tokenizer does not know it, or makes other tokens of the word before it.
    """
    before, both = (
        list(tokenizer(text, add_special_tokens=False).input_ids) for text in (_CARRIER, f"{_CARRIER} {word}")
    )
    tokens = both[len(before) :]
    if both[: len(before)] != before or not tokens:
        raise InputError(f"this tokenizer has no tokens of its own for {word!r} behind another word")
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens:
        raise InputError(f"this tokenizer does not know {word!r}; choose a model of a language that has the word")
    return tokens


def _without_end(tokenizer: Any, prompt: str) -> list[int]:
    """A prompt's tokens as the model reads them, without an end that its tokenizer may put behind them."""
    whole = list(tokenizer(prompt).input_ids)
    plain = list(tokenizer(prompt, add_special_tokens=False).input_ids)
    while len(whole) > 1 and whole[-1] != plain[-1]:
        whole.pop()
    return whole
