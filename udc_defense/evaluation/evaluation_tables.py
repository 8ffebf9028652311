"""What `evaluate --preset paper` found for the embedded restorers, from the summaries of its runs, one per panel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NONE = "none"
UDC = "udc"
# Every restorer meets the captures of this panel, but those that know another one alone.
COMMON = "axon20"

Summary = dict[str, Any]
Summaries = Mapping[str, Summary]  # by panel


def headline_table(summaries: Summaries, restorer: str | None = None) -> str:
    """Markdown: each restorer, or one, alone and behind each defense, under the worst attack of either kind."""
    columns = [
        "restorer",
        "panel",
        "defense",
        "capture",
        "clean",
        "random noise, no defense",
        "does not know the defense",
        "knows it",
        "crops",
    ]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for panel, summary in summaries.items():
        sides = {_target(entry): entry for entry in summary["oblivious_and_adaptive"]}
        for entry in sorted(_targets(summary), key=lambda entry: str(entry["restorer"])):
            if restorer not in (None, entry["restorer"]):
                continue
            side = sides[_target(entry)]
            cells = [f"{entry[name]['mean']:.2f}" for name in ("captured", "clean", "noise")]
            cells += [_worst(side[name]) for name in ("oblivious", "adaptive")]
            cells.append(str(entry["psnr"]["images"]))
            lines.append("| " + " | ".join([f"`{entry['restorer']}`", panel, entry["defense"], *cells]) + " |")
    return "\n".join(lines)


def transfer_table(summaries: Summaries) -> str:
    """Markdown: PSNR of the restorer of a column under the attack that was made on that of a row, no defense."""
    (found,) = (entry for entry in summaries[COMMON]["transfer"] if entry["degradation"] == UDC)
    columns = ["attacked on", *found["columns"], "crops"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for name, values in zip(found["rows"], found["psnr"], strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + f" | {found['images']} |")
    return "\n".join(lines)


def flags_table(summaries: Summaries) -> str:
    """Markdown: the sanity checks that were raised."""
    lines = ["| restorer | panel | defense | check | what was seen |", "|---|---|---|---|---|"]
    for panel, summary in summaries.items():
        lines += [
            f"| `{flag['restorer']}` | {panel} | {flag['defense']} | {flag['check']} | {flag['words']} |"
            for flag in sorted(summary["flags"], key=lambda flag: str(flag["restorer"]))
            if flag["raised"] and flag["degradation"] == UDC
        ]
    return "\n".join(lines)


def verdict(summaries: Summaries) -> str:
    """What the worst attack on each restorer leaves, without and with the default defense; who keeps most, and how."""
    entries = [entry for summary in summaries.values() for entry in _targets(summary)]
    alone, defended = ([e for e in entries if e["defense"] == name] for name in (NONE, "default"))
    crops = " and ".join(map(str, sorted({entry["psnr"]["images"] for entry in (*alone, *defended)})))
    best = max(_targets(summaries[COMMON]), key=lambda entry: entry["psnr"]["mean"])
    plain = " (a plain transform)" if best["trivial"] else ""
    return (
        f"Under the worst attack that was tried on each at ε = {summaries[COMMON]['radius']:g}/255, {_below(alone)} of "
        f"{len(alone)} embedded restorers end below the capture that they were given where nothing defends them "
        f"({_span(alone)}), and {_below(defended)} behind the default defense, whose attacker may know it "
        f"({_span(defended)}; means over {crops} held-out crops of 128²). On captures of `{COMMON}` the restorer "
        f"`{best['restorer']}` behind the defense `{best['defense']}`{plain} keeps most, "
        f"{best['psnr']['mean']:.1f} dB; on clean captures it has {best['clean']['mean']:.1f} dB."
    )


def _below(entries: list[dict[str, Any]]) -> int:
    return sum(entry["psnr"]["mean"] < entry["captured"]["mean"] for entry in entries)


def _targets(summary: Summary) -> Iterator[dict[str, Any]]:
    return (entry for entry in summary["headline"] if entry["degradation"] == UDC and entry["psnr"])


def _target(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["degradation"], entry["restorer"], entry["defense"]


def _worst(side: dict[str, Any] | None) -> str:
    """PSNR and the attack's title."""
    return "" if side is None else f"{side['psnr']['mean']:.2f} ({side['title']})"


def _span(entries: list[dict[str, Any]]) -> str:
    values = [entry["psnr"]["mean"] for entry in entries]
    return f"{min(values):.1f} to {max(values):.1f} dB"
