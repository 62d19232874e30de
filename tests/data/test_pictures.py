"""Pictures read as digits."""

import sys

import numpy as np
import pytest

from gpucnn.data import (
    digits,
    fit_digit,
    read_picture,
    write_idx,
)
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DTypeError,
    FileFormatError,
    MissingDependencyError,
    ShapeError,
)
from tests.data.small import small_images


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def ink_on(ground, ink, *, height=12, width=9):
    """A bar of `ink` on a `ground`, off the border."""
    picture = np.full((height, width), ground, np.uint8)
    picture[3:8, 4:6] = ink
    return picture


@pytest.mark.parametrize("ending", ["png", "bmp", "pgm", "tif", "gif"])
def test_read_picture_gives_the_greys_of_a_picture_on_a_dark_ground(tmp_path, pillow, ending):
    picture = ink_on(10, 200)
    pillow.fromarray(picture).save(tmp_path / f"digit.{ending}")
    grey = read_picture(tmp_path / f"digit.{ending}")
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, picture)


def test_read_picture_reads_jpeg_in_colour(tmp_path, pillow):
    pillow.fromarray(ink_on(20, 220, height=48, width=40)).convert("RGB").save(tmp_path / "a.jpg")
    grey = read_picture(str(tmp_path / "a.jpg"))
    assert grey.shape == (48, 40)
    assert abs(int(np.median(grey)) - 20) < 4


def test_read_picture_inverts_dark_ink_on_a_light_ground(tmp_path, pillow):
    pillow.fromarray(ink_on(250, 30)).save(tmp_path / "paper.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "paper.png"), ink_on(5, 225))


@pytest.mark.parametrize("ground", [10, 250])
def test_read_picture_obeys_a_given_invert(tmp_path, pillow, ground):
    picture = ink_on(ground, 128)
    pillow.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", invert=False), picture)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", invert=True), 255 - picture)


def test_read_picture_weighs_colours_by_luma(tmp_path, pillow):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    pillow.fromarray(colours).save(tmp_path / "a.png")
    grey = read_picture(tmp_path / "a.png", invert=False)
    np.testing.assert_allclose(grey[0], [76, 150, 29], atol=1)


