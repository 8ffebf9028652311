"""The report against numbers that are known in advance, hostile names, and folders that are not whole."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import html.parser
import io
import json
import math
import re
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from run_folder import CLEAN, IMAGES, NOISE, write_run

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

from udc_defense.cli import main
from udc_defense.errors import SettingError
from udc_defense.evaluation.rows import Setting, difference, interval
from udc_defense.report import write_report
from udc_defense.report.examples import examples
from udc_defense.report.runs import read_runs
from udc_defense.report.study import Study
from udc_defense.report.tables import Tables
from udc_defense.table import Column, Interval, Table

SHIFT = (len(IMAGES) - 1) / 2  # of a mean over all images, above the first


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: elements, cells of tables, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._section = ""
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag == "section" and found.get("class") == "table":
            self._section = str(found["id"])
            self.tables[self._section] = []
        if tag == "tr":
            self.tables[self._section].append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self.tables[self._section][-1][-1] += data

    def values(self, name: str) -> list[str]:
        """Of an attribute, wherever it stands."""
        return [value or "" for _, found in self.elements for key, value in found.items() if key == name]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(*folders: Path) -> Page:
    target = folders[0] / "report.html"
    write_report(folders, target)
    return Page(target.read_text(encoding="utf-8"))


def study_of(*folders: Path) -> Study:
    return Study(read_runs(folders))


def rows_of(table: Table) -> dict[str, dict[str, Any]]:
    """By defense, by heading."""
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    return {str(row["Defense"]): row for row in rows}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run", examples=("rocks", "lake"))


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return page_of(run)


@pytest.fixture(scope="module")
def tables(run: Path) -> Tables:
    return Tables(study_of(run))


def test_it_begins_with_the_worst_threat(page: Page) -> None:
    kept, clean, bare = 18 + SHIFT, CLEAN["default"] + SHIFT, 14 + SHIFT
    assert f"default keeps {kept:.1f} dB [95 %:" in page.words
    assert f"of the {clean:.1f} dB that it has without an attack" in page.words
    assert "PGD-20, exact, L∞, ε = 4/255, by one who knows the defense, exact gradient" in page.words
    assert f"falls from {CLEAN['none'] + SHIFT:.1f} to {bare:.1f} dB under the worst attack on it" in page.words
    assert "the defense is 4.0 dB ahead [95 %: +4.0, +4.0]" in page.words
    assert f"jpeg:75, keeps {15 + SHIFT:.1f} dB" in page.words
    assert "default is 3.0 dB ahead [95 %: +3.0, +3.0]" in page.words
    assert "1 sanity check is raised: unbounded" in page.words
    assert page.words.index("keeps") < page.words.index("The honesty list")


def test_the_worst_threat_of_every_defense(tables: Tables) -> None:
    found = rows_of(tables.headline())
    assert list(found) == ["none", "default", "jpeg:75"]
    for defense, level, attack in (
        ("none", 14, "PGD-20"),
        ("default", 18, "PGD-20, exact"),
        ("jpeg:75", 15, "PGD-20, exact"),
    ):
        row = found[defense]
        assert row["Worst attack, dB"].mean == pytest.approx(level + SHIFT)
        assert row["Without attack, dB"].mean == pytest.approx(CLEAN[defense] + SHIFT)
        assert (row["Attack"], row["Images"]) == (attack, len(IMAGES))
    assert found["default"]["Gained over no defense, dB"] == pytest.approx((4, 4, 4))


def test_who_knows_and_who_does_not_side_by_side(tables: Tables) -> None:
    row = rows_of(tables.knowledge())["default"]
    assert row["Does not know it, dB"].mean == pytest.approx(25 + SHIFT)
    assert row["Knows it, dB"].mean == pytest.approx(18 + SHIFT)
    assert row["Taken by knowing, dB"] == pytest.approx((7, 7, 7))
    assert row["Random noise, no defense, dB"].mean == pytest.approx(NOISE + SHIFT)


def test_the_rest_of_the_honesty_list(tables: Tables) -> None:
    trivial = rows_of(tables.trivial())
    assert trivial["jpeg:75"]["Better under the worst attack, dB"] == pytest.approx((3, 3, 3))
    assert trivial["jpeg:75"]["Better without attack, dB"] == pytest.approx((-1, -1, -1))
    assert trivial["none"]["Better under the worst attack, dB"] == pytest.approx((4, 4, 4))

    cost = rows_of(tables.clean_cost())
    assert cost["default"]["Cost, dB"] == pytest.approx((2, 2, 2))
    assert cost["jpeg:75"]["Cost, SSIM"] == pytest.approx((1 / 50,) * 3)

    (spread,) = tables.spread().rows
    attacked, clean = 18 + SHIFT, CLEAN["default"] + SHIFT
    expected = (attacked, attacked - 0.25, 0.5, attacked - 2, clean, clean, 0.5, clean - 1)
    assert (spread[2:10], spread[-1]) == (pytest.approx(expected), 4)

    (converged,) = tables.convergence().rows
    assert converged[1:3] == pytest.approx((20 + SHIFT, 18.5 + SHIFT))
    assert converged[3] == pytest.approx((-1.5, -1.5, -1.5))

    assert [row[:2] for row in tables.checks().rows] == [["unbounded", "yes"], ["zero gradients", "no"]]
    assert tables.transfer()[0].rows[0] == ["default", 14.0, 21.5]


def test_cost_is_measured_or_else_the_median_of_rows(tables: Tables) -> None:
    found = rows_of(tables.cost())
    assert found["default"]["Time, s"] == 0.125
    assert found["default"]["Peak memory, MB"] == 300
    assert found["jpeg:75"]["Time, s"] == pytest.approx(0.2)  # two images were purified in 0.4 s
    assert found["none"]["Time, s"] == pytest.approx(0.02)
    assert found["default"]["backwards"] == 20


def test_what_is_certified_stands_beside_what_was_found(run: Path) -> None:
    study = study_of(run)
    assert not Tables(study).certified().rows, "nothing is proven of this restorer"
    bounded = [row | {"lipschitz": 1.5} if row["defense"] == "none" else row for row in study.runs[0].rows]
    one = replace(study.runs[0], rows=bounded)
    (row,) = rows_of(Tables(Study([one])).certified()).values()
    floor = statistics.fmean(-20 * math.log10(10 ** (-(CLEAN["none"] + i) / 20) + 1.5 * 4 / 255) for i in range(4))
    assert (row["Gain, at most"], row["Images"]) == (1.5, len(IMAGES))
    assert row["ε = 4/255, dB"].mean == pytest.approx(floor, abs=1e-3)
    assert row["Without attack, dB"].mean == CLEAN["none"] + SHIFT
    assert row["Worst attack found, dB"].mean == 14 + SHIFT


def test_other_rows_stay_out_of_every_mean(run: Path) -> None:
    """Further draws (0 dB), another restorer's images (1 dB) and convergence are not attacks of this table."""
    study = study_of(run)
    cells = [cell for target in study.pairs.values() for cell in target.cells]
    titles = {cell.setting.title for cell in cells}
    assert not any("made on" in title or title.startswith("EOT") for title in titles)
    assert all(value > 10 for cell in cells for value in cell.attacked.values())


