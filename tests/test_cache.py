import errno
import json
import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import gradient, save, until_told, white_box
from PIL import Image

import images
from errors import InputError
from files import DiskError, draw_seed, held, make_dir
from images import Geometry, decode


def test_bad_images_stop_the_cache_or_are_counted_and_listed(bad_files, tmp_path, capsys):
    place = tmp_path / "cache"
    with pytest.raises(InputError, match=r"empty.jpg: not a readable image.*--skip-bad-images"):
        images.open_cache(bad_files, Geometry(16, 16), place, skip_bad=False)
    assert not list(place.glob("*.npy")) and not list(place.glob("*.tmp"))
    pixels, bad = images.open_cache(bad_files, Geometry(16, 16), place, skip_bad=True)
    assert (len(pixels), bad) == (4, [1, 2, 3])
    assert capsys.readouterr().err.count("skipped: ") == 3
    with pytest.raises(InputError, match=r"empty.jpg.*3 bad in all"):
        images.open_cache(bad_files, Geometry(16, 16), place)


def test_a_cache_that_is_gone_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError) as told:
        images.read_array(tmp_path / "gone.npy", np.uint8, (1,))
    assert told.value.filename == str(tmp_path / "gone.npy")


def test_what_the_system_cannot_read_just_now_is_not_called_bad_for_good(bad_files, tmp_path, monkeypatch):
    """An image may not be read, then it may: no cache is there in between, and in the end the damaged ones alone are bad."""
    real = Image.open

    def locked(file, **options):
        if file == bad_files[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, **options)

    monkeypatch.setattr(Image, "open", locked)
    with pytest.raises(InputError, match=r"whole.jpg: can't be read now \(Permission denied\); make it readable and try"):
        images.open_cache(bad_files, Geometry(16, 16), tmp_path / "cache", skip_bad=True)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    monkeypatch.undo()
    assert images.open_cache(bad_files, Geometry(16, 16), tmp_path / "cache", skip_bad=True)[1] == [1, 2, 3]


def test_a_seek_to_a_place_that_none_is_is_damage(bad_files, monkeypatch):
    """A damaged file may send its decoder there, and the system then says EINVAL."""
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=OSError(errno.EINVAL, "Invalid argument")))
    with pytest.raises(InputError, match=r"whole.jpg: not a readable image \(\d+ bytes; \[Errno 22\]") as told:
        decode(bad_files[0], Geometry(16, 16))
    assert told.type is InputError