def test_read_picture_puts_transparent_parts_on_white(tmp_path, pillow):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[1, 1, 3], pixels[2, 2, 3] = 255, 128
    pillow.fromarray(pixels).save(tmp_path / "a.png")
    expected = np.full((4, 4), 255)
    expected[1, 1], expected[2, 2] = 0, 127
    grey = read_picture(tmp_path / "a.png", invert=False)
    np.testing.assert_allclose(grey, expected, atol=1)


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_read_picture_puts_transparent_greys_and_palettes_on_white(tmp_path, pillow, mode):
    ink = pillow.fromarray(ink_on(0, 255))
    if mode == "LA":
        picture = pillow.merge("LA", (pillow.new("L", ink.size, 0), ink))
        picture.save(tmp_path / "a.png")
    else:
        ink.point(lambda value: value // 255).convert("P").save(tmp_path / "a.png", transparency=0)
    grey = read_picture(tmp_path / "a.png", invert=False)
    ground, bar = grey[0, 0], grey[4, 4]
    assert ground == 255 and bar < 10


def test_read_picture_scales_sixteen_bits_to_eight(tmp_path, pillow):
    picture = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        pillow.fromarray(picture).save(tmp_path / name)
        grey = read_picture(tmp_path / name, invert=False)
        assert grey.dtype == np.uint8
        assert grey[0].tolist() == [0, 0, 1, 1, 128, 255]


def test_read_picture_puts_a_transparent_sixteen_bit_grey_on_white(tmp_path, pillow):
    picture = np.array([[0, 700, 65535]], np.uint16)
    pillow.fromarray(picture).save(tmp_path / "a.png", transparency=700)
    assert read_picture(tmp_path / "a.png", invert=False)[0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_read_picture_refuses_greys_of_no_known_range(tmp_path, pillow, dtype):
    pillow.fromarray(np.full((3, 3), 70000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(FileFormatError, match=r"a\.tif: expected a picture"):
        read_picture(tmp_path / "a.tif")


def test_read_picture_applies_a_cameras_orientation(tmp_path, pillow):
    exif = pillow.Exif()
    exif[0x0112] = 6  # the camera was held so that the stored rows are columns
    picture = pillow.fromarray(ink_on(0, 255))
    picture.save(tmp_path / "a.png", exif=exif)
    grey = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(grey, np.rot90(ink_on(0, 255), -1))


@pytest.mark.parametrize("cut", [0, 8, 40, -30])
def test_read_picture_names_a_file_that_is_no_whole_picture(tmp_path, pillow, cut):
    pillow.fromarray(ink_on(0, 255)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    with pytest.raises(FileFormatError, match=r"cut\.png: expected a picture"):
        read_picture(tmp_path / "cut.png")


def test_read_picture_refuses_other_files_directories_and_options(tmp_path, pillow):
    write_idx(tmp_path / "idx.png", small_images())
    with pytest.raises(FileFormatError, match=r"idx\.png: expected a picture"):
        read_picture(tmp_path / "idx.png")
    with pytest.raises(FileFormatError, match="got a directory"):
        read_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_picture(tmp_path / "nothing-here")
    with pytest.raises(ArgumentError, match="invert of None, True or False, got 'yes'"):
        read_picture(tmp_path / "idx.png", invert="yes")


def test_read_picture_says_how_to_install_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match=r"pip install gpucnn\[cli\]"):
        read_picture(tmp_path / "a.png")


def centre_of_mass(image):
    rows, columns = np.indices(image.shape)
    return (image * rows).sum() / image.sum(), (image * columns).sum() / image.sum()


def test_fit_digit_scales_the_longer_side_to_twenty_of_28_pixels():
    picture = np.zeros((300, 200), np.uint8)
    picture[40:140, 20:70] = 255
    image = fit_digit(picture)
    assert image.shape == (28, 28) and image.dtype == np.uint8
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    assert (len(rows), len(columns)) == (20, 10)
    assert image.max() == 255 and set(np.unique(image)) == {0, 255}
    assert np.abs(np.array(centre_of_mass(image)) - 14).max() <= 0.5


def test_fit_digit_enlarges_a_small_digit():
    image = fit_digit(ink_on(0, 255))
    assert len(np.flatnonzero(image.any(1))) == 20 and len(np.flatnonzero(image.any(0))) == 8


def test_fit_digit_centres_by_mass_and_not_by_extent():
    picture = np.zeros((60, 60), np.uint8)
    picture[5:55, 5:30] = 255
    picture[45:55, 5:55] = 255
    image = fit_digit(picture)
    assert np.abs(np.array(centre_of_mass(image)) - 14).max() <= 0.5
    rows = np.flatnonzero(image.any(1))
    assert rows[0] + rows[-1] != 27


def test_fit_digit_keeps_all_ink_where_the_mass_is_at_one_end():
    picture = np.zeros((100, 100), np.uint8)
    picture[:10, :] = 255
    picture[:, 49:51] = 255
    image = fit_digit(picture, size=(20, 20))
    assert len(np.flatnonzero(image.any(1))) == 14


def test_fit_digit_takes_means_over_areas():
    picture = np.zeros((40, 40), np.uint8)
    picture[0, 0] = picture[-1, -1] = 255
    picture[0:20, 20:40] = 255
    image = fit_digit(picture)
    values, counts = np.unique(image, return_counts=True)
    assert values.tolist() == [0, 64, 255] and counts.tolist() == [28 * 28 - 102, 2, 100]


def test_fit_digit_leaves_mnists_own_digits_nearly_as_they_are():
    test = digits()[1]
    images = test.images[:100, 0].astype(float)
    fitted = np.array([fit_digit(image) for image in test.images[:100, 0]], float)
    assert np.linalg.norm(fitted - images) / np.linalg.norm(images) < 0.2


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (28, 56), (2, 2)])
def test_fit_digit_gives_the_size_asked_for(size):
    assert fit_digit(ink_on(0, 255), size).shape == size
    assert fit_digit(ink_on(0, 255), size).any()


def test_fit_digit_finds_a_small_digit_on_noisy_unevenly_lit_paper():
    rng = np.random.default_rng(1)
    picture = np.linspace(30, 80, 600) + rng.normal(0, 6, (400, 600))
    picture[100:160, 420:440] += 130
    image = fit_digit(picture.clip(0, 255).astype(np.uint8))
    assert len(np.flatnonzero(image.any(1))) == 20
    assert len(np.flatnonzero(image.any(0))) == 7
    assert image.max() == 255 and np.median(image) == 0


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((28, 28), np.uint8),
        np.full((50, 40), 255, np.uint8),
        np.zeros((0, 5), np.uint8),
        ink_on(100, 105),
        np.random.default_rng(0).normal(128, 20, (200, 300)).clip(0, 255).astype(np.uint8),
        np.tile(np.arange(256, dtype=np.uint8), (9, 1)),
    ],
    ids=["black", "white", "no pixels", "nearly even", "noise", "a slope of light"],
)
def test_fit_digit_refuses_an_empty_picture(picture):
    with pytest.raises(DataError, match="got an empty picture"):
        fit_digit(picture)


def test_fit_digit_refuses_other_arrays_and_sizes():
    with pytest.raises(DTypeError, match="expected a uint8 array, got float64"):
        fit_digit(np.zeros((5, 5)))
    with pytest.raises(DTypeError, match="got list"):
        fit_digit([[0]])
    with pytest.raises(ShapeError, match=r"\(height, width\), got \(1, 5, 5\)"):
        fit_digit(np.zeros((1, 5, 5), np.uint8))
    with pytest.raises(ArgumentError, match="fit_digit: size: expected at least 2, got 1"):
        fit_digit(ink_on(0, 255), size=1)
