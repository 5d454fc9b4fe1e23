"""TVQA, How2QA, TVC and YC2C: videos as frames."""

from __future__ import annotations

import json
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_files import make, pictures, read_lines, write_lines

from crossgraft.errors import InputError
from crossgraft.tasks.files import Row
from crossgraft.tasks.video import chosen_frames, read_features, span_of
from crossgraft.training.settings import Visual
from crossgraft.training.visual import VisualSource


def question(qid: int, video: str, answer: int | None = None, **more: Any) -> dict[str, Any]:
    row = {"qid": qid, "q": "Who \n speaks?", "vid_name": video, "ts": "1-3.2", "show_name": "None", **more}
    row |= {f"a{number}": f"person {number} " for number in range(5)}
    return row if answer is None else row | {"answer_idx": answer}


def videos(folder: Path) -> Path:
    """A video of 100 feature rows (.npy), one of 3 (.npz), and one of 12 frame images."""
    folder.mkdir()
    np.save(folder / "long.npy", np.arange(200, dtype=np.float16).reshape(100, 2))
    np.savez(folder / "short.npz", features=np.arange(6).reshape(3, 2), other=np.zeros(1))
    pictures(folder / "drawn", *(f"frame_{number}.png" for number in range(12)))
    return folder


def test_tvqa(tmp_path: Path) -> None:
    frames = videos(tmp_path / "frames")
    lines = write_lines(
        tmp_path / "val.jsonl", [question(7, "long", 4), question(8, "short", 0), question(9, "drawn", 1)]
    )
    spoken = [
        {"text": "(Ann:)\nHello.", "start": 0, "end": 0.9},
        {"text": "Is it you?", "start": 2.5, "end": 4},
    ]
    subtitles = write_lines(tmp_path / "subtitles.jsonl", [{"vid_name": "long", "sub": spoken}])
    fields = {"frames": str(frames), "splits": {"val": {"lines": str(lines)}}, "subtitles": str(subtitles)}
    task = make("tvqa", **fields)
    long, short, drawn = examples = task.load("val")
    choices = "(0) person 0 (1) person 1 (2) person 2 (3) person 3 (4) person 4"
    assert short.text == f"question: Who speaks? choices: {choices}"
    assert long.text == f"{short.text} subtitles: (Ann:) Hello. Is it you?"
    assert (long.targets, long.reference) == ((("4", 1),), 4)
    assert (task.visual, task.decoding.choices, task.question_length) == ("frames", tuple("01234"), 600)
    assert long.images == (frames / "long.npy",)
    assert len(long.rows) == 64
    assert read_features(long.images[0], long.rows).shape == (64, 2)
    assert short.rows == (0, 1, 2)
    assert read_features(short.images[0], short.rows).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert [path.name for path in drawn.images] == [f"frame_{number}.png" for number in range(12)]
    assert drawn.rows == ()
    assert task.score(examples, ["4", "1", "1"]) == pytest.approx({"accuracy": 200 / 3})
    task.write(examples, ["4", "0", "none"], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == {"7": 4, "8": 0, "9": -1}

    task = make("tvqa", **fields, localized=True, fps=3.0)
    long, short, drawn = task.load("val")
    assert long.rows == tuple(range(3, 10))  # 1 to 3.2 seconds at 3 a second
    assert long.text.endswith("subtitles: Is it you?")
    assert short.rows == (2,)
    assert drawn.images[0].name == "frame_3.png"
    with pytest.raises(InputError, match="'fps' is needed where 'localized' is true"):
        make("tvqa", **fields, localized=True)


def test_how2qa_unlabelled(tmp_path: Path) -> None:
    frames = videos(tmp_path / "frames")
    lines = write_lines(tmp_path / "test.jsonl", [question(1, "long", ts="nan-nan")])
    task = make("how2qa", frames=str(frames), splits={"test": {"lines": str(lines)}}, localized=True, fps=1.0)
    (example,) = task.load("test")
    assert "person 3" in example.text
    assert "person 4" not in example.text
    assert (example.targets, example.reference, len(example.rows)) == ((), None, 64)
    with pytest.raises(InputError, match="no labels"):
        task.score([example], ["0"])


def moment(clip: int, video: str, *captions: str, ts: list[float] | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"vid_name": video, "duration": 60.0, "ts": ts or [1, 2], "clip_id": clip}
    return row | {"descs": [{"desc": caption, "desc_id": 1, "type": "v"} for caption in captions]} if captions else row


def test_tvc_and_yc2c(tmp_path: Path) -> None:
    frames = videos(tmp_path / "frames")
    rows = [moment(1, "long", "Ann waves.", "A woman waves"), moment(2, "long", "Bob sits", ts=[30, 31.5])]
    lines = write_lines(tmp_path / "train.jsonl", rows)
    splits = {"train": {"lines": str(lines)}, "val": {"lines": str(lines)}}
    task = make("tvc", frames=str(frames), splits=splits, fps=2.0, per_caption=True)
    first, second = task.load("val")
    assert (first.id, first.rows, second.rows) == ("1", (2, 3), (60, 61, 62))
    assert first.targets == (("Ann waves.", 1), ("A woman waves", 1))
    assert [example.id for example in task.load("train")] == ["1#0", "1#1", "2#0"]
    assert task.score([first, second], ["a woman waves", "Bob sits"])["ROUGE-L"] == pytest.approx(100)
    task.write([first, second], ["she waves", ""], tmp_path / "out.jsonl")
    assert read_lines(tmp_path / "out.jsonl") == [
        {"vid_name": "long", "clip_id": 1, "ts": [1, 2], "descs": [{"desc": "she waves"}]},
        {"vid_name": "long", "clip_id": 2, "ts": [30, 31.5], "descs": [{"desc": ""}]},
    ]
    with pytest.raises(InputError, match="'fps' is needed"):
        make("tvc", frames=str(frames), splits=splits)

    step = {"vid_name": "short", "clip_id": "short_0", "descs": [{"desc": "cut it"}]}
    lines = write_lines(tmp_path / "yc2c.jsonl", [step])
    (example,) = make("yc2c", frames=str(frames), splits={"val": {"lines": str(lines)}}).load("val")
    assert (example.rows, example.text, example.reference) == ((0, 1, 2), "", ("cut it",))


def test_subtitles_of_captions(tmp_path: Path) -> None:
    frames = videos(tmp_path / "frames")
    spoken = [
        {"text": "(Ann:)\nHello.", "start": 0, "end": 0.9},
        {"text": "Is it you?", "start": 1.5, "end": 4},
    ]
    subtitles = str(write_lines(tmp_path / "subtitles.jsonl", [{"vid_name": "long", "sub": spoken}]))
    rows = [moment(1, "long", "Ann waves.", "She waves"), moment(2, "long", "x", ts=[30, 31]), moment(3, "short", "x")]
    lines = str(write_lines(tmp_path / "lines.jsonl", rows))
    fields = {"frames": str(frames), "splits": {"train": {"lines": lines}, "val": {"lines": lines}}, "fps": 2.0}
    assert [example.text for example in make("tvc", **fields).load("val")] == ["", "", ""]
    task = make("tvc", **fields, subtitles=subtitles, per_caption=True)
    assert [example.text for example in task.load("val")] == ["Is it you?", "", ""]  # what is said from 1 to 2 seconds
    train = task.load("train")
    assert [example.text for example in train] == ["Is it you?", "Is it you?", "", ""]
    task.write(train, ["she waves", "other", "", "x"], tmp_path / "out.jsonl")
    assert [row["clip_id"] for row in read_lines(tmp_path / "out.jsonl")] == [1, 2, 3]
    # A step of YC2C is a video of its own: nothing is cropped, and all of its subtitles are read.
    first, *_ = make("yc2c", **fields, subtitles=subtitles).load("val")
    assert (first.text, len(first.rows)) == ("(Ann:) Hello. Is it you?", 64)
    assert {make(name, **fields).question_length for name in ("tvqa", "how2qa", "tvc", "yc2c")} == {600}
    with pytest.raises(InputError, match=r"absent.jsonl: no such file"):
        make("yc2c", **fields, subtitles=str(tmp_path / "absent.jsonl")).load("val")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vid_name": "absent"}, r"1 of 1 videos are not in .* expected absent.npy, absent.npz or a folder absent/"),
        ({"answer_idx": 5}, "'answer_idx' must be 0 to 4, found 5"),
        ({"answer_idx": "1"}, "'answer_idx' must be a whole number"),
        ({"ts": "3-1"}, "'ts' must start at 0 or later and not end before it starts"),
        ({"ts": "soon"}, "'ts' must be like"),
        ({"a2": None}, "line 1: 'a2' must be text"),
    ],
)
def test_tvqa_bad_lines(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lines = write_lines(tmp_path / "val.jsonl", [question(7, "long", 1) | change])
    fields = {"frames": str(videos(tmp_path / "frames")), "splits": {"val": {"lines": str(lines)}}}
    with pytest.raises(InputError, match=message):
        make("tvqa", **fields, localized=True, fps=1.0).load("val")


def test_bad_frames(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    lines = write_lines(tmp_path / "val.jsonl", [question(7, "v", 1)])
    task = make("tvqa", frames=str(folder), splits={"val": {"lines": str(lines)}})
    (folder / "v").mkdir()
    with pytest.raises(InputError, match="no frame images"):
        task.load("val")
    (folder / "v").rmdir()
    (folder / "v").write_text("no folder")
    with pytest.raises(InputError, match="1 of 1 videos are not in"):
        task.load("val")
    with pytest.raises(InputError, match="'frames' is needed"):
        make("tvqa", splits={"val": {"lines": str(lines)}}).load("val")
    with pytest.raises(InputError, match="looks in 'frames'"):
        make("tvqa", splits={}, images=str(folder))


def overwrite(path: Path, start: int, count: int) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + count] = b"\xff" * count
    path.write_bytes(content)


def unusable_files(folder: Path) -> dict[str, str]:
    """Feature files that cannot be used, and what is said about them."""
    rng = np.random.default_rng(0)
    shapes = r"expected numbers of shape \(frames or tokens, dimensions\)"
    for name, array in (("vector", np.zeros(3)), ("none", np.zeros((0, 2))), ("words", np.array([["x"]]))):
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([[{}]]), allow_pickle=True)
    np.save(folder / "cut.npy", rng.normal(size=(100, 2)))
    (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:900])
    (folder / "empty.npy").touch()
    (folder / "other.npy").write_bytes(b"nothing")
    (folder / "gone.npy").symlink_to("nowhere.npy")
    np.savez(folder / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    np.savez(folder / "crc.npz", features=rng.normal(size=(100, 20)))
    overwrite(folder / "crc.npz", 5000, 8)
    np.save(folder / "whole.npy", np.zeros((100, 400)))
    with zipfile.ZipFile(folder / "zlib.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=0) as archive:
        archive.write(folder / "whole.npy", "features.npy")
    overwrite(folder / "zlib.npz", 100_000, 70_000)  # longer than a block of deflate, so that one's header is in it
    with np.load(folder / "zlib.npz") as archive, pytest.raises(zlib.error):
        archive["features"]
    (folder / "hollow.npz").touch()
    return {
        "vector.npy": shapes,
        "none.npy": shapes,
        "words.npy": shapes,
        "objects.npy": "kind 'O'",
        "cut.npy": "cannot be read",
        "empty.npy": "not a NumPy file",
        "other.npy": "not a NumPy file",
        "gone.npy": "not a NumPy file",
        "two.npz": "expected one array, or one called 'features'; found: a, b",
        "zlib.npz": r"cannot be read \(.*\); expected 100 rows of features",
        "crc.npz": r"cannot be read \(.*\); expected 100 rows of features",
        "hollow.npz": "not a NumPy file",
    }


@pytest.mark.parametrize("localized", [True, False])
def test_a_damaged_feature_file_costs_the_examples_about_its_video(tmp_path: Path, localized: bool) -> None:
    reasons = unusable_files(tmp_path)
    np.save(tmp_path / "good.npy", np.ones((5, 2)))
    rows = [question(number, Path(name).stem, 1) for number, name in enumerate([*reasons, "good.npy"])]
    splits = {"val": {"lines": str(write_lines(tmp_path / "val.jsonl", rows))}}
    *bad, good = examples = make("tvqa", frames=str(tmp_path), splits=splits, localized=localized, fps=1.0).load("val")
    source = VisualSource.open(Visual(), examples, {"frames"})
    for example, (name, reason) in zip(bad, reasons.items(), strict=True):
        assert example.images == (tmp_path / name,)
        with pytest.raises(InputError, match=reason):
            read_features(tmp_path / name, example.rows)
        assert str(source.unusable(example)).startswith(f"{tmp_path / name}: "), name
    assert source.unusable(good) is None
    assert source.of(good, "frames").shape == (1, len(good.rows), 2)


@given(
    st.integers(1, 300),
    st.integers(1, 70),
    st.none() | st.tuples(st.floats(0, 50), st.floats(0, 50)),
    st.floats(0.1, 9),
)
def test_chosen_frames(count: int, most: int, span: tuple[float, float] | None, fps: float) -> None:
    span = (min(span), max(span)) if span else None
    rows = chosen_frames(count, span, fps, most)
    assert 1 <= len(rows) <= most
    assert list(rows) == sorted(set(rows))
    assert 0 <= rows[0] <= rows[-1] < count
    if span is None:
        assert len(rows) == min(count, most)
        gaps = {after - before for before, after in pairwise(rows)}
        assert len(gaps) <= 2


def test_spans() -> None:
    def span(value: Any) -> Any:
        return span_of(Row({"ts": value}, Path("x"), "line", 1))

    assert span("76.01-84.2") == (76.01, 84.2)
    assert span([0, 5]) == (0, 5)
    assert span("NaN-NaN") is span("nan-nan") is span(None) is None