def test_intervals_are_those_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(20, 3, 200)
    found = interval({str(i): value for i, value in enumerate(values)})
    assert found is not None and found.low is not None and found.high is not None
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)
    assert interval({"one": 3.0}) == Interval(3.0, None, None)
    assert interval({}) is None


def test_differences_are_paired_over_shared_images() -> None:
    assert difference({"a": 10.0, "b": 30.0, "c": 99.0}, {"b": 29.0, "a": 9.0}) == pytest.approx((1, 1, 1))
    assert difference({"a": 1.0}, {"b": 1.0}) is None


def test_fewer_images_do_not_hide_an_attack(tmp_path: Path) -> None:
    """An exact attack on the easiest image alone leaves the highest level, and takes most."""
    folder = write_run(tmp_path / "run")
    lines = (folder / "rows.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["threat"] != "exact" or json.loads(line)["image"] == "rocks"]
    (folder / "rows.jsonl").write_text("\n".join(kept) + "\n")
    study = study_of(folder)
    worst = study.worst(study.conditions[0], "default")
    assert worst is not None and worst.setting.title == "PGD-20, exact" and list(worst.attacked) == ["rocks"]


def test_a_defense_that_nobody_knew_is_not_the_best(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    more = [row | {"defense": "secret"} for row in rows if row["defense"] == "default" and row["threat"] == "oblivious"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*rows, *more)))
    study = study_of(folder)
    best = study.best(study.conditions[0])
    assert best is not None and best.defense == "default"