def test_memory_that_runs_out_is_no_damage_either(bad_files, monkeypatch):
    monkeypatch.setattr(Image, "open", mock.Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        decode(bad_files[0], Geometry(16, 16))


@pytest.fixture
def files(tmp_path):
    return [save(tmp_path / f"{n}.png", gradient(20 + n, 20)) for n in range(6)]


def test_cache_is_built_once_and_equals_decode(files, tmp_path, monkeypatch):
    geometry = Geometry(8, 8)
    pixels, bad = images.open_cache(files, geometry, tmp_path / "cache")
    assert pixels.dtype == np.uint8 and bad == []
    np.testing.assert_array_equal(pixels, np.stack([decode(file, geometry) for file in files]))
    monkeypatch.setattr(images, "decode", None)  # from here decoding would fail
    again, _ = images.open_cache(files, geometry, tmp_path / "cache")
    np.testing.assert_array_equal(again, pixels)


def test_many_images_are_decoded_by_processes_into_the_same_pixels(tmp_path, monkeypatch):
    """Of parts that end anywhere, with bad files among them."""
    files = [save(tmp_path / f"{n}.png", gradient(20 + n, 20)) for n in range(40)]
    files[17].write_bytes(b"")
    one_by_one, bad = images.open_cache(files, Geometry(8, 8), tmp_path / "one", skip_bad=True)
    decoded, synced, here = images.decode, [], os.getpid()
    monkeypatch.setattr(images, "PART", 3)
    monkeypatch.setattr(images, "SYNCED", 2)
    monkeypatch.setattr(images, "usable_cores", lambda: 3)
    monkeypatch.setattr(images, "decode", lambda *args: None if os.getpid() == here else decoded(*args))
    monkeypatch.setattr(os, "fsync", lambda _file, real=os.fsync: synced.append(1) or real(_file))
    pixels, bad_too = images.open_cache(files, Geometry(8, 8), tmp_path / "many", skip_bad=True)
    np.testing.assert_array_equal(pixels, one_by_one)
    assert bad == bad_too == [17] and not pixels[17].any() and pixels[16].any() and pixels[39].any()
    assert len(synced) >= 7
    with pytest.raises(InputError, match=r"17.png: not a readable image"):
        images.open_cache(files, Geometry(8, 9), tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.npy"))) == 1 and not list((tmp_path / "many").glob(".*.tmp*"))


def test_a_disk_that_fills_up_in_a_process_of_the_decoding_is_told(tmp_path, monkeypatch):
    files = [save(tmp_path / f"{n}.png", gradient(20, 20)) for n in range(12)]
    monkeypatch.setattr(images, "PART", 3)
    monkeypatch.setattr(images, "usable_cores", lambda: 2)

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(images, "decode", full)
    with pytest.raises(DiskError, match=r"\.npy: can't be written \(No space left on device\): 2\.2 KiB are needed"):
        images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_key_follows_all_that_changes_pixels(files):
    key = images.cache_key(files, Geometry(8, 8))
    assert key == images.cache_key(files, Geometry(8, 8))
    keys = {key, images.cache_key(files, Geometry(8, 9)), images.cache_key(files, Geometry(8, 8, (16, 16)))}
    keys.add(images.cache_key(files[::-1], Geometry(8, 8)))
    os.utime(files[3], ns=(1, 1))
    keys.add(images.cache_key(files, Geometry(8, 8)))
    assert len(keys) == 5


def test_a_working_folder_whose_name_is_not_utf8_has_keys_too(files, monkeypatch):
    monkeypatch.chdir(files[0].parent)
    monkeypatch.setattr(os, "getcwd", lambda: "/d\udce9")
    assert len(images.cache_key(["0.png"], Geometry(8, 8))) == 20


def test_key_of_an_image_without_faces_is_what_it_was(files, monkeypatch):
    """Caches made before there was --face-crop stay valid: the key is that of the words below and the files."""
    assert repr(Geometry(8, 8)) == "Geometry(height=8, width=8, crop=None)"
    words = (images.DECODER, images.PIL.__version__, torch.__version__, Geometry(8, 8))
    key = images.cache_key(files, Geometry(8, 8))
    assert key == images._key(words, files)
    monkeypatch.setattr(images, "DETECTOR", "another")
    assert key == images.cache_key(files, Geometry(8, 8))


def test_key_follows_the_margin_and_the_detector(files, monkeypatch):
    keys = {images.cache_key(files, Geometry(8, 8, None, margin)) for margin in (None, 0.0, 0.4)}
    monkeypatch.setattr(images, "DETECTOR", "another")
    keys.add(images.cache_key(files, Geometry(8, 8, None, 0.4)))
    assert len(keys) == 4


@pytest.fixture
def faces(white_detector, tmp_path):
    """Files of 96 x 128: faces at (20, 30, 40, 50) and (50, 60, 70, 100), and none."""
    boxes = ((20, 30, 40, 50), (50, 60, 70, 100), None)
    return [save(tmp_path / f"face{n}.png", white_box((96, 128), box)) for n, box in enumerate(boxes)]


def test_faces_are_cut_out_and_their_boxes_kept(faces, tmp_path, monkeypatch, capsys):
    geometry = Geometry(16, 16, None, 0.0)
    pixels, bad = images.open_cache(faces, geometry, tmp_path / "cache")
    boxes = [(20, 30, 40, 50), (50, 60, 70, 100), None]
    np.testing.assert_array_equal(pixels, np.stack([decode(*each) for each in zip(faces, [geometry] * 3, boxes)]))
    assert bad == [] and (pixels[0] == 255).all()  # a square face fills the image
    assert "face crop: no face found in 1 of 3 images" in capsys.readouterr().err
    monkeypatch.setattr(images, "find_faces", None)  # from here looking for faces would fail
    found = images.open_faces(faces, tmp_path / "cache")
    np.testing.assert_array_equal(found, np.array([*boxes[:2], (np.nan,) * 4], dtype=np.float32))
    images.open_cache(faces, geometry, tmp_path / "cache")
    assert "face crop: no face found in 1 of 3 images" in capsys.readouterr().err
    wider, _ = images.open_cache(faces, Geometry(16, 16, None, 0.5), tmp_path / "cache")  # the same boxes serve
    assert wider[0, 0, 0, 0] == 90 and wider[0, 8, 8, 0] == 255


def test_who_waited_for_the_boxes_does_not_look_again(faces, tmp_path, monkeypatch, capsys):
    place, found = make_dir(tmp_path / "cache", "--cache-dir"), images.find_faces(faces, quiet=True)
    monkeypatch.setattr(images, "find_faces", None)
    boxes = place / f"{images._key((images.DETECTOR, images.PIL.__version__), faces)}.faces.npy"
    with ThreadPoolExecutor(1) as pool:
        with held(place / boxes.name.replace("faces.npy", "lock"), "", make=True):
            waiting = pool.submit(images.open_faces, faces, place)
            until_told("waiting for another process")
            assert not waiting.done()
            np.save(boxes, found)
        np.testing.assert_array_equal(waiting.result(60), found)


def test_no_detector_is_needed_without_the_option(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(images, "find_faces", None)
    images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    assert "face" not in capsys.readouterr().err
    assert not list((tmp_path / "cache").glob("*.faces.npy"))


def test_bad_files_have_no_face_and_are_named_as_ever(faces, bad_files, tmp_path, capsys):
    files, geometry = [*faces, bad_files[1]], Geometry(16, 16, None, 0.4)
    with pytest.raises(InputError, match=r"empty.jpg: not a readable image"):
        images.open_cache(files, geometry, tmp_path / "cache", skip_bad=False)
    _images, bad = images.open_cache(files, geometry, tmp_path / "cache", skip_bad=True)
    assert bad == [3]
    assert "face crop: no face found in 1 of 3 images" in capsys.readouterr().err


def _open(files, place, results):
    pixels, _ = images.open_cache(files, Geometry(8, 8), place, quiet=True)
    results.put(int(pixels.astype(int).sum()))


def test_two_processes_at_once_build_one_cache(files, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open, args=(files, tmp_path / "cache", results)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert len(sums) == 1
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".lock", ".npy"]


def test_waits_for_the_one_who_builds(files, tmp_path, capsys):
    place = tmp_path / "cache"
    place.mkdir()
    lock = place / f"{images.cache_key(files, Geometry(8, 8))}.lock"
    with held(lock, "", make=True):
        waiting = threading.Thread(target=images.open_cache, args=(files, Geometry(8, 8), place))
        waiting.start()
        until_told("waiting for another process")
        assert waiting.is_alive() and not list(place.glob("*.npy"))
    waiting.join(30)
    assert json.loads(next(place.glob("*.json")).read_text())["images"] == 6
    assert "waiting for another process" in capsys.readouterr().err


def test_cache_dir_that_cannot_be_made(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--cache-dir .*file/cache: can't be made"):
        images.open_cache(files, Geometry(8, 8), tmp_path / "file" / "cache")


@pytest.mark.parametrize("place", ["host", "device"])
def test_store_yields_the_rows_asked_for(place):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 4, 3, 3), dtype=np.uint8)
    groups = [np.array([3, 1, 4]), np.array([49]), np.array([0, 0])] + [np.array([n]) for n in range(20)]
    store = images.ImageStore(pixels, "cpu", place)
    batches = list(store.batches(groups))
    assert len(batches) == len(groups)
    for group, batch in zip(groups, batches):
        assert batch.dtype == torch.uint8
        np.testing.assert_array_equal(batch.numpy(), pixels[group])
    np.testing.assert_array_equal(store.gather(groups[0]).numpy(), pixels[groups[0]])


def test_a_store_on_the_host_reads_two_batches_ahead(monkeypatch):
    """While the first is worked on, the next two are read, and no more."""
    store, read = images.ImageStore(np.zeros((9, 2, 2, 3), dtype=np.uint8), "cpu", "host"), []
    gather, ahead = store._gather, threading.Event()

    def slow(rows):
        read.append(rows.tolist())
        if len(read) == 3:
            ahead.set()
        return gather(rows)

    monkeypatch.setattr(store, "_gather", slow)
    batches = store.batches([np.array([n]) for n in range(9)])
    next(batches)
    assert ahead.wait(60)
    time.sleep(0.05)
    assert read == [[0], [1], [2]]
    batches.close()


def test_a_store_that_leaves_its_device_reads_the_same_images_from_the_host():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 4, 3, 3), dtype=np.uint8)
    store = images.ImageStore(pixels, "cpu", "device")
    store.leave_device()
    assert store.place == "host" and store.resident is None
    (batch,) = store.batches([np.array([3, 1])])
    np.testing.assert_array_equal(batch.numpy(), pixels[[3, 1]])


