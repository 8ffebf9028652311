"""Help: every line says what it is about, and no list is repeated that a registry knows."""

from __future__ import annotations

import argparse
import re

import pytest

from udc_defense import cli
from udc_defense.attacks import ATTACKS
from udc_defense.guides import GUIDES
from udc_defense.optics import PANELS
from udc_defense.purifiers import SAMPLERS
from udc_defense.threats import KINDS
from udc_defense.transforms import TRANSFORMS

LISTS = (list(PANELS), ATTACKS.names(), SAMPLERS.names(), TRANSFORMS.names(), GUIDES.names(), list(KINDS))
COMMANDS = ("run", "simulate", "attack", "purify", "restore", "evaluate", "certify", "train", "finetune")


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return found.choices


@pytest.mark.parametrize("name", COMMANDS)
def test_every_line_has_its_subject_and_no_list(name: str) -> None:
    for action in commands()[name]._actions:
        assert action.help, f"{name} {action.dest} says nothing"
        assert not re.match(r"(of|these|likewise|default|see)\b", action.help), f"{name} {action.dest}: {action.help}"
        words = set(re.findall(r"[\w]+", action.help))
        for names in LISTS:
            assert len(words & set(names)) < 2, f"{name} {action.dest} repeats a list: {action.help}"


def test_a_fourth_panel_appears_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from udc_defense.demo.fields import TABLE

    monkeypatch.setitem(PANELS, "fourth", PANELS["poled"])
    assert cli.main(["panel", "list"]) == 0
    assert "fourth" in capsys.readouterr().out
    (panel,) = (field for field in TABLE if field.name == "panel")
    assert all(name in panel.words for name in PANELS if name != "fourth")


def test_run_is_told_in_groups() -> None:
    titles = [group.title for group in commands()["run"]._action_groups if group._group_actions]
    assert titles == ["options", "photos and captures", "attack", "defense", "run and output"]