def test_the_headline_is_about_what_the_run_lists_first(tmp_path: Path) -> None:
    """Rows lie in no order that means anything."""
    folder = write_run(tmp_path / "run")
    lines = (folder / "rows.jsonl").read_text().splitlines()
    other = {"degradation": "blur", "restorer": "sharpener"}
    (folder / "rows.jsonl").write_text("\n".join([*(json.dumps(json.loads(x) | other) for x in lines), *lines]) + "\n")
    study = study_of(folder)
    assert [condition[1:3] for condition in study.conditions] == [("default", "udc"), ("sharpener", "blur")]
    assert "restorer default." in page_of(folder).words
    found = {(row[0], row[2]): row for row in Tables(study).cost().rows}
    assert found["default", "default"][5] == 0.125  # measured for the first restorer
    assert found["sharpener", "default"][5] == pytest.approx(0.2)


def test_a_curve_is_of_attacks_that_were_run_at_every_radius(run: Path) -> None:
    """BPDA was run at ε = 4 alone."""
    study = study_of(run)
    cells = study.curve(study.conditions[0], "default", knows=True)
    assert [cell.setting for cell in cells] == [
        Setting("PGD-20, ε = 2, exact", "linf", 2.0, "exact"),
        Setting("PGD-20, exact", "linf", 4.0, "exact"),
    ]


def test_every_download_holds_what_the_page_shows(page: Page) -> None:
    assert {
        "headline",
        "knowledge",
        "trivial",
        "clean",
        "spread",
        "checks",
        "convergence",
        "cost",
    } <= page.tables.keys()
    links = [found for tag, found in page.elements if tag == "a" and "download" in found]
    files = {str(found["download"]): unquote(str(found["href"]).partition(",")[2]) for found in links}
    assert len(files) == 3 * len(page.tables)
    for name, shown in page.tables.items():
        lines = files[f"{name}.md"].splitlines()[2:]
        cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
        del cells[1]
        assert cells == [[" ".join(cell.split()) for cell in row] for row in shown]
        assert len(list(csv.reader(io.StringIO(files[f"{name}.csv"])))) == len(shown)
        assert files[f"{name}.tex"].count(r"\\") == len(shown)


def test_a_table_in_every_format() -> None:
    columns = [Column("Name"), Column("Level, dB"), Column("Gain", 1, signed=True), Column("Images", 0)]
    rows = [["a_b & 50 % | <x>", Interval(18.256, 17.0, 19.5), 0.04, 1234], ["=cmd()", None, -1.26, None]]
    table = Table("key", "Title", "ε_1.", columns, rows)
    assert table.texts() == [
        ["a_b & 50 % | <x>", "18.26 [17.00, 19.50]", "+0.0", "1,234"],
        ["=cmd()", "–", "−1.3", "–"],
    ]
    head, first, second = csv.reader(io.StringIO(table.csv()))
    assert head == ["Name", "Level, dB", "Level, dB, low", "Level, dB, high", "Gain", "Images"]
    assert first == ["a_b & 50 % | <x>", "18.256", "17.0", "19.5", "0.04", "1234"]
    assert second == ["'=cmd()", "", "", "", "-1.26", ""]
    assert r"| a_b & 50 % \| &lt;x&gt; | 18.26 [17.00, 19.50] | +0.0 | 1,234 |" in table.markdown()
    latex = table.latex()
    assert r"a\_b \& 50 \% | \textless{}x\textgreater{} & 18.26 [17.00, 19.50] & +0.0 & 1,234 \\" in latex
    assert r"\caption{$\varepsilon$\_1.}" in latex and r"\begin{tabular}{lrrr}" in latex


