"""The listing of a folder of folders by a process of its own."""

import os
import time

import pytest
import torch
from test_train import command

import dataset
import images
import listing
import model
import train
from distributed import ALONE
from errors import InputError
from images import stat_all
from options import parse_args


@pytest.fixture
def root(tmp_path):
    """Two folders: b holds two files, one of 3 bytes, and what is passed over; a holds one under a name that is no UTF-8."""
    root = tmp_path / "root"
    for folder in ("b", "a", "b/folder"):
        (root / folder).mkdir(parents=True)
    (root / "b" / "two.png").write_bytes(b"123")
    (root / "b" / "one.jpg").symlink_to(root / "b" / "two.png")
    (root / "b" / "broken.jpg").symlink_to(root / "b" / "nothing")
    (root / "b" / "._two.png").write_bytes(b"")
    (root / "._a").write_bytes(b"")
    (root / "a" / os.fsdecode(b"\xff\xfe.jpg")).write_bytes(b"1")
    os.utime(root / "b" / "two.png", ns=(5, 7_000_000_001))
    os.utime(root / "a" / os.fsdecode(b"\xff\xfe.jpg"), ns=(5, 9))
    return root


def test_what_is_found_by_hand(root):
    with listing.Listing(root) as process:
        found = process.result()
    assert found == {"b": {"one.jpg": (3, 7_000_000_001), "two.png": (3, 7_000_000_001)}, "a": {"\udcff\udcfe.jpg": (1, 9)}}
    assert list(found["b"]) == ["one.jpg", "two.png"]
    assert found == listing.look(root)


def test_a_folder_that_can_not_be_read_is_left_out(root, monkeypatch):
    scandir = os.scandir

    def denied(folder):
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", denied)
    assert list(listing.look(root)) == ["a"]


def test_a_root_that_is_not_there_lists_nothing(tmp_path):
    with listing.Listing(tmp_path / "nowhere") as process:
        assert process.result() == {}


def test_the_process_ends_with_its_block_whether_its_answer_was_taken_or_not(root, monkeypatch):
    monkeypatch.setattr(listing, "__file__", root / "slow.py")
    (root / "slow.py").write_text("import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(KeyError), listing.Listing(root) as process:
        raise KeyError
    assert process._process.returncode == -9 and time.monotonic() - began < 20


def test_images_and_sizes_are_those_that_are_found_without_it(shared_data):
    people, root = dataset.read_people(shared_data), dataset.images_root(shared_data)
    with listing.Listing(root) as process:
        listed = process.result()
    images = dataset.list_images(shared_data, people)
    assert images.equals(dataset.list_images(shared_data, people, listed=listed))
    files = dataset.image_files(shared_data, images["image"])
    stats = stat_all(files)
    assert stats == [listed[image.split("/")[0]][image.split("/")[1]] for image in images["image"]]
    assert stat_all([*files, files[0]], [*stats[:-1], None]) == [*stats, stats[0]]


def test_a_listed_file_is_not_looked_at_again(tmp_path):
    assert images.stat_all([tmp_path / "gone.jpg"], [(3, 4)]) == [(3, 4)]
    with pytest.raises(InputError, match=r"gone.jpg: No such file"):
        images.stat_all([tmp_path / "gone.jpg"], [None])


def test_a_new_run_of_everyone_asks_for_it_and_others_look_themselves(shared_data, tmp_path, monkeypatch):
    """A run of few people does not wait for the folders of all. What was listed is what the run goes by."""
    asked = []

    class Asked(listing.Listing):
        def result(self):
            asked.append(super().result())
            return asked[-1]

    def files(*options):
        args = parse_args(command(shared_data, tmp_path, *options))
        data, _built = train.prepare(args, ALONE)
        return data.files, data.sizes.tolist()

    monkeypatch.setattr(listing, "Listing", Asked)
    alone = files("--limit-people", "24")
    assert asked == []
    assert files() == alone
    assert len(asked[0]) == 24
    stat, looked = os.stat, []
    monkeypatch.setattr(os, "stat", lambda file, **how: (looked.append(str(file)), stat(file, **how))[1])
    assert files() == alone
    assert not [file for file in looked if "images" in file and file.endswith("g")]


def test_a_core_is_left_to_what_looks_at_the_files_meanwhile(shared_data, tmp_path, monkeypatch):
    def build(*_args, **_options):
        raise InputError(f"built on {torch.get_num_threads()} of 3")

    monkeypatch.setattr(model, "build_model", build)
    before = torch.get_num_threads()
    try:
        with pytest.raises(InputError, match="built on 2 of 3"):
            train.main(command(shared_data, tmp_path, "--threads", "3"))
    finally:
        torch.set_num_threads(before)
