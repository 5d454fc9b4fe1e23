"""T5 and BART with visual tokens: the plain model where there are none; text and images kept apart where there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from crossgraft.adapt import AdaptedModel
from crossgraft.errors import InputError
from crossgraft.methods import get_method
from crossgraft.methods.attach import attach
from crossgraft.models.seq2seq import VisionSeq2Seq, VisionSeq2SeqConfig

WORDS, WIDTH = 40, 6
FAMILIES = ("t5", "bart", "mbart")
LABELS = torch.tensor([[5, 6, 1], [7, 1, -100], [8, 9, 1]])


def language_config(family: str, **options: Any) -> hf.PreTrainedConfig:
    common = {"vocab_size": WORDS, "d_model": 16, "pad_token_id": 0, "eos_token_id": 1} | options
    if family == "t5":
        values = {"d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        return hf.T5Config(**values | common)
    values = {f"{part}_{key}": size for part in ("encoder", "decoder") for key, size in HALF.items()}
    positions = {"max_position_embeddings": 12, "decoder_start_token_id": 1, "forced_eos_token_id": None}
    made = hf.BartConfig if family == "bart" else hf.MBartConfig
    return made(**values | positions | {"init_std": 0.3, "bos_token_id": 1} | common)


HALF = {"layers": 2, "attention_heads": 4, "ffn_dim": 32}


def plain_model(family: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return hf.AutoModelForSeq2SeqLM.from_config(language_config(family, **options)).eval()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(family: str, tmp_path: Path) -> VisionSeq2Seq:
    """Sees up to two images."""
    plain_model(family).save_pretrained(tmp_path / "language")
    torch.manual_seed(1)
    made = VisionSeq2Seq.from_language_model(str(tmp_path / "language"), feature_width=WIDTH)
    made.visual_embedding.feature[0].weight.data *= 50  # type: ignore[index, operator]
    return made


def text(length: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(2)
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, 3:] = 0
    return {"input_ids": torch.randint(2, WORDS, (3, length)) * mask, "attention_mask": mask}


def images(count: int = 2) -> dict[str, Tensor]:
    torch.manual_seed(3)
    seen = torch.ones(3, count, 4, dtype=torch.long)
    seen[2, -1] = 0
    return {"visual": torch.randn(3, count, 4, WIDTH), "visual_mask": seen}


@torch.no_grad()
def logits(model: Any, **inputs: Any) -> Tensor:
    return model(**inputs, labels=LABELS).logits  # type: ignore[no-any-return]


def test_without_images_it_is_the_language_model_bit_for_bit(model: VisionSeq2Seq, family: str) -> None:
    plain = plain_model(family)
    logits(model, **text(), **images())  # leaves nothing behind
    assert torch.equal(logits(model, **text()), logits(plain, **text()))
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(**text(), **options), plain.generate(**text(), **options))


def test_images_matter_and_so_does_their_order(model: VisionSeq2Seq) -> None:
    shown = images()
    shown["visual_mask"][:] = 1
    swapped = shown | {"visual": shown["visual"].flip(1)}
    assert not torch.allclose(logits(model, **text()), logits(model, **text(), **shown), atol=1e-3)
    model.visual_embedding.image_order.data *= 50
    assert not torch.allclose(logits(model, **text(), **shown), logits(model, **text(), **swapped), atol=1e-3)


def test_padding_changes_nothing(model: VisionSeq2Seq) -> None:
    expected = logits(model, **text(), **images())
    longer = {key: torch.nn.functional.pad(value, (0, 4)) for key, value in text().items()}
    shown = images()
    wider = {
        "visual": torch.nn.functional.pad(shown["visual"], (0, 0, 0, 3), value=9.0),
        "visual_mask": torch.nn.functional.pad(shown["visual_mask"], (0, 3)),
    }
    assert torch.allclose(logits(model, **longer, **shown), expected, atol=1e-5)
    assert torch.allclose(logits(model, **text(), **wider), expected, atol=1e-5)
    garbage = shown | {"visual": torch.where(shown["visual_mask"][..., None] == 1, shown["visual"], 7.0)}
    assert torch.allclose(logits(model, **text(), **garbage), expected, atol=1e-5)


def test_beams_read_a_cache(model: VisionSeq2Seq) -> None:
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    for beams in (1, 3):
        found = [
            model.generate(**text(), **images(), num_beams=beams, use_cache=cached, **options)
            for cached in (True, False)
        ]
        assert torch.equal(*found)
    encoded, mask = model.encode(**text(), **images())
    again = model.generate(encoder_outputs=encoded, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(again, found[0])


def test_saved_and_loaded(model: VisionSeq2Seq, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    again = VisionSeq2Seq.from_pretrained(tmp_path / "saved")
    assert isinstance(again.config, VisionSeq2SeqConfig)
    assert (again.config.feature_width, again.config.images) == (WIDTH, 2)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(logits(again, **text(), **images()), logits(model, **text(), **images()))


@pytest.mark.parametrize("tied", [True, False])
def test_more_words_leave_the_old_ones_and_the_head(tied: bool, tmp_path: Path) -> None:
    plain = plain_model("t5")
    if not tied:  # as in flan-t5, whose configuration does not say so
        plain.lm_head.weight = torch.nn.Parameter(torch.randn(WORDS, 16))
    plain.save_pretrained(tmp_path / "t5")
    model = VisionSeq2Seq.from_language_model(str(tmp_path / "t5"), feature_width=WIDTH, extra_tokens=7)
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert len(words) == len(head) == WORDS + 7
    assert (words is head) == tied
    assert torch.equal(words[:WORDS], plain.get_input_embeddings().weight)
    assert torch.equal(head[:WORDS], plain.get_output_embeddings().weight)
    model.save_pretrained(tmp_path / "saved")
    again = VisionSeq2Seq.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.get_output_embeddings().weight, head)
    assert torch.equal(again.get_input_embeddings().weight, words)


def test_added_words_are_the_same_whatever_was_drawn_before(model: VisionSeq2Seq, family: str, tmp_path: Path) -> None:
    model.language_model.save_pretrained(tmp_path)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"feature_width": WIDTH, "extra_tokens": 5}
        made.append(VisionSeq2Seq.from_language_model(str(tmp_path), seed=3, **options).state_dict())
    assert all(torch.equal(one, made[1][name]) for name, one in made[0].items())
    rows = made[0]["language_model.shared.weight" if family == "t5" else "language_model.model.shared.weight"]
    assert rows[-5:].std() == pytest.approx(float(rows[:-5].std()), rel=0.4)
    assert len(rows.unique(dim=0)) == len(rows)


def test_t5_has_a_position_bias_between_texts_alone(tmp_path: Path) -> None:
    plain_model("t5").save_pretrained(tmp_path)
    model = VisionSeq2Seq.from_language_model(str(tmp_path), feature_width=WIDTH)
    seen: list[Tensor] = []
    attention = model.get_encoder().block[0].layer[0].SelfAttention  # type: ignore[union-attr, index]
    attention.relative_attention_bias.register_forward_hook(lambda *given: seen.append(given[2]))  # type: ignore[union-attr]
    logits(model, **text(), **images())
    (bias,) = seen  # (S, S, heads)
    assert bias.shape[:2] == (13, 13)
    between = torch.zeros(13, 13, dtype=torch.bool)
    between[:5, :5] = True
    assert (bias[~between] == 0).all()
    assert (bias[between] != 0).all()
    expected = attention.compute_bias(5, 5)  # of a text alone; the lengths of the batch still hold
    assert expected.shape[-2:] == (5, 5)


def test_bart_has_positions_and_its_norm_for_texts_alone(tmp_path: Path) -> None:
    plain_model("bart").save_pretrained(tmp_path)
    model = VisionSeq2Seq.from_language_model(str(tmp_path), feature_width=WIDTH)
    encoder: Any = model.get_encoder()
    positions: list[Tensor] = []
    normed: list[tuple[Tensor, Tensor]] = []
    encoder.embed_positions.register_forward_hook(lambda *given: positions.append(given[2]))
    encoder.layernorm_embedding.register_forward_hook(lambda _, args, out: normed.append((args[0], out)))
    logits(model, **text(), **images())
    places = encoder.embed_positions.weight[2:7]
    assert torch.equal(positions[0][:, :5], places.expand(3, -1, -1))
    assert (positions[0][:, 5:] == 0).all()
    before, after = normed[0]
    assert torch.equal(after[:, 5:], before[:, 5:])
    assert not torch.allclose(after[:, :5], before[:, :5])


def test_bart_needs_positions_for_its_text_alone(tmp_path: Path) -> None:
    plain_model("bart").save_pretrained(tmp_path)
    model = VisionSeq2Seq.from_language_model(str(tmp_path), feature_width=WIDTH)
    many = torch.randn(3, 2, 30, WIDTH)  # 60 tokens, with 12 positions
    assert logits(model, **text(), visual=many).isfinite().all()
    with pytest.raises(InputError, match="a text has 13 tokens, and this model has 12 positions"):
        logits(model, input_ids=torch.full((3, 13), 5))


def test_a_prompt_stands_before_the_text(model: VisionSeq2Seq) -> None:
    before = logits(model, **text(), **images())
    adapted = AdaptedModel(model)
    torch.manual_seed(4)
    attach(adapted, "prompt", get_method("prompt")(length=3, hidden=8))
    for value in adapted.grafts["prompt"].parameters():
        value.data.normal_()
    adapted.eval()
    assert not torch.allclose(logits(adapted, **text(), **images()), before, atol=1e-3)
    options: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 4, "do_sample": False}
    found = [adapted.generate(**text(), **images(), use_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*found)
    longer = {key: torch.nn.functional.pad(value, (0, 4)) for key, value in text().items()}
    expected = logits(adapted, **text(), **images())
    assert torch.allclose(logits(adapted, **longer, **images()), expected, atol=1e-5)
    adapted.detach()
    assert torch.equal(logits(model, **text(), **images()), before)


def test_inputs_that_do_not_fit(model: VisionSeq2Seq) -> None:
    with pytest.raises(InputError, match="visual features are 7 wide, this model takes 6"):
        model(**text(), visual=torch.zeros(3, 1, 4, 7), labels=LABELS)
    with pytest.raises(InputError, match="an input holds 3 images, this model takes 2"):
        model(**text(), **images(3), labels=LABELS)
    with pytest.raises(InputError, match="41 tokens, more than the vocabulary has words"):
        model(**text(), visual=torch.zeros(3, 1, WORDS + 1, WIDTH), labels=LABELS)
    for call in (model, model.generate):
        with pytest.raises(InputError, match="give input_ids"):
            call(attention_mask=torch.ones(3, 5))


def test_models_that_cannot_see(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot load"):
        VisionSeq2Seq.from_language_model(str(tmp_path / "none"), feature_width=WIDTH)
    hf.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a bert model; sight is for t5, bart, mbart"):
        VisionSeq2Seq.from_language_model(str(tmp_path), feature_width=WIDTH)
