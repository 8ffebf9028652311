"""Several photos with one setting: a table that grows, a zip of all images and a CSV of all numbers."""

from __future__ import annotations

import csv
import html
import io
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from udc_defense.demo import engine
from udc_defense.demo.choices import Choices
from udc_defense.demo.controls import Controls
from udc_defense.demo.downloads import write_run
from udc_defense.demo.handlers import COMPUTING, Update, for_visitors, guarded, keep, lent_seconds
from udc_defense.demo.link import named
from udc_defense.demo.networks import Networks
from udc_defense.demo.presets import choose
from udc_defense.demo.progress import Progress, status
from udc_defense.demo.run_tab import stop_by
from udc_defense.errors import SettingError, UDCDefenseError
from udc_defense.photo.result import KEYS, Result

MOST = 20  # photos
SHOWN = {
    "captured": "Capture",
    "restored": "Restored",
    "attacked_restored": "Attacked, restored",
    "noise_restored": "Random noise",
    "defended_attacked": "Attacked, defended",
    "defended_clean": "Not attacked, defended",
}
COLUMNS = ["photo", *(f"{metric}_{key}" for metric in ("psnr", "ssim") for key in KEYS), "seconds", "problem"]
INTRO = (
    f"Up to {MOST} photos, each with the choices of the tab *Try it*. Photos are independent: what is finished can be "
    "downloaded while the rest is at work, and stays when you stop. One that cannot be used costs its own row only."
)
OUTPUTS = 3


def add_batch_tab(networks: Networks, gpu: Callable[..., Any], controls: Controls) -> None:
    """Draw and connect it."""
    gr.Markdown(INTRO)
    photos = gr.File(label="Photos", file_count="multiple", type="filepath", height=180, elem_id="photos")
    with gr.Row():
        run = gr.Button("Run all", variant="primary", scale=3, min_width=120, elem_id="run-batch")
        stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop-batch")
    line = gr.HTML(status("idle", "Ready."), elem_id="batch-status", elem_classes="udc-flush")
    table = gr.HTML("", elem_id="batch-table", elem_classes="udc-flush")
    files = gr.File(label="Results", file_count="multiple", interactive=False, visible=False, elem_id="batch-files")

    def seconds(paths: list[str] | None, *values: Any) -> int:
        return lent_seconds(named(values), len(paths or ()))

    running = run.click(
        gpu(duration=seconds)(Batches(networks).run),
        [photos, *controls.fields.values()],
        [line, table, files],
        api_visibility="private",
        **COMPUTING,
    )
    stop_by(stop, run, running, line)


class Batches:
    """Handler on the networks of a demo."""

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    def run(self, photos: list[str] | None, *values: Any) -> Iterator[Update]:
        """Every photo with one setting; files grow with each."""
        yield from guarded(self._run(photos or [], named(values)), OUTPUTS)

    def _run(self, photos: list[str], fields: dict[str, Any]) -> Iterator[Update]:
        choices = choose(**fields)
        if not 1 <= len(photos) <= MOST:
            raise SettingError(f"{len(photos)} photos are not in 1…{MOST}.")
        rows: list[dict[str, Any]] = []
        yield status("running", "Starting"), "", gr.update(value=None, visible=False)
        with tempfile.TemporaryDirectory(prefix="udc-batch-") as folder:
            archive = Path(folder) / "photos.zip"
            for number, photo in enumerate(photos, start=1):
                place = f"Photo {number} of {len(photos)}"
                row = {"photo": Path(photo).name}
                try:
                    for line in self._one(photo, choices, row, archive, f"{number:02}-{Path(photo).stem}"):
                        yield status("running", f"{place} · {line}", (number - 1) / len(photos)), gr.skip(), gr.skip()
                except UDCDefenseError as error:
                    row["problem"] = for_visitors(str(error), photo)
                rows.append(row)
                made = [keep(table_csv(rows), "results.csv")]
                made += [keep(archive.read_bytes(), "photos.zip")] if archive.exists() else []
                line = status("running", place, number / len(photos))
                yield line, table_html(rows), gr.update(value=made, visible=True)
        bad = sum("problem" in row for row in rows)
        words = f"Done: {len(rows) - bad} of {len(rows)} photos."
        yield status("done", words, 1.0), table_html(rows), gr.skip()

    def _one(self, photo: str, choices: Choices, row: dict[str, Any], archive: Path, name: str) -> Iterator[str]:
        """One photo into the archive and its numbers into the row; yields words of progress."""
        settings, progress = choices.settings(), Progress(engine.phases(choices))
        (image, _), content = engine.read_photo(photo), engine.content_of(photo)
        steps = engine.start(self.networks, image, choices, settings)
        try:
            for step in steps:
                if progress.update(step) or progress.due():
                    yield progress.words()
        finally:
            steps.close()  # type: ignore[attr-defined]
        result: Result = step.result
        for metric in ("psnr", "ssim"):
            row |= {f"{metric}_{key}": value for key, value in result.scores(metric).items()}
        row["seconds"] = round(sum(result.seconds.values()), 2)
        with tempfile.TemporaryDirectory(prefix="udc-batch-") as folder:
            recipe = engine.recipe(self.networks, choices, settings, content)
            report = engine.report(self.networks, choices, settings, result)
            write_run(Path(folder), photo, content, result, recipe, report)
            with zipfile.ZipFile(archive, "a") as target:
                for path in sorted(Path(folder).rglob("*.*")):
                    target.write(path, f"{name}/{path.relative_to(folder).as_posix()}")


def table_csv(rows: list[dict[str, Any]]) -> bytes:
    """All numbers; a name that a spreadsheet would take for a formula is quoted."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        name = row["photo"]
        writer.writerow(row | {"photo": f"'{name}" if name[:1] in "=+-@\t\r" else name})
    return text.getvalue().encode()


def table_html(rows: list[dict[str, Any]]) -> str:
    """PSNR per photo and stage, and what was wrong with a photo."""
    head = "".join(f'<th scope="col">{words}</th>' for words in ("Photo", *SHOWN.values()))
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    return (
        f'<table class="udc-table"><caption>PSNR in dB; a dash where there is nothing to compare with</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cells(row: dict[str, Any]) -> str:
    name = f'<th scope="row">{html.escape(row["photo"])}</th>'
    if "problem" in row:
        return f'{name}<td colspan="{len(SHOWN)}">{html.escape(row["problem"])}</td>'
    values = (row.get(f"psnr_{key}") for key in SHOWN)
    return name + "".join(f"<td>{'–' if value is None else f'{value:.2f}'}</td>" for value in values)
