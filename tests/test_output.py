"""Files are written in one place: whole or not at all, by one run at a time, and a full disk is one sentence."""

from __future__ import annotations

import ast
import errno
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from processes import another_process, small_disk
from safetensors.torch import save_file

import udc_defense
from udc_defense.errors import OutputError
from udc_defense.output import LOCK, append, locked, new_folder, write_file, writing

PACKAGE = Path(udc_defense.__file__).parent
# They write beside a checkpoint and say so themselves, in the words of a checkpoint; or into memory, or to the system.
OWN_WAY = {
    "checkpoints/files.py",
    "checkpoints/hub.py",
    "evaluation/overhead.py",
    "evaluation/publish.py",
    "output.py",
}


def _writes(node: ast.AST) -> bool:
    """A call that opens a file for writing by itself."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("write_text", "write_bytes"):
        return True
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    modes = [value.value for value in (*node.args, *(word.value for word in node.keywords)) if _is_text(value)]
    return name == "open" and any(set(mode) <= set("wxabt+") and set(mode) & set("wxa") for mode in modes)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_no_other_module_opens_a_file_to_write() -> None:
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).as_posix() not in OWN_WAY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _writes(node)
    }
    assert found == set()


class TestWriting:
    def test_what_libraries_say_of_a_full_disk_becomes_one_sentence(self, tmp_path: Path) -> None:
        values = {"weights": torch.zeros(100_000)}
        for name, write in {
            "plain": lambda path: path.write_bytes(bytes(400_000)),
            "safetensors": lambda path: save_file(values, path),
            "torch": lambda path: torch.save(values, path),
        }.items():
            path = tmp_path / name
            with small_disk(10_000), pytest.raises(OutputError) as caught, writing(path, "; the rest is kept"):
                write(path)
            sentence = str(caught.value)
            assert sentence.startswith(f"{path}: cannot be written (") and sentence.endswith("); the rest is kept.")
            assert "\n" not in sentence and "Error" not in sentence and "enforce" not in sentence

    def test_a_file_is_whole_or_not_there(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_file(path, b"old")
        with small_disk(1000), pytest.raises(OutputError, match=os.strerror(errno.EFBIG)):
            write_file(path, bytes(2000))
        assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]

    def test_what_was_appended_before_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "folder" / "rows"
        append(path, b"one\n")
        with small_disk(10), pytest.raises(OutputError, match=r"what was finished is kept\.$"):
            append(path, bytes(20))
        assert path.read_bytes().startswith(b"one\n")

    def test_a_folder_is_whole_or_the_old_one(self, tmp_path: Path) -> None:
        folder = tmp_path / "network"
        for text in ("old", "new"):
            with new_folder(folder) as place:
                (place / text).write_text(text)
            assert [path.name for path in folder.iterdir()] == [text]
        with pytest.raises(OutputError), new_folder(folder) as place:
            (place / "newer").write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert [path.name for path in folder.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [folder]


class TestLocked:
    def test_another_process_is_named_and_a_kill_frees_the_folder(self, tmp_path: Path) -> None:
        with another_process(tmp_path) as process:
            with pytest.raises(OutputError) as caught, locked(tmp_path):
                pass
            assert str(caught.value) == (
                f"{tmp_path}: process {process.pid} writes there; wait for it, or name another folder."
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
            with locked(tmp_path):
                assert (tmp_path / LOCK).read_text() == str(os.getpid())
        assert list(tmp_path.iterdir()) == []

    def test_a_run_that_this_process_has_left_open_is_no_other_one(self, tmp_path: Path) -> None:
        with locked(tmp_path), locked(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_only_one_of_many_at_once_has_it(self, tmp_path: Path) -> None:
        """Each holds the folder for a moment, many times: whoever is inside finds nobody else there."""
        inside = tmp_path / "inside"
        children = []
        for _ in range(4):
            if (child := os.fork()) == 0:
                os._exit(_visit(tmp_path / "folder", inside))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4


def _visit(folder: Path, inside: Path) -> int:
    for _ in range(50):
        try:
            with locked(folder):
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another one is inside
                time.sleep(0.001)
                inside.unlink()
        except OutputError:
            time.sleep(0.001)
        except FileExistsError:
            return 1
    return 0