def test_strangers_write_no_html_and_nothing_is_fetched(tmp_path: Path) -> None:
    hostile = ("<script>alert(1)</script>", '"><img src="http://example.org/x" onerror="alert(1)">', "{{ 7 * 7 }}")
    run = write_run(tmp_path / "run", images=hostile, restorer=hostile[0], examples=hostile[1:])
    facts = json.loads((run / "run.json").read_text()) | {"command": hostile[1]}
    (run / "run.json").write_text(json.dumps(facts))
    other = write_run(tmp_path / "<b>other", images=hostile)
    page = page_of(run, other)

    scripts = [found for tag, found in page.elements if tag == "script"]
    assert scripts == [{}]
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    assert all(re.match("data:|#", value) for name in ("src", "href", "action") for value in page.values(name))
    assert all(name in page.text for name in (*hostile, "<b>other"))
    assert not re.search(r"url\((?!#)|@import", (run / "report.html").read_text(encoding="utf-8"))


def test_the_policy_lets_the_own_script_run_and_no_other(run: Path, page: Page) -> None:
    (policy,) = [found["content"] for tag, found in page.elements if tag == "meta" and "http-equiv" in found]
    (script,) = re.findall(r"<script>(.*?)</script>", (run / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None and "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_well_formed_for_readers(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value.removeprefix("#") for value in page.values("href") if value.startswith("#")} <= set(ids)
    assert {value for name in ("aria-labelledby", "aria-describedby") for value in page.values(name)} <= set(ids)
    assert all(found.get("alt") for tag, found in page.elements if tag == "img")
    assert {found.get("scope") for tag, found in page.elements if tag == "th"} == {"col", "row"}
    assert [tag for tag, _ in page.elements].count("h1") == 1


def test_figures_take_the_colours_of_the_page(run: Path, page: Page) -> None:
    pictures = re.findall(r"<svg.*?</svg>", (run / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert len(pictures) == 2
    for svg in pictures:
        assert "var(--ink)" in svg and "var(--series-0)" in svg
        assert not re.search("#[0-9a-f]{6}", svg)
    assert "jpeg:75" in page.text


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    whole = (folder / "rows.jsonl").read_text()
    cut = len(whole.splitlines()) - 1
    (folder / "rows.jsonl").write_text(whole.rstrip("\n"))
    page = page_of(folder)
    assert "run is not finished." in page.words
    assert len(study_of(folder).runs[0].rows) == sum(
        not json.loads(row).get("draw") for row in whole.splitlines()[:cut]
    )
    assert "Not measured here: Sanity checks." in page.words


def test_a_run_under_way_is_read_from_its_parts(tmp_path: Path) -> None:
    """Each process writes lists of rows to a file of its own."""
    folder = write_run(tmp_path / "run", finished=False)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    expected = read_runs([folder])[0].rows
    (folder / "rows.jsonl").unlink()
    (folder / "parts").mkdir()
    for worker in range(2):
        half = ",".join(lines[worker::2])
        (folder / "parts" / f"{worker}.jsonl").write_text(f'[{half}]\n[{{"image": "cut o')
    found = read_runs([folder])[0].rows
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


def test_two_runs_are_compared_image_by_image(tmp_path: Path) -> None:
    first = write_run(tmp_path / "before")
    second = write_run(tmp_path / "after", images=IMAGES[1:], shift=2.0)
    page = page_of(first, second)
    found = {row[0]: row for row in page.tables["comparison"][1:]}
    # Image i of the second run is image i + 1 of the first: 1 dB less there, and 2 dB more by the shift.
    shown = [" ".join(cell.split()) for cell in found["default"][4:]]
    assert [*shown[:2], shown[-1]] == ["+1.00 [+1.00, +1.00]", "−1.00 [−1.00, −1.00]", "3"]
    assert [row[1] for row in page.tables["headline"][1:3]] == ["before", "after"]
    assert "before" in page.words and "after" in page.words


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / parent / "run") for parent in ("one", "two")]
    assert [run.name for run in read_runs(folders)] == ["one/run", "two/run"]


def test_a_perturbation_is_amplified_as_its_caption_says(run: Path) -> None:
    """Half the picture is +4/255, half −4/255."""
    found = examples(read_runs([run]))[0].perturbation
    assert found is not None and found.title == "Perturbation × 22: grey is 0, at most 4 of 255"
    with Image.open(io.BytesIO(base64.b64decode(found.source.partition(",")[2]))) as picture:
        left, right = (np.asarray(picture)[0, column, 0] for column in (0, 31))
    assert (int(left), int(right)) == pytest.approx((127.5 + 22 * 4, 127.5 - 22 * 4), abs=0.5)


def test_examples_stay_in_their_folder_and_may_be_half_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", examples=("a", "b"))
    listed = json.loads((folder / "examples" / "examples.json").read_text())
    (folder / "examples" / "best" / "defended_attacked.png").write_bytes(b"half")
    listed[1]["folder"] = "../../elsewhere"
    (folder / "examples" / "examples.json").write_text(json.dumps(listed))
    (tmp_path / "elsewhere").mkdir()
    (only,) = examples(read_runs([folder]))
    assert only.wipe == [] and "defended_attacked" not in [picture.stage for picture in only.pictures]
    page_of(folder)


def _damage(folder: Path, name: str, text: str | None) -> None:
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("run.json", None, "has no run.json"),
        ("run.json", "[]", "holds a list where a dict is expected"),
        ("run.json", "{", "cannot be read as JSON"),
        ("rows.jsonl", None, "its rows were left out"),
        ("rows.jsonl", '{"image": "cut', "its rows were left out"),
        ("rows.jsonl", "{}\n", "line 1 has no 'image'"),
        ("rows.jsonl", "nonsense\n", "line 1 is not JSON"),
        ("summary.json", "{", "cannot be read as JSON"),
        ("summary.json", '{"transfer": [{"rows": []}]}', "'transfer' holds something else"),
    ],
)
def test_a_damaged_folder_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str | None, words: str
) -> None:
    folder = write_run(tmp_path / "run")
    _damage(folder, name, text)
    assert main(["report", str(folder)]) == 2
    complaint = capsys.readouterr().err
    assert words in complaint and str(folder) in complaint and complaint.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_a_run_that_has_only_begun_has_measured_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    (folder / "rows.jsonl").unlink()
    with pytest.raises(SettingError, match="the run has measured nothing"):
        read_runs([folder])


def test_committed_rows_are_compressed(run: Path, tmp_path: Path) -> None:
    packed = write_run(tmp_path / "run", examples=("rocks", "lake"))
    lines = (packed / "rows.jsonl").read_bytes()
    (packed / "rows.jsonl").unlink()
    (packed / "rows.jsonl.gz").write_bytes(gzip.compress(lines))
    assert page_of(packed).tables == page_of(run).tables
    (packed / "rows.jsonl.gz").write_bytes(gzip.compress(lines)[:-30])
    with pytest.raises(SettingError, match="cannot be read"):
        read_runs([packed])


def test_no_folder_and_one_named_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    folder = write_run(tmp_path / "run")
    assert main(["report", str(folder), str(folder)]) == 2
    assert "named twice" in capsys.readouterr().err
    with pytest.raises(SettingError, match="no run folder"):
        write_report([], tmp_path / "page.html")


def test_the_command_writes_where_it_says(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingError, match=rf'{missing}.*pip install "udc-defense\[report\]"'):
        write_report([run], tmp_path / "page.html")
