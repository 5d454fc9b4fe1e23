"""GLUE: official files with their traps, what is held out, official metrics, and answers as they are handed in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from task_files import make

from crossgraft.errors import InputError
from crossgraft.tasks import Task
from crossgraft.tasks.base import Example
from crossgraft.tasks.metrics.correlation import f1, matthews, pearson, spearman

HEADERS = {
    "CoLA": ("", "index\tsentence"),
    "SST-2": ("sentence\tlabel", "index\tsentence"),
    "MRPC": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        "\ufeffindex\t#1 ID\t#2 ID\t#1 String\t#2 String",
    ),
    "STS-B": ("index\tgenre\tsentence1\tsentence2\tscore", "index\tgenre\tsentence1\tsentence2"),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "id\tquestion1\tquestion2"),
    "MNLI": (
        "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        "index\tpromptID\tsentence1_parse\tsentence1\tsentence2",
    ),
    "QNLI": ("index\tquestion\tsentence\tlabel", "index\tquestion\tsentence"),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "index\tsentence1\tsentence2"),
}
ROWS = {
    "CoLA": ("gj04\t{label}\t*\tOne {n}.", "{n}\tOne {n}."),
    "SST-2": ("one {n} \t{label}", "{n}\tone {n}"),
    "MRPC": ("{label}\t7\t8\tOne {n}.\tTwo {n}.", "{n}\t7\t8\tOne {n}.\tTwo {n}."),
    "STS-B": ("{n}\tnews\tOne {n}.\tTwo {n}.\t{label}", "{n}\tnews\tOne {n}.\tTwo {n}."),
    "QQP": ("9{n}\t1\t2\tOne {n}?\tTwo {n}?\t{label}", "{n}\tOne {n}?\tTwo {n}?"),
    "MNLI": ("{n}\tp\t( One )\tOne {n}.\tTwo {n}.\tneutral\t{label}", "{n}\tp\t( One )\tOne {n}.\tTwo {n}."),
    "QNLI": ("{n}\tOne {n}?\tTwo {n}.\t{label}", "{n}\tOne {n}?\tTwo {n}."),
    "RTE": ("{n}\tOne {n}.\tTwo {n}.\t{label}", "{n}\tOne {n}.\tTwo {n}."),
    "WNLI": ("{n}\tOne {n}.\tTwo {n}.\t{label}", "{n}\tOne {n}.\tTwo {n}."),
}
LABELS = {
    "STS-B": ("5.000", "0.25"),
    "MNLI": ("entailment", "neutral", "contradiction"),
    "QNLI": ("entailment", "not_entailment"),
    "RTE": ("entailment", "not_entailment"),
}


def save(folder: Path, corpus: str, train: int = 20, dev: int = 4) -> Path:
    """A corpus in the official layout."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = LABELS.get(corpus, ("0", "1"))
    ends = ("_matched", "_mismatched") if corpus == "MNLI" else ("",)
    for part, count in (("train", train), ("dev", dev), ("test", 3)):
        for end in ends if part != "train" else ("",):
            hidden = part == "test"
            row = ROWS[corpus][hidden]
            lines = [HEADERS[corpus][hidden]] if HEADERS[corpus][hidden] else []
            lines += [row.format(n=n, label=labels[n % len(labels)]) for n in range(count)]
            (folder / f"{part}{end}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def task(folder: Path, corpus: str, **fields: Any) -> Task:
    return make("glue", corpus=corpus, folder=str(folder), **fields)


@pytest.mark.parametrize("corpus", HEADERS)
def test_official_files_of_each_corpus(corpus: str, tmp_path: Path) -> None:
    made = task(save(tmp_path, corpus), corpus.lower())
    found = {split: made.load(split) for split in ("train", "val", "test", "submission")}
    twice = 2 if corpus == "MNLI" else 1
    assert [len(part) for part in found.values()] == [18, 2, 4 * twice, 3 * twice]
    assert not {example.text for example in found["train"]} & {example.text for example in found["val"]}
    first = found["test"][0]
    assert first.text.rstrip("?.").lower() == "one 0"
    assert first.second.rstrip("?.") == ("" if corpus in ("CoLA", "SST-2") else "Two 0")
    assert first.images == ()
    words = made.decoding.choices
    if corpus == "STS-B":
        assert made.regression
        assert (first.targets, first.reference) == ((("5.000", 1.0),), "5.000")
    else:
        assert words is not None
        assert {example.reference for example in found["train"]} == set(words)
    assert {(example.targets, example.reference) for example in found["submission"]} == {((), None)}
    with pytest.raises(InputError, match="this split has no labels"):
        made.score(found["submission"], ["x"] * 3 * twice)

    right = [example.reference for example in found["test"]]
    assert made.score(found["test"], right)["score"] == pytest.approx(100)
    labels = LABELS.get(corpus, ("0", "1"))
    answers = ["3.74"] * 3 * twice if corpus == "STS-B" else [words[-1]] * 3 * twice  # type: ignore[index]
    made.write(found["submission"], answers, tmp_path / "out" / "it")
    expected = "3.740" if corpus == "STS-B" else labels[-1]
    text = "index\tprediction\n" + "".join(f"{n}\t{expected}\n" for n in range(3))
    files = ["it", "it-mm"] if corpus == "MNLI" else ["it"]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(files, text)


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    """Quotation marks mean nothing, and only line breaks end lines."""
    save(tmp_path, "RTE")
    lines = 'index\tsentence1\tsentence2\tlabel\r\n0\t"One half\tsaid\u2028so\tentailment\r\n1\ta"b\t"\tnot_entailment'
    (tmp_path / "dev.tsv").write_bytes(lines.encode())
    first, second = task(tmp_path, "RTE").load("test")
    assert (first.text, first.second, first.reference) == ('"One half', "said\u2028so", "entailment")
    assert (second.id, second.text, second.second) == ("1", 'a"b', '"')


def test_rows_of_qqp_that_lack_columns_are_passed_over(tmp_path: Path) -> None:
    save(tmp_path, "QQP")
    lines = ["0\t1\t2\tWhy?\tHow?\t0", "1\t1\t2\tWhat is", "so?\tEh?\t1", "2\t1\t2\tWho?\t\t1"]
    (tmp_path / "dev.tsv").write_text("\n".join([HEADERS["QQP"][0], *lines]) + "\n")
    assert [(example.id, example.second) for example in task(tmp_path, "QQP").load("test")] == [
        ("0", "How?"),
        ("3", ""),
    ]


def test_val_is_drawn_from_train_by_first_text_and_dev_is_test(tmp_path: Path) -> None:
    save(tmp_path, "RTE")
    rows = [f"{n}\tOne {n // 5}.\tTwo {n}.\tentailment" for n in range(100)]
    (tmp_path / "train.tsv").write_text("\n".join([HEADERS["RTE"][0], *rows]) + "\n")
    found = {split: task(tmp_path, "RTE").load(split) for split in ("train", "val")}
    assert [len(part) for part in found.values()] == [90, 10]  # 18 and 2 texts, 5 pairs each
    texts = [{example.text for example in part} for part in found.values()]
    assert not texts[0] & texts[1]
    assert {example.id for example in task(tmp_path, "RTE", seed=1).load("val")} != {e.id for e in found["val"]}
    assert {example.id for example in task(tmp_path, "RTE", limits={"train": 7}).load("train")} < {
        example.id for example in found["train"]
    }
    (tmp_path / "train.tsv").unlink()
    assert len(task(tmp_path, "RTE").load("test")) == 4  # nothing of dev comes from train, and nothing of it is val


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpus": "RTF", "folder": "x"}, "unknown corpus 'RTF'; did you mean 'rte'. known: CoLA, SST-2"),
        ({"corpus": "RTE"}, "either 'folder' or 'dataset' is needed"),
        ({"corpus": "RTE", "folder": "x", "dataset": "y"}, "either 'folder' or 'dataset' is needed"),
        ({"corpus": "RTE", "folder": "x", "fractions": {"train": 0.8, "val": 0.1, "test": 0.1}}, "test is GLUE's dev"),
        ({"corpus": "RTE", "folder": "x", "images": "y"}, "GLUE has none"),
        ({"folder": "x"}, "'corpus' is needed"),
    ],
)
def test_bad_recipes(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("glue", **fields)


@pytest.mark.parametrize(
    ("corpus", "text", "message"),
    [
        ("RTE", "index\tsentence1\tlabel\n", "line 1: column 'sentence2' of RTE is missing; found: index, sentence1"),
        ("RTE", HEADERS["RTE"][0] + "\n", "no rows; expected the columns index"),
        ("RTE", HEADERS["RTE"][0] + "\n0\tA.\tB.\n", "line 2: 3 cells between tabs, expected 4"),
        ("RTE", HEADERS["RTE"][0] + "\n0\tA.\t \tentailment\n", "line 2: 'sentence2' is empty"),
        ("RTE", HEADERS["RTE"][0] + "\n0\tA.\tB.\t1\n", "'label' must be one of entailment, not_entailment, found '1'"),
        ("STS-B", HEADERS["STS-B"][0] + "\n0\tn\tA.\tB.\t5.5\n", "'score' must be a number from 0 to 5, found '5.5'"),
        ("STS-B", HEADERS["STS-B"][0] + "\n0\tn\tA.\tB.\tnan\n", "'score' must be a number from 0 to 5, found 'nan'"),
        ("CoLA", "gj04\t2\t\tA.\n", "line 1: 'label' must be one of 0, 1, found '2'"),
        ("CoLA", "A.\n", "line 1: 1 cells between tabs, expected 4"),
    ],
)
def test_bad_files(corpus: str, text: str, message: str, tmp_path: Path) -> None:
    save(tmp_path, corpus)
    (tmp_path / "dev.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        task(tmp_path, corpus).load("test")


def test_missing_files_and_splits(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.tsv: no such file; 'folder' must hold"):
        task(tmp_path, "RTE").load("train")
    with pytest.raises(InputError, match="unknown split 'dev'; known: train, val, test, submission"):
        task(save(tmp_path, "RTE"), "RTE").load("dev")
    (tmp_path / "dev.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"dev.tsv: cannot be read as UTF-8"):
        task(tmp_path, "RTE").load("test")


# ---------------------------------------------------------------- metrics


def examples(*references: str) -> list[Example]:
    return [Example(str(row), (), "", ((truth, 1.0),), truth) for row, truth in enumerate(references)]


def test_scores_by_hand(tmp_path: Path) -> None:
    pairs = examples("equivalent", "equivalent", "equivalent", "not_equivalent")
    answers = ["equivalent", "Equivalent ", "not_equivalent", "equivalent"]
    # 2 of 4 are right; of 3 equivalent ones 2 are found, and 2 of 3 that are said to be are: F1 = 2/3.
    scores = task(tmp_path, "MRPC").score(pairs, answers)
    assert scores == pytest.approx({"score": (50 + 200 / 3) / 2, "accuracy": 50, "f1": 200 / 3})
    assert task(tmp_path, "QQP").score(examples("duplicate"), ["?"]) == {"score": 0, "accuracy": 0, "f1": 0}
    cola = task(tmp_path, "CoLA")
    truths = examples(*["acceptable"] * 3, *["unacceptable"] * 3)
    answers = ["acceptable", "acceptable", "unacceptable", "acceptable", "unacceptable", "unacceptable"]
    # Of each three, two are right: (2 x 2 - 1 x 1) / (3 x 3).
    assert cola.score(truths, answers) == pytest.approx({"score": 100 / 3, "matthews": 100 / 3})
    # "no" is wrong, though not "acceptable": (2 x 1 - 2 x 1) / ...
    assert cola.score(truths, [*answers[:5], "no"]) == pytest.approx({"score": 0, "matthews": 0})
    assert cola.score(truths, ["acceptable"] * 6)["score"] == 0
    assert task(tmp_path, "WNLI").score(examples("entailment", "entailment"), ["entailment", ""]) == {
        "score": 50,
        "accuracy": 50,
    }
    sts = task(tmp_path, "STS-B")
    found = sts.score(examples("1.0", "2.0", "3.0"), ["0.5", "4", "7"])  # 7 is more than the most
    assert found["spearman"] == pytest.approx(100)
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr([1, 2, 3], [0.5, 4, 5]).statistic)
    assert found["score"] == pytest.approx((found["pearson"] + found["spearman"]) / 2)
    assert sts.score(examples("1.0", "2.0"), ["nan", "a few"]) == {"score": 0, "pearson": 0, "spearman": 0}


def test_mnli_is_scored_by_part(tmp_path: Path) -> None:
    made = task(save(tmp_path, "MNLI", dev=2), "MNLI")
    found = made.load("test")
    assert [example.id for example in found] == ["matched-0", "matched-1", "mismatched-0", "mismatched-1"]
    assert made.score(found, ["entailment", "neutral", "neutral", "neutral"]) == {
        "score": 75,
        "accuracy": 75,
        "accuracy.matched": 100,
        "accuracy.mismatched": 50,
    }
    (tmp_path / "dev_mismatched.tsv").unlink()
    with pytest.raises(InputError, match=r"dev_mismatched.tsv: no such file"):
        made.load("test")


def test_metrics_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 5, 60):
        truths, guesses = (rng.integers(0, 2, count).astype(bool).tolist() for _ in range(2))
        truths[:2], guesses[:2] = [True, False], [False, True]  # else there is nothing to correlate
        assert f1(truths, guesses) == pytest.approx(metrics.f1_score(truths, guesses))
        assert matthews(truths, guesses) == pytest.approx(metrics.matthews_corrcoef(truths, guesses))
        one, other = (rng.integers(0, 4, count) + np.arange(count) * 0.5 for _ in range(2))  # with ties
        assert pearson(one, other) == pytest.approx(stats.pearsonr(one, other).statistic)
        assert spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


# ---------------------------------------------------------------- Hugging Face's data set


@pytest.mark.parametrize("corpus", ["STS-B", "MNLI"])
def test_a_data_set_of_hugging_face(corpus: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = ["entailment", "neutral", "contradiction"]
    one, two = ("premise", "hypothesis") if corpus == "MNLI" else ("sentence1", "sentence2")
    kind = datasets.ClassLabel(names=names) if corpus == "MNLI" else datasets.Value("float32")
    features = datasets.Features({one: datasets.Value("string"), two: datasets.Value("string"), "label": kind})
    ends = ("_matched", "_mismatched") if corpus == "MNLI" else ("",)
    parts = {}
    for split, count in (("train", 20), *((f"{part}{end}", 3) for part in ("validation", "test") for end in ends)):
        labels = [-1 if split.startswith("test") else n % 3 if corpus == "MNLI" else 3.8 for n in range(count)]
        rows = {one: [f"One {n}." for n in range(count)], two: [f"Two {n}." for n in range(count)], "label": labels}
        parts[split] = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    made = make("glue", corpus=corpus, dataset=str(tmp_path / "saved"))
    assert [len(made.load(split)) for split in ("train", "val", "submission")] == [18, 2, 3 * len(ends)]
    first = made.load("test")[0]
    assert (first.text, first.second, first.reference) == (
        "One 0.",
        "Two 0.",
        "entailment" if corpus == "MNLI" else "3.800",
    )
    wrong = r"rte has no split 'validation'" if corpus == "MNLI" else r"row 0: the label must be 0 to 1, found 3.79"
    with pytest.raises(InputError, match=wrong):
        make("glue", corpus="RTE", dataset=str(tmp_path / "saved")).load("test")


def test_a_data_set_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets, which is not installed; run: pip install"):
        make("glue", corpus="RTE", dataset="nyu-mll/glue").load("train")