@pytest.mark.parametrize("place", ["host", "device"])
def test_store_reads_a_cache_file_without_mapping_it(files, tmp_path, place):
    pixels, _ = images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    (batch,) = images.ImageStore(pixels, "cpu", place).batches([np.array([4, 0, 5])])
    np.testing.assert_array_equal(batch.numpy(), pixels[[4, 0, 5]])
    os.truncate(pixels.filename, pixels.offset + 4 * 8 * 8 * 3 + 5)
    with pytest.raises(InputError, match=r"\.npy: cut short at image 4; delete it"):
        list(images.ImageStore(pixels, "cpu", place).batches([np.array([3, 4])]))


def test_a_store_closes_its_file(files, tmp_path):
    """No ResourceWarning, which python -W error would make an exception."""
    pixels, _ = images.open_cache(files, Geometry(8, 8), tmp_path / "cache")
    store = images.ImageStore(pixels, "cpu")
    file = store.file
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del store
    assert file.closed and not told


def test_store_on_the_host_stops_its_thread_when_left_early():
    store = images.ImageStore(np.zeros((9, 2, 2, 3), dtype=np.uint8), "cpu", "host")
    before = threading.active_count()
    batches = store.batches([np.array([n]) for n in range(9)])
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_draw_seed_tells_streams_apart():
    assert draw_seed("order", 1, 2, 3) != draw_seed("augment", 1, 2, 3)
    assert draw_seed("order", 1, 2, 3) != draw_seed("order", 1, 2, 3, 0)
    assert 0 <= draw_seed("order", 1) < 2**63
