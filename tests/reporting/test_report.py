"""The page: what is known is on it, what is not is said, and it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from conftest import Cli, make_colours
from crossgraft.errors import InputError
from crossgraft.reporting.report import build_report
from crossgraft.reporting.thumbnails import Thumbnails

ODD = "<script>alert(1)<&'\"\u202e \u05d0\u05d1 blaukäfer " + "sehr lang " * 12


class Page(HTMLParser):
    """Elements with attributes, and the text that a reader sees, of a page whose elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in ("meta", "br"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, name: str, style: str = "") -> list[dict[str, str | None]]:
        return [a for n, a in self.elements if n == name and style in ("", *str(a.get("class")).split())]


@pytest.fixture(scope="module")
def work(cli: Cli, colours: Path, tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, and a run over them: three methods, 1 and 2 shots, two seeds, two test sets."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(colours, folder / "photos")
    (folder / "photos" / "red").rename(folder / "photos" / ODD.replace("/", ""))
    shutil.copytree(folder / "photos", folder / "other")
    fit(
        cli,
        folder,
        tiny_clip,
        "run",
        "--test",
        folder / "other",
        shots="1,2",
        seeds="1,2",
        methods="gda,zero-shot,proker",
    )
    return folder


def fit(
    cli: Cli, folder: Path, model: Path, name: str, *options: object, shots: str = "1", seeds: str = "1", methods: str
) -> Path:
    common = ("--model", model, "--out", folder / name, "--store", folder / "store", "--device", "cpu")
    outcome = cli(
        "fewshot", folder / "photos", *common, "--shots", shots, "--seeds", seeds, "--method", methods, *options
    )
    assert outcome.code == 0, outcome.err
    return folder / name


@pytest.fixture
def run(work: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return shutil.copytree(work / "run", tmp_path / "run")


def change(run: Path, edit: Callable[[dict[str, Any]], object], name: str = "results.json") -> None:
    document = json.loads((run / name).read_text())
    edit(document)
    (run / name).write_text(json.dumps(document))


def test_the_page_holds_every_number_of_the_results(work: Path) -> None:
    report = build_report([work / "run"])
    page = Page(report.html)
    assert (report.runs, report.groups, report.missing, report.notes) == (1, 1, 0, ())
    document = json.loads((work / "run" / "results.json").read_text())
    for record in document["runs"]:
        for test, scores in record["metrics"].items():
            assert test in page.text
            for name in ("accuracy", "macro_accuracy", "calibration_error"):
                assert f"{scores[name]['mean']:.1f}\u00a0±\u00a0{scores[name]['std']:.1f}" in page.text
            assert (
                ", ".join(f"{s}: {v:.1f}" for s, v in zip((1, 2), scores["accuracy"]["per_seed"], strict=True))
                in page.text
            )
        assert f"{record['parameters']['trainable']:,}" in page.text
        assert f"{record['seconds']['fit']['mean']:.3f}" in page.text
    for part in ("backbone", "data"):
        assert document[part]["fingerprint"][:16] in page.text
    for name, version in document["versions"].items():
        assert f"{name} {version}" in page.text
    assert "with two seeds they are very wide" in page.text
    assert "hyperparameters are fixed values" in page.text
    assert "No image skipped." in page.text


def test_the_page_needs_nothing_and_runs_only_its_own_script(work: Path) -> None:
    page = Page(build_report([work / "run"]).html)
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), attributes
            if name in ("href", "src"):
                assert str(value).startswith(("#", "data:image/jpeg;base64,")), value
    assert [name for name, _ in page.elements if name in ("link", "iframe", "object", "img")] == []
    (policy,) = (a["content"] for a in page.all("meta") if a.get("http-equiv"))
    script = files("crossgraft.reporting").joinpath("report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)
    assert "url(" not in files("crossgraft.reporting").joinpath("report.css").read_text(encoding="utf-8")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for _, a in page.elements if str(a.get("href")).startswith("#")}
    assert targets <= set(ids)


def test_names_from_files_stay_names(work: Path) -> None:
    html = build_report([work / "run"]).html
    page = Page(html)
    assert page.all("script") == [{}]
    assert "<script>alert(1)<&'\"\ufffd" in page.text
    assert "\u202e" not in html


def test_it_can_be_read_without_seeing_it(work: Path) -> None:
    page = Page(build_report([work / "run"]).html)
    drawn = [a for a in page.all("svg") if a.get("aria-hidden") is None]
    assert drawn
    assert all(a["role"] == "img" and a["aria-label"] for a in drawn)
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_evidence_is_shown_for_methods_that_have_it(work: Path) -> None:
    report = build_report([work / "run"])
    page = Page(report.html)
    assert report.pictures > 10
    assert page.all("ul", "votes")
    assert "keeps no evidence" in page.text  # gda
    assert "No support photo voted." in page.text  # zero-shot
    evidence = json.loads((work / "run" / "predictions" / "proker.json").read_text())["tests"]["test"]["evidence"]
    assert any(f"photos {one['image_share']:.0%}" in page.text for one in evidence)
    assert any(
        f"{vote['contribution']:+.2f}".replace("-", "\u2212") in page.text
        for one in evidence
        for vote in one["supports"]
    )


def test_confusions_are_counted_and_the_most_frequent_first(work: Path) -> None:
    recorded = json.loads((work / "run" / "predictions" / "zero-shot.json").read_text())["tests"]["other"]
    truth = json.loads((work / "run" / "predictions" / "images.json").read_text())["tests"]["other"]["truth"]
    wrong = [pair for pair in zip(truth, recorded["predicted"], strict=True) if pair[0] != pair[1]]
    most = max(wrong.count(pair) for pair in wrong)
    assert f"{most}\u00d7" in Page(build_report([work / "run"]).html).text


def test_a_tie_is_called_a_tie(run: Path) -> None:
    def level(document: dict[str, Any]) -> None:
        for record in document["runs"]:
            record["metrics"]["test"]["accuracy"].update(mean=70.0, std=1.0)

    change(run, level)
    assert re.search(
        r"is the most accurate at 2 shots, with 70\.0\s±\s1\.0 % on test; \S+ is as accurate\.",
        Page(build_report([run]).html).text,
    )


# -- what is missing is said


def test_one_seed_has_no_band_and_one_number_of_shots_has_bars(cli: Cli, work: Path, tiny_clip: Path) -> None:
    one = fit(cli, work, tiny_clip, "one", methods="gda,proker")
    page = Page(build_report([one]).html)
    assert "One seed: no band can be drawn" in page.text
    assert "One number of shots (1 shot): bars instead of a line" in page.text
    assert not page.all("polygon", "band")
    assert not page.all("line", "whisker")
    assert "Domain shift" not in page.text


def test_nothing_to_test_on(cli: Cli, work: Path, tiny_clip: Path) -> None:
    page = Page(build_report([fit(cli, work, tiny_clip, "all", shots="all", methods="gda")]).html)
    assert "No photo was left to test on" in page.text
    assert "Nothing was recorded of single images" in page.text


def test_photos_that_are_gone_are_named(run: Path, tmp_path: Path) -> None:
    change(run, lambda images: images.update(root=str(tmp_path / "nowhere")), "predictions/images.json")
    report = build_report([run])
    assert (report.pictures, report.missing > 5) == (0, True)
    page = Page(report.html)
    assert "0_0.png" in page.text
    assert re.search(r"\d+ photos moved, deleted or changed since the run", page.text)
    assert str(tmp_path) not in page.text


def test_results_of_an_older_crossgraft(run: Path) -> None:
    def old(document: dict[str, Any]) -> None:
        for record in document["runs"]:
            del record["confidence"]
            for scores in record["metrics"].values():
                del scores["calibration_error"]

    change(run, old)
    shutil.rmtree(run / "predictions")
    (run / "skipped.json").unlink()
    page = Page(build_report([run]).html)
    assert "Calibration was not recorded: these results are of an older crossgraft" in page.text
    assert "Nothing was recorded of single images" in page.text


def test_a_results_file_alone_is_enough(run: Path) -> None:
    page = Page(build_report([run / "results.json"]).html)
    assert "All numbers" in page.text


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("predictions/proker.json", lambda one: one["tests"]["test"]["predicted"].reverse()),
        ("predictions/proker.json", lambda one: one.update(seed=9)),
        ("predictions/proker.json", lambda one: one["tests"]["test"].pop("probability")),
        ("predictions/proker.json", lambda one: one["tests"]["test"]["predicted"].append(0)),
        ("predictions/proker.json", lambda one: one["tests"]["test"]["predicted"].__setitem__(0, 99)),
        ("predictions/proker.json", lambda one: one["tests"]["test"]["evidence"][0].update(index=10**6)),
        ("predictions/proker.json", lambda one: one["tests"]["test"]["evidence"][0].update(image_share="x")),
        ("predictions/proker.json", lambda one: one.update(tests=[])),
    ],
)
def test_a_damaged_record_or_one_of_another_run_costs_that_record(
    run: Path, name: str, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(run, edit, name)
    report = build_report([run])
    assert len(report.notes) == 1
    assert "proker.json" in report.notes[0]
    assert "proker is not shown image by image" in Page(report.html).text


def test_damaged_images_cost_all_pictures(run: Path) -> None:
    (run / "predictions" / "images.json").write_text("[")
    report = build_report([run])
    assert "without it nothing is shown image by image" in report.notes[0]
    assert report.pictures == 0


def test_skipped_images_and_warnings_are_listed(run: Path) -> None:
    (run / "skipped.json").write_text(json.dumps([{"path": "/data/<b>.png", "reason": "empty (0 bytes)"}] * 60))
    change(run, lambda document: document.update(warnings=["<i>one image is in both"], skipped_images=60))
    page = Page(build_report([run]).html)
    assert "60 images skipped" in page.text
    assert "and 10 more, in skipped.json" in page.text
    assert "<b>.png" in page.text
    assert "<i>one image is in both" in page.text


# -- several runs


def test_runs_of_the_same_data_model_and_protocol_share_a_chart(cli: Cli, work: Path, tiny_clip: Path) -> None:
    other = ("--test", work / "other")
    more = fit(cli, work, tiny_clip, "more", *other, shots="1,2", seeds="1,2", methods="nearest-mean,gda")
    report = build_report([work / "run", more, work / "run"])
    assert (report.runs, report.groups) == (2, 1)
    page = Page(report.html)
    assert "5 methods" in page.text
    for name in ("proker", "nearest-mean", "gda (run)", "gda (more)"):
        assert f"{name} " in page.text
    assert "differ in their images" not in page.text


def test_more_shots_of_a_method_continue_its_line(cli: Cli, work: Path, tiny_clip: Path) -> None:
    low, high = (
        fit(cli, work, tiny_clip, f"shots{k}", "--test", work / "other", shots=k, seeds="1,2", methods="gda")
        for k in ("1", "2")
    )
    # A plain folder is tested on what lies outside the largest support, which differs: other images.
    for run in (low, high):
        change(run, lambda document: document["data"].update(fingerprint="f" * 64))
    page = Page(build_report([low, high]).html)
    assert "1 method" in page.text
    assert "gda (" not in page.text


def test_other_data_gets_a_part_of_its_own(cli: Cli, work: Path, tiny_clip: Path, tmp_path: Path) -> None:
    make_colours(tmp_path / "photos", 3, seed=4)
    other = fit(cli, tmp_path, tiny_clip, "other", methods="gda")
    report = build_report([work / "run", other])
    assert (report.runs, report.groups) == (2, 2)
    page = Page(report.html)
    assert "These runs differ in their images, encoder or protocol" in page.text
    assert len(page.all("article", "group")) == 2


# -- bounds


def test_the_page_stays_small(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossgraft.reporting.report.Thumbnails", lambda: Thumbnails(limit=3))
    report = build_report([work / "run"])
    assert (report.pictures, report.left_out > 0) == (3, True)
    assert f"{report.left_out} photos named, not shown" in Page(report.html).text


# -- what is no run


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema_version 2"),
        (lambda d: d.update(task="captioning"), "task 'captioning'"),
        (lambda d: d.update(runs=[]), "runs is empty"),
        (lambda d: d.pop("runs"), "runs is 'None'; expected a list"),
        (lambda d: d["runs"][0].pop("metrics"), r"runs\[0\].metrics is 'None'; expected a JSON object"),
        (lambda d: d["runs"][1].update(shots=0), r"runs\[1\].shots is '0'; expected a whole number"),
        (lambda d: d["runs"][0]["metrics"]["test"]["accuracy"].update(mean="high"), "accuracy.mean is 'high'"),
        (lambda d: d["runs"][0]["metrics"]["test"]["accuracy"].update(mean=float("nan")), "mean is 'nan'"),
        (lambda d: d["runs"][0]["confidence"]["test"]["reliability"]["count"].pop(), "equal lengths"),
        (lambda d: d["runs"][0]["seconds"].pop("fit"), r"seconds.fit is 'None'"),
        (lambda d: d["data"].pop("fingerprint"), "data.fingerprint is 'None'; expected a text"),
        (lambda d: d.update(seeds="1"), "seeds is '1'; expected a list"),
    ],
)
def test_damaged_results_are_refused_by_name(run: Path, edit: Callable[[dict[str, Any]], object], message: str) -> None:
    change(run, edit)
    with pytest.raises(InputError, match=message) as error:
        build_report([run])
    assert str(run / "results.json") in str(error.value)
    assert "crossgraft fewshot" in str(error.value)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results\.json"):
        build_report([tmp_path])
    with pytest.raises(InputError, match="does not exist"):
        build_report([tmp_path / "nowhere"])
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match="line 1: not JSON"):
        build_report([tmp_path])


# -- colours


def test_text_has_contrast_in_light_and_dark() -> None:
    css = files("crossgraft.reporting").joinpath("report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    )
    for scheme in (light, dark):
        grounds = [scheme["ground"], scheme["card"]]
        texts = [scheme[name] for name in ("text", "soft", "c0", "c1", "c2", "c3", "c4", "c5", "muted", "good", "bad")]
        assert min(contrast(text, ground) for text in texts for ground in grounds) >= 4.5
        assert contrast(scheme["text"], scheme["warn-ground"]) >= 4.5


def contrast(a: str, b: str) -> float:
    """WCAG 2.1's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
