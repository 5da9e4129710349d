import numpy as np
import pytest
import torch
from kept_pools import CLASSES, keep_pool, shard
from PIL import Image

from dfkd.methods.errors import ConfigError
from dfkd.methods.memory import Shard
from dfkd.orchestrator import contact_sheet as module
from dfkd.orchestrator.contact_sheet import contact_sheet, save_contact_sheet
from dfkd.orchestrator.storage import Folder


@pytest.fixture
def folder(tmp_path):
    return Folder.of(str(tmp_path / "pools"))


def shades(size, per_class=5):
    """Images of one shade each, which tells their class."""
    labels = torch.arange(3 * per_class) % 3
    images = (50 + 60 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *size)
    return Shard(images.clone(), labels)


def cells(sheet, grid):
    """The pixels [height, width, 3] of each place for an image, by row."""
    pixels = np.asarray(sheet)
    for row in range(grid.rows):
        corners = [grid.corner(row, column) for column in range(grid.columns)]
        yield [pixels[y : y + grid.height, x : x + grid.width] for x, y in corners]


@pytest.mark.parametrize("size", [(1, 6, 6), (3, 6, 9), (1, 40, 40)])
def test_each_class_has_its_row(folder, size):
    keep_pool(folder, shades(size))
    sheet, grid = contact_sheet(folder, 4)
    assert (grid.rows, grid.columns, sheet.size) == (3, 4, grid.size)
    for label, row in enumerate(cells(sheet, grid)):
        assert all((cell == 50 + 60 * label).all() for cell in row)


@pytest.mark.parametrize(
    ("size", "drawn"), [((1, 6, 6), (36, 36)), ((1, 6, 9), (36, 54)), ((3, 40, 40), (40, 40))]
)
def test_small_images_are_enlarged_by_a_whole_factor(folder, size, drawn):
    keep_pool(folder, shard(size=size))
    _, grid = contact_sheet(folder)
    assert (grid.height, grid.width) == drawn


def test_an_image_is_enlarged_pixel_by_pixel(folder):
    one = Shard(shard().images[:1], torch.tensor([1]))
    keep_pool(folder, one)
    sheet, grid = contact_sheet(folder)
    (_, (cell,), _) = cells(sheet, grid)
    assert (cell[::6, ::6, 0] == one.images[0, 0].numpy()).all()
    assert (cell[5::6, 5::6, 0] == one.images[0, 0].numpy()).all()


def test_images_of_different_sizes_are_drawn_in_one(folder):
    keep_pool(folder, shades((1, 8, 8), 2), shades((1, 64, 64), 2))
    sheet, grid = contact_sheet(folder)
    assert (grid.columns, grid.height, grid.width) == (4, 64, 64)
    for label, row in enumerate(cells(sheet, grid)):
        assert all((cell == 50 + 60 * label).all() for cell in row)


def test_names_stand_left_of_the_images_however_long(folder):
    keep_pool(folder, shades((1, 6, 6)), classes=("a", "m" * 200, "a name of a class"))
    sheet, grid = contact_sheet(folder)
    pixels = np.asarray(sheet)
    assert grid.gutter < 300
    for row in range(3):
        y = grid.corner(row, 0)[1]
        assert (pixels[y : y + 14, : grid.gutter] < 128).any()
        assert (pixels[y : y + grid.height, grid.gutter - 2 : grid.gutter] == 255).all()


def test_a_class_without_images_has_an_empty_row(folder):
    keep_pool(folder, Shard(shades((1, 6, 6)).images, torch.zeros(15, dtype=torch.int64)))
    sheet, grid = contact_sheet(folder)
    full, *empty = cells(sheet, grid)
    assert (full[0] != 255).any()
    assert all((cell == 255).all() for row in empty for cell in row)


def test_a_sheet_of_many_classes_stays_small(folder, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3 * 5 * 10 * 10)
    keep_pool(folder, shades((1, 40, 40)))
    _, grid = contact_sheet(folder)
    assert (grid.height, grid.width) == (10, 10)
    assert grid.corner(1, 0)[1] - grid.corner(0, 0)[1] >= 14  # room for a name


def test_a_sheet_is_saved_the_same_every_time(folder, tmp_path):
    keep_pool(folder)
    first, again = (tmp_path / name for name in ("1.png", "2.PNG"))
    assert save_contact_sheet(folder, str(first), 10) == str(first)
    save_contact_sheet(folder, str(again), 10)
    assert first.read_bytes() == again.read_bytes()
    with Image.open(first) as image:
        assert image.size == contact_sheet(folder)[1].size


@pytest.mark.parametrize(
    ("to", "per_class", "words"),
    [
        ("pool.jpg", 10, r"--to must be a \.png file"),
        ("pool.png", 0, "per-class must be at least 1, got 0"),
        ("file/pool.png", 10, "cannot be written: .*; choose another with --to"),
    ],
)
def test_what_cannot_be_saved_is_explained(folder, tmp_path, to, per_class, words):
    (tmp_path / "file").touch()
    keep_pool(folder)
    with pytest.raises(ConfigError, match=words):
        save_contact_sheet(folder, str(tmp_path / to), per_class)


def test_images_that_are_neither_gray_nor_color_are_refused(folder):
    keep_pool(folder, shard(size=(2, 6, 6)))
    with pytest.raises(ConfigError, match="images of 2 channels cannot be drawn"):
        contact_sheet(folder)


def test_the_rows_are_in_the_order_of_the_labels(folder):
    keep_pool(folder, shades((1, 6, 6)), classes=tuple(reversed(CLASSES)))
    sheet, grid = contact_sheet(folder)
    assert [int(row[0][0, 0, 0]) for row in cells(sheet, grid)] == [50, 110, 170]
