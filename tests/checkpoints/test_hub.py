"""The real client of the Hub against a loopback Hub and its faults."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
from checkpoint_client import CLIENT, edit, flip, total
from loopback_hub import NOBODY, WEIGHTS, Done, Fault, Hub, start
from tiny_networks import save_purifier, save_restorer

from udc_defense.checkpoints.files import CHECKSUMS, PUSHED, source_of, write_checksums
from udc_defense.checkpoints.load import load_purifier, load_restorer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def run(cache: Path, endpoint: str, *calls: str, **options: object) -> Done:
    done = start(CLIENT, cache, endpoint, *calls, **options).done()  # type: ignore[arg-type]
    for answer in done.answers:
        if str(answer).startswith("error "):
            assert answer.endswith(".") and "\n" not in answer
    assert "Traceback" not in done.log
    return done


def one(cache: Path, endpoint: str, call: str, **options: object) -> str:
    (answer,) = run(cache, endpoint, call, **options).answers
    return answer


def new_version(hub: Hub, name: str = "me/net") -> str:
    """Another commit on main, of which the weights differ."""
    folder = hub.workplace / "new"
    shutil.copytree(hub.repositories[name], folder)
    flip(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 1)
    write_checksums(folder)
    return hub.publish(name, folder)


class TestRevisions:
    def test_without_one_the_commit_is_asked_for_once_and_stated(self, hub: Hub, cache: Path) -> None:
        done = run(cache, hub.address, "restorer:me/net", "restorer:me/net")
        assert all(answer.endswith(Hub.commit("me/net")) for answer in done.answers)
        assert hub.count("GET", "/api/models/") == 1
        assert done.log.count(f"me/net@{Hub.commit('me/net')}") == 1

    def test_only_files_of_a_checkpoint_come_and_nothing_is_said(self, hub: Hub, cache: Path) -> None:
        done = run(cache, hub.address, "restorer:me/net@main", "purifier:me/prior@main")
        for answer, name in zip(done.answers, ("me/net", "me/prior"), strict=True):
            assert answer.endswith(Hub.commit(name))
            for file in json.loads((Path(answer) / CHECKSUMS).read_text()):
                assert (Path(answer) / file).read_bytes() == (hub.repositories[name] / file).read_bytes()
        assert done.log == "" and not hub.count("HEAD", "README.md")

    def test_a_branch_follows_the_hub_and_a_commit_stays(self, hub: Hub, cache: Path) -> None:
        hub.publish("me/net", hub.repositories["me/net"], "users/me")
        first = one(cache, hub.address, "restorer:me/net@users/me")
        second = hub.publish("me/net", hub.repositories["me/net"], "users/me")
        assert one(cache, hub.address, "restorer:me/net@users/me").endswith(second)
        assert one(cache, hub.address, f"restorer:me/net@{Path(first).name}") == first

    def test_a_commit_in_the_cache_needs_no_request(self, hub: Hub, cache: Path) -> None:
        call = f"restorer:me/net@{Hub.commit('me/net')}"
        first = one(cache, hub.address, call)
        hub.asked.clear()
        assert one(cache, hub.address, call) == first and not hub.asked

    def test_a_repository_without_checksums(self, hub: Hub, cache: Path) -> None:
        (hub.repositories["me/net"] / CHECKSUMS).unlink()
        call = f"restorer:me/net@{Hub.commit('me/net')}"
        first = one(cache, hub.address, call)
        hub.asked.clear()
        assert one(cache, hub.address, call) == first and not hub.asked


class TestRefusals:
    def test_what_is_not_there(self, hub: Hub, cache: Path) -> None:
        listed = save_restorer(hub.workplace / "listed")
        edit(listed / CHECKSUMS, **{"more.json": {"bytes": 1, "sha256": 64 * "0"}})
        (empty := hub.workplace / "empty").mkdir()
        hub.repositories |= {"me/listed": listed, "me/empty": empty}
        hub.faults.append(Fault("404", f"prior/resolve/{Hub.commit('me/prior')}/unet/config", "HEAD", 1, ENTRY))
        names = (
            "me/nothing",
            "me/net@v9",
            "me/listed@main",
            "me/empty@main",
            "me/prior@main",
            "../net",
            "me/net@" + 40 * "0",
        )
        answers = run(cache, hub.address, *(f"restorer:{name}" for name in names)).answers
        assert answers == [
            "error me/nothing: no such repository on the Hub, or a private one: check its name, or `hf auth login`.",
            "error me/net@v9: the repository has no revision 'v9'.",
            "error me/listed@main: its file more.json is missing, and not in the repository.",
            "error me/empty@main: the repository has no files of a checkpoint.",
            "error me/prior@main: the Hub lists a file that it does not have; try again, or another revision.",
            "error ../net: not a valid name of a repository.",
            f"error me/net@{40 * '0'}: the repository has no revision '{40 * '0'}'.",
        ]

    def test_a_revision_stays_within_the_cache(self, hub: Hub, cache: Path) -> None:
        for source in ("me/net@../../up", "me/net@/etc/up"):
            assert "neither an embedded restorer" in one(cache, hub.address, f"restorer:{source}")
        assert not hub.asked

    @pytest.mark.parametrize("token", ["", "stranger", "bad", "good"])
    def test_tokens(self, token: str, hub: Hub, cache: Path) -> None:
        hub.gated.add("me/net")
        hub.private.add("me/prior")
        done = run(cache, hub.address, "restorer:me/net@main", "purifier:me/prior@main", HF_TOKEN=token)
        if token == "good":
            assert not any("error" in answer for answer in done.answers)
        elif token == "bad":
            assert all("wants a token that may do this; `hf auth login`" in answer for answer in done.answers)
        else:
            assert done.answers[0].startswith("error me/net@main: gated; accept its terms on the Hub")
            assert done.answers[1].startswith("error me/prior@main: no such repository on the Hub, or a private one")

    def test_what_was_loaded_once_outlives_a_refusal(self, hub: Hub, cache: Path) -> None:
        first = one(cache, hub.address, "restorer:me/net@main")
        hub.private.add("me/net")
        done = run(cache, hub.address, "restorer:me/net@main")
        assert done.answers == [first] and "(RepositoryNotFoundError)" in done.log

    def test_too_many_requests(self, hub: Hub, cache: Path) -> None:
        """Of a question the wait is told; the client itself waits in a transfer."""
        hub.faults.append(Fault("429", "/api/models/", headers={"Retry-After": "77"}))
        assert one(cache, hub.address, "restorer:me/net@main") == (
            "error me/net@main: the Hub limits requests; try again in 77 s."
        )
        hub.faults.append(Fault("429", WEIGHTS, headers={"Retry-After": "1"}))
        assert one(cache, hub.address, "restorer:me/net@main").endswith(Hub.commit("me/net"))
        assert hub.count("GET", WEIGHTS) == 2


ENTRY = {"X-Error-Code": "EntryNotFound"}


class TestAwayHub:
    @pytest.mark.parametrize("offline", [{}, {"HF_HUB_OFFLINE": "1"}])
    def test_the_cache_is_used(self, offline: dict[str, str], hub: Hub, cache: Path) -> None:
        first = one(cache, hub.address, "restorer:me/net")
        done = run(cache, NOBODY, "restorer:me/net", "restorer:me/net@main", "restorer:me/other", **offline)
        assert done.answers[:2] == [first, first] and f"me/net@{Path(first).name} is used" in done.log
        words = "not in the cache, and HF_HUB_OFFLINE keeps" if offline else "the Hub cannot be reached (ConnectError)"
        assert done.answers[2].startswith(f"error me/other: {words}")

    def test_a_hub_that_does_not_answer(self, hub: Hub, cache: Path) -> None:
        first = one(cache, hub.address, "restorer:me/net@main")
        hub.faults += [Fault("silent", "/api/models/", times=2), Fault("silent", WEIGHTS, "HEAD")]
        calls = ("restorer:me/net@main", "purifier:me/prior@main", "purifier:me/prior@main")
        done = run(cache, hub.address, *calls, HF_HUB_ETAG_TIMEOUT="1")
        assert done.answers[0] == first and "(ReadTimeout)" in done.log
        assert all("the Hub cannot be reached (ReadTimeout)" in answer for answer in done.answers[1:])

    def test_a_hub_that_is_down(self, hub: Hub, cache: Path) -> None:
        hub.faults.append(Fault("503", "/api/models/"))
        done = run(cache, hub.address, "restorer:me/net@main", "restorer:me/net@main")
        assert done.answers[0] == "error me/net@main: the Hub answers 503; try again later."
        assert done.answers[1].endswith(Hub.commit("me/net")), "a failure is not kept"

    @pytest.mark.slow
    def test_a_hub_that_dies_in_the_middle(self, hub: Hub, cache: Path) -> None:
        first = one(cache, hub.address, "restorer:me/net")
        new_version(hub)
        hub.faults.append(Fault("die", WEIGHTS))
        done = run(cache, hub.address, "restorer:me/net")
        assert "the Hub cannot be reached (ConnectError)" in done.answers[0]
        assert done.answers[0].endswith(f"; the cache still holds me/net@{Path(first).name}.")
        assert one(cache, NOBODY, "restorer:me/net") == first


class TestTransfers:
    def test_a_broken_connection_is_resumed(self, hub: Hub, cache: Path) -> None:
        """In steps of 10 MiB, which is what the client writes at once."""
        folder = hub.workplace / "large"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(os.urandom(2**20) * 22)
        write_checksums(folder)
        hub.repositories["me/large"] = folder
        hub.faults.append(Fault("cut", "model.safetensors"))
        assert one(cache, hub.address, "restorer:me/large@main").endswith(Hub.commit("me/large"))
        ranges = [request.range for request in hub.asked if request[:1] == ("GET",) and "model.safe" in request.path]
        assert ranges == ["", f"bytes={10 * 2**20}-"]

    def test_a_short_file_is_refused_and_what_came_is_kept(self, hub: Hub, cache: Path) -> None:
        hub.faults.append(Fault("short", WEIGHTS))
        answer = one(cache, hub.address, "restorer:me/net@main")
        assert answer == "error me/net@main: the exchange with the Hub failed (OSError); try again."
        assert one(cache, hub.address, "restorer:me/net@main").endswith(Hub.commit("me/net"))
        assert (hub.count("GET", "config.json"), hub.count("GET", WEIGHTS)) == (1, 2)

    @pytest.mark.parametrize("file", [WEIGHTS, "config.json", CHECKSUMS])
    def test_a_file_that_comes_damaged_is_fetched_again(self, file: str, hub: Hub, cache: Path) -> None:
        """Of the right size, which is all the client looks at; the list of sums is spoilt in its syntax."""
        if file == CHECKSUMS:
            path = hub.repositories["me/net"] / CHECKSUMS
            path.write_text(path.read_text().ljust(2001))
            hub.faults.append(Fault("short", CHECKSUMS, "HEAD"))
        hub.faults.append(Fault("corrupt", file))
        assert one(cache, hub.address, "restorer:me/net@main").endswith(Hub.commit("me/net"))

    def test_one_that_is_damaged_twice(self, hub: Hub, cache: Path) -> None:
        assert one(cache, hub.address, "restorer:me/damaged@main") == (
            f"error me/damaged@main: its file {WEIGHTS} is damaged (sha256 differs), "
            "though it was fetched twice; try another revision."
        )
        assert hub.count("GET", WEIGHTS) == 2
        hub.corrupt.clear()
        assert one(cache, hub.address, "restorer:me/damaged@main").endswith(Hub.commit("me/damaged"))

    def test_a_damaged_new_version_leaves_the_old_one(self, hub: Hub, cache: Path) -> None:
        first = one(cache, hub.address, "restorer:me/net")
        new = new_version(hub)
        hub.corrupt.add("me/net")
        answer = one(cache, hub.address, "restorer:me/net")
        assert "damaged" in answer and answer.endswith(f"; the cache still holds me/net@{Path(first).name}.")
        assert one(cache, hub.address, f"restorer:me/net@{Path(first).name}") == first
        assert one(cache, NOBODY, "restorer:me/net") == first, "the broken commit was not remembered"
        hub.corrupt.clear()
        assert one(cache, hub.address, "restorer:me/net").endswith(new)

    @pytest.mark.parametrize("spoil", ["flip", "unlink", "dangle"])
    def test_a_damaged_cache_is_mended(self, spoil: str, hub: Hub, cache: Path) -> None:
        call = f"restorer:me/net@{Hub.commit('me/net')}"
        weights = Path(one(cache, hub.address, call)) / WEIGHTS
        if spoil == "flip":
            flip(weights, 100)
        elif spoil == "unlink":
            weights.unlink()
        else:
            weights.resolve().unlink()
        words = "is damaged (sha256 differs)" if spoil == "flip" else "is missing"
        assert f"its file {WEIGHTS} {words}" in one(cache, NOBODY, call)
        hub.asked.clear()
        assert one(cache, hub.address, call) == str(weights.parent)
        assert weights.read_bytes() == (hub.repositories["me/net"] / WEIGHTS).read_bytes()
        assert hub.count("GET", "/resolve/") == (spoil != "unlink")

    def test_two_processes_at_once(self, hub: Hub, cache: Path) -> None:
        hub.faults.append(Fault("slow", WEIGHTS, times=2))
        clients = [start(CLIENT, cache, hub.address, "restorer:me/net@main") for _ in range(2)]
        answers = [client.done().answers for client in clients]
        assert answers[0] == answers[1] and answers[0][0].endswith(Hub.commit("me/net"))
        assert hub.count("GET", WEIGHTS) == 1

    def test_a_process_that_is_killed_leaves_a_cache_that_works(self, hub: Hub, cache: Path) -> None:
        hub.faults.append(Fault("silent", WEIGHTS))
        killed = start(CLIENT, cache, hub.address, "restorer:me/net@main")
        deadline = time.monotonic() + 30
        while not hub.count("GET", WEIGHTS) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.process.kill()
        killed.process.communicate()
        assert one(cache, hub.address, "restorer:me/net@main").endswith(Hub.commit("me/net"))
        assert hub.count("GET", "config.json") == 1


def without_privileges() -> None:
    """Root, too, obeys the permissions of files when the program that starts next may not override them."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_a_cache_that_cannot_be_written(hub: Hub, cache: Path) -> None:
    first = one(cache, hub.address, "restorer:me/net@main")
    folders = [path for path in (cache, *cache.rglob("*")) if path.is_dir() and not path.is_symlink()]
    for folder in folders:
        folder.chmod(0o500)
    try:
        calls = ("restorer:me/net@main", f"restorer:me/net@{Path(first).name}", "purifier:me/prior@main")
        answers = run(cache, hub.address, *calls, before=without_privileges).answers
    finally:
        for folder in folders:
            folder.chmod(0o700)
    assert answers[:2] == [first, first]
    assert answers[2] == (
        f"error me/prior@main: the cache {cache / 'hub'} cannot be written; set HF_HOME to a folder that can."
    )


