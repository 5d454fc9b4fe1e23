"""What a training is made of: batches, loss, answers, and states that frozen layers gave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_run import T5, WIDTH, WORDS, save_language_model
from torch.nn import functional

from crossgraft.adapt import AdaptedModel
from crossgraft.methods import get_method
from crossgraft.methods.attach import attach
from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig
from crossgraft.tasks import Decoding, Example
from crossgraft.training import prefix_cache
from crossgraft.training.answering import answer, encoded_of
from crossgraft.training.batches import Collator, TaskBatches
from crossgraft.training.build import load_tokenizer
from crossgraft.training.callbacks import Progress
from crossgraft.training.forms.seq2seq import Seq2SeqForm, weighted_loss
from crossgraft.training.prefix_cache import PrefixCache
from crossgraft.training.trainer import arguments

SIZES = {"large": 90, "small": 7, "one": 1}


def counted(batches: TaskBatches) -> Counter[str]:
    return Counter(batch[0].task for batch in batches)


def test_proportional_batches_show_each_example_once() -> None:
    batches = TaskBatches(SIZES, 4, seed=0)
    epochs = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 23 + 2 + 1
        assert all(len({row.task for row in batch}) == 1 for batch in drawn)
        rows = [(row.task, row.place) for batch in drawn for row in batch]
        assert sorted(rows) == sorted((task, place) for task, size in SIZES.items() for place in range(size))
        assert {row.epoch for batch in drawn for row in batch} == {epoch}
        epochs.append(rows)
    assert epochs[0] != epochs[1]
    assert [(row.task, row.place) for batch in batches for row in batch] == epochs[1]  # said by seed and epoch


def test_other_samplings_share_the_batches_out_anew() -> None:
    own = counted(TaskBatches(SIZES, 4, seed=0))
    uniform = counted(TaskBatches(SIZES, 4, seed=0, sampling="uniform"))
    warm = counted(TaskBatches(SIZES, 4, seed=0, sampling="temperature", temperature=2.0))
    assert set(uniform.values()) == {9}  # 26 / 3
    assert own["large"] > warm["large"] > uniform["large"]
    assert warm["large"] / warm["small"] == pytest.approx((23 / 2) ** 0.5, rel=0.1)
    assert counted(TaskBatches(SIZES, 4, seed=0, sampling="temperature", temperature=1.0)) == own
    assert counted(TaskBatches(SIZES, 4, seed=0, sampling="temperature", temperature=0.001))["large"] >= 24
    small = [row.place for batch in TaskBatches(SIZES, 4, 0, "uniform") for row in batch if row.task == "small"]
    assert set(Counter(small).values()) <= {5, 6}  # all in turn, 36 rows of 7


@pytest.mark.parametrize("world", [2, 8, 64])
def test_each_process_gets_as_many_batches(world: int) -> None:
    batches = TaskBatches(SIZES, 4, seed=0, world=world)
    drawn = list(batches)
    assert len(drawn) == len(batches) == -(-26 // world) * world
    assert {(row.task, row.place) for batch in drawn[:26] for row in batch} == {
        (task, place) for task, size in SIZES.items() for place in range(size)
    }


def test_several_gpus_in_one_process_are_not_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crossgraft.training.settings import Training

    made = arguments(Training(), tmp_path, 10, torch.device("cpu"))
    assert made.n_gpu <= 1
    monkeypatch.setattr(hf.TrainingArguments, "n_gpu", 4)
    assert arguments(Training(), tmp_path, 10, torch.device("cpu"))._n_gpu == 1


# -------------------------------------------------------------------------------- a batch


class Drawing:
    """A task that answers with a draw, weighted."""

    prefix, question_length, visual, cloze = "vqa: ", None, "grid", False

    def draw(self, example: Example, rng: Any) -> tuple[str, float]:
        return rng.choice(["red", "green star"]), 0.3


class Features:
    def of(self, example: Example, kind: str) -> torch.Tensor:
        return torch.ones(len(example.images), 1 + int(example.id), WIDTH)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(str(save_language_model(tmp_path_factory.mktemp("model"))))


def collator(tokenizer: Any, examples: list[Example], training: bool = True) -> Collator:
    tasks: dict[str, Any] = {"one": Drawing()}
    source: Any = Features()
    form = Seq2SeqForm(SimpleNamespace(), tasks)  # type: ignore[arg-type]
    return Collator(tasks, {"one": examples}, tokenizer, source, form, 4, 8, seed=0, training=training)


def test_a_batch_is_padded_and_draws_by_example_and_epoch(tokenizer: Any) -> None:
    examples = [Example(str(row), (Path("a"),) * (row + 1), "what colour is it ?"[: 4 + 12 * row]) for row in range(2)]
    one = collator(tokenizer, examples)
    rows = next(iter(TaskBatches({"one": 2}, 2, seed=0)))
    batch = one(rows)
    assert batch["input_ids"].shape == (2, 4)  # cut to the text length
    assert batch["visual"].shape == (2, 2, 2, WIDTH)
    at = [row.place for row in rows]
    assert batch["visual_mask"][at.index(0)].tolist() == [[1, 0], [0, 0]]
    assert batch["visual_mask"][at.index(1)].tolist() == [[1, 1], [1, 1]]
    assert batch["weights"].tolist() == pytest.approx([0.3, 0.3])
    again = one(rows[::-1])["labels"]
    assert torch.equal(again.flip(0)[:, : batch["labels"].shape[1]], batch["labels"])
    assert set(collator(tokenizer, examples, training=False)(rows)) == {
        "rows",
        "task",
        "examples",
        "input_ids",
        "attention_mask",
        "visual",
        "visual_mask",
    }


def test_the_loss_is_a_mean_of_weighted_token_means() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[1, 4, 2], [3, -100, -100]])
    log = logits.log_softmax(-1)
    first = -(log[0, 0, 1] + log[0, 1, 4] + log[0, 2, 2]) / 3
    expected = (0.3 * first + 0.9 * -log[1, 0, 3]) / 2
    assert torch.allclose(weighted_loss(logits, labels, torch.tensor([0.3, 0.9])), expected)


# -------------------------------------------------------------------------------- answers and prefixes


def adapted(sites: list[str] | None = None, dropout: float = 0.1) -> AdaptedModel:
    torch.manual_seed(0)
    config = hf.T5Config(vocab_size=48, **T5 | {"dropout_rate": dropout, "num_layers": 3})
    model = AdaptedModel(VisionSeq2Seq(VisionSeq2SeqConfig(config, WIDTH, 2)))
    options = {"reduction": 4, "init": "normal"} | ({"sites": tuple(sites)} if sites else {})
    attach(model, "new", get_method("adapter")(**options))
    return model.eval()


def inputs(batch: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(batch, 5, dtype=torch.long)
    mask[0, 3:] = 0
    seen = torch.ones(batch, 2, 4, dtype=torch.long)
    seen[1, 1] = 0
    ids = torch.randint(3, 19, (batch, 5))
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "visual": torch.randn(batch, 2, 4, WIDTH),
        "visual_mask": seen,
    }


@pytest.mark.parametrize("choices", [("red", "green", "blue"), ("a red star", "a star it", "red it shape ?")])
def test_the_answer_is_the_likeliest_choice(tokenizer: Any, choices: tuple[str, ...]) -> None:
    model, given = adapted(), inputs(16)
    for name, weights in model.named_parameters():
        if "EncDecAttention" in name:
            weights.data *= 30  # so that random weights give different answers
    found = answer(model, tokenizer, given, Decoding(choices=choices))
    scores = []
    for choice in choices:
        ids = torch.tensor([[WORDS.index(word) for word in choice.split()] + [1]]).repeat(16, 1)
        with torch.no_grad():
            logits = model(**given, labels=ids).logits
        tokens = functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        scores.append(-tokens[:, 0] if len(choices[0].split()) == 1 else -tokens.sum(1))
    assert found == [choices[row] for row in torch.stack(scores, 1).argmax(1)]
    assert len(set(found)) > 1


@pytest.mark.parametrize("site", ["encoder.2.feed_forward", "encoder.2.input", "encoder.1.output"])
def test_a_prefix_gives_what_the_whole_encoder_gives(site: str, tmp_path: Path) -> None:
    model, given, device = adapted([site, "decoder.*.feed_forward"]), inputs(), torch.device("cpu")
    backbone: Any = model.backbone
    cache = PrefixCache(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing for a kill to leave behind
    expected, mask = encoded_of(model, given)
    for _ in range(2):
        prefix = cache.prefix(backbone.capture, 2, "abc", given, device, torch.float32)
        found, seen = encoded_of(model, {"prefix": prefix})
        # Tokens that are not there are left out: the batch may be narrower.
        one, other = (
            [states[row][where[row].bool()] for row in range(3)]
            for states, where in ((expected.last_hidden_state, mask), (found.last_hidden_state, seen))
        )
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))
    labels = torch.tensor([[12, 1], [13, 1], [14, 1]])
    assert torch.allclose(model(**given, labels=labels).logits, model(prefix=prefix, labels=labels).logits, atol=1e-5)
    cache.close()


def test_no_sample_is_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, given, device = adapted(["encoder.2.feed_forward"]), inputs(), torch.device("cpu")
    backbone: Any = model.backbone
    sizes: list[int] = []
    capture = backbone.capture
    monkeypatch.setattr(
        backbone, "capture", lambda layers, **batch: sizes.append(len(batch["input_ids"])) or capture(layers, **batch)
    )
    cache = PrefixCache(tmp_path)
    first = cache.prefix(backbone.capture, 2, "aba", given, device, torch.float32)
    second = cache.prefix(backbone.capture, 2, "bca", given, device, torch.float32)
    assert sizes == [2, 1]
    assert (cache.computed, cache.reused) == (3, 3)
    assert torch.equal(first.states[1][first.mask[1].bool()], second.states[0][second.mask[0].bool()])
    monkeypatch.setattr(prefix_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    for _ in range(2):
        cache.prefix(backbone.capture, 2, "xyz", given, device, torch.float32)  # there is no room: computed each time
    assert sizes == [2, 1, 3, 3]
    cache.close()


def test_captured_states_draw_no_random_numbers_and_leave_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(["encoder.2.feed_forward"])
    backbone: Any = model.train().backbone
    last = backbone.get_submodule(model.stacks["encoder"].layer_path(2))
    last.register_forward_hook(lambda *_: pytest.fail("layers above need not run"))
    given = inputs()
    before = torch.get_rng_state()
    states = [backbone.capture(2, **given).states for _ in range(2)]
    assert torch.equal(*states)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in backbone.modules())


def test_a_loss_is_said_once_there_is_one() -> None:
    said: list[str] = []
    state = SimpleNamespace(epoch=1.0, log_history=[], max_steps=4, global_step=2)
    shown = Progress(SimpleNamespace(start=lambda *_: None), said.append)  # type: ignore[arg-type]
    shown.on_evaluate(None, state, None, metrics={"eval_mean": 50.0})
    state.log_history = [{"loss": 0.5}, {"loss": 0.25}, {"eval_mean": 50.0}]
    shown.on_evaluate(None, state, None, metrics={"eval_mean": 50.0})
    assert said == ["epoch 1: mean validation score 50.00", "epoch 1: loss 0.250, mean validation score 50.00"]