def test_a_disk_that_is_full(hub: Hub, cache: Path) -> None:
    """A limit on the size of files stands for it: the write of the weights fails, in the client, with an errno."""
    first = one(cache, hub.address, "restorer:me/net")
    new_version(hub)
    limit = (hub.repositories["me/net"] / WEIGHTS).stat().st_size - 1
    answer = one(
        cache, hub.address, "restorer:me/net", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert answer == (
        f"error me/net: no room for it in {cache / 'hub'}; make room, or set HF_HOME to a folder that has some; "
        f"the cache still holds me/net@{Path(first).name}."
    )
    assert not list(cache.rglob("*.incomplete"))
    assert one(cache, NOBODY, "restorer:me/net") == first


PUSH = """
import json, sys
from udc_defense.errors import CheckpointError
from udc_defense.checkpoints.hub import push
for call in sys.argv[1:]:
    folder, repo, options = json.loads(call)
    try:
        answer = push(folder, repo, **options)
    except CheckpointError as error:
        answer = f"error {error}"
    print(json.dumps(answer))
"""


COMMAND = """
import contextlib, io, json, sys
from udc_defense.cli import main
out, errors = io.StringIO(), io.StringIO()
with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
    status = main(sys.argv[1:])
print(json.dumps([status, out.getvalue().strip(), errors.getvalue().strip()]))
"""


def push(cache: Path, hub: Hub, *calls: tuple[Path, str, dict], token: str = "good") -> list[str]:
    texts = [json.dumps([str(folder), repo, options]) for folder, repo, options in calls]
    done = start(PUSH, cache, hub.address, *texts, HF_TOKEN=token).done()
    assert all(answer.endswith(".") and "\n" not in answer for answer in done.answers if "error" in answer)
    return done.answers


class TestPush:
    def test_what_was_pushed_is_what_loads(self, hub: Hub, cache: Path, tmp_path: Path) -> None:
        """In a fresh cache, by its commit and by the name that `UDC_DEFENSE_REPO` moves to the Hub."""
        names = ("us/udc-defense-restorer-default", "us/udc-defense-purifier-diffusion")
        folders = (save_restorer(tmp_path / "net"), save_purifier(tmp_path / "prior"))
        (folders[0] / "README.md").write_text("---\nlicense: apache-2.0\n---\nA card.\n")
        edit(folders[0] / "config.json", note="changed after the sums were made")
        pushed = push(
            cache, hub, (folders[0], names[0], {"message": "First"}), (folders[1], names[1], {"private": True})
        )
        assert hub.messages == ["First", "Upload prior"] and hub.private == {names[1]}
        calls = ("load_restorer", "load_purifier:diffusion", f"restorer:{names[0]}@{pushed[0]}")
        done = run(tmp_path / "fresh", hub.address, *calls, HF_TOKEN="good", UDC_DEFENSE_REPO="us")
        assert done.answers[0] == ["GatedUNet", total(load_restorer(folders[0]))]
        assert done.answers[1] == ["DiffusionPurifier", total(load_purifier(folders[1]))]
        for folder, name, commit in zip(folders, names, pushed, strict=True):
            there, fetched = hub.find(name, "main"), tmp_path / "fresh" / "hub" / f"models--{name.replace('/', '--')}"
            assert there is not None and there[0] == commit
            for path in set(folder.rglob("*.*")) - {folder / PUSHED}:
                assert (there[1] / path.relative_to(folder)).read_bytes() == path.read_bytes()
                if path.suffix in (".json", ".safetensors"):
                    copy = fetched / "snapshots" / commit / path.relative_to(folder)
                    assert copy.read_bytes() == path.read_bytes()

    def test_by_the_command_line(self, hub: Hub, cache: Path, tmp_path: Path) -> None:
        """Its answer is a name that loads; a damaged folder is not pushed, though a push writes new sums."""
        folder = save_restorer(tmp_path / "net")
        write_checksums(folder)
        damaged = shutil.copytree(folder, tmp_path / "damaged")
        edit(damaged / "config.json", note="changed after the sums were made")
        pushed, refused = (
            start(COMMAND, cache, hub.address, "models", "push", str(path), "--repo", "us/net", HF_TOKEN="good").done()
            for path in (folder, damaged)
        )
        ((status, address, _),) = pushed.answers
        assert status == 0 and address.startswith("us/net@")
        assert one(cache, hub.address, f"restorer:{address}").endswith(address.removeprefix("us/net@"))
        assert source_of(folder) == f"folder, also {address}"
        ((status, _, words),) = refused.answers
        assert status == 2 and words.endswith("damaged: its file config.json is damaged (sha256 differs).")

    def test_again_and_to_a_branch(self, hub: Hub, cache: Path, tmp_path: Path) -> None:
        """What the folder no longer has goes; nothing new makes no commit."""
        folder = save_restorer(tmp_path / "net")
        (folder / "training.json").write_text("{}")
        (folder / "notes.txt").write_text("Not for others.")
        (first,) = push(cache, hub, (folder, "us/net", {}))
        (folder / "training.json").unlink()
        second, third, branch = push(
            cache, hub, (folder, "us/net", {}), (folder, "us/net", {}), (folder, "us/net", {"revision": "v1"})
        )
        assert first != second == third == branch
        found = hub.find("us/net", second)
        assert found is not None and {path.name for path in found[1].iterdir()} - {".gitattributes"} == {
            WEIGHTS,
            "config.json",
            CHECKSUMS,
        }
        assert hub.find("us/net", "v1") == found

    def test_names_are_shown_and_verified_as_they_are_there(self, hub: Hub, cache: Path, tmp_path: Path) -> None:
        """With a card from elsewhere. One that is missing there hides no other."""
        (tmp_path / "card.md").write_text("---\nlicense: apache-2.0\n---\nAnother card.\n")
        folder, name = save_restorer(tmp_path / "net"), "us/udc-defense-restorer-default"
        (commit,) = push(cache, hub, (folder, name, {"card": str(tmp_path / "card.md")}))
        assert (hub.find(name, "main")[1] / "README.md").read_bytes() == (tmp_path / "card.md").read_bytes()  # type: ignore[index]
        shown, verified = (
            start(COMMAND, cache, hub.address, "models", *words, UDC_DEFENSE_REPO="us").done().answers[0]
            for words in (("show", "restorer/default"), ("verify", "restorer/default", "guide/default"))
        )
        assert shown[0] == 0 and f"{name}@{commit}" in shown[1]
        assert verified[0] == 2 and verified[1].startswith("restorer/default: intact, 2 files")
        assert "us/udc-defense-guide-default: no such repository" in verified[2]

    def test_a_folder_that_cannot_be_written_is_pushed_all_the_same(
        self, hub: Hub, cache: Path, tmp_path: Path
    ) -> None:
        folder = save_restorer(tmp_path / "net")
        folder.chmod(0o500)
        try:
            call = json.dumps([str(folder), "us/net", {}])
            done = start(PUSH, cache, hub.address, call, before=without_privileges, HF_TOKEN="good").done()
        finally:
            folder.chmod(0o700)
        (commit,) = done.answers
        assert (
            done.log == f"{folder}: is at us/net@{commit} now, which its {PUSHED} cannot record (Permission denied).\n"
        )
        assert not (folder / PUSHED).exists()

    def test_refusals(self, hub: Hub, cache: Path, tmp_path: Path) -> None:
        folder = save_restorer(tmp_path / "net")
        (tmp_path / "none").mkdir()
        calls = ((tmp_path / "none", "us/x", {}), (folder, "me/net", {"private": True}), (folder, "no name", {}))
        none, exists, name = push(cache, hub, *calls)
        assert none == f"error {tmp_path / 'none'}: not a folder with a checkpoint, for it holds no .safetensors."
        assert exists == "error me/net: exists and is public; make it private on the Hub, or push to another."
        assert name == "error no name: not a valid name of a repository."
        for token in ("", "stranger"):
            (answer,) = push(cache, hub, (folder, "us/x", {}), token=token)
            assert answer == "error us/x: the Hub wants a token that may do this; `hf auth login` or set HF_TOKEN."
        assert "us/x" not in hub.repositories
