"""MNIST and Fashion-MNIST, from files at hand or from their public mirrors."""

from pathlib import Path

from gpucnn.data.dataset import Dataset
from gpucnn.data.idx import read_idx
from gpucnn.errors import (
    ArgumentError,
    DataError,
    DownloadError,
    FileFormatError,
    MissingDependencyError,
)

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

# The hashes are those that the makers of the two collections publish for the gzipped files.
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            f"{TRAIN_IMAGES}.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            f"{TRAIN_LABELS}.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
            f"{TEST_IMAGES}.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
            f"{TEST_LABELS}.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            f"{TRAIN_IMAGES}.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            f"{TRAIN_LABELS}.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
            f"{TEST_IMAGES}.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
            f"{TEST_LABELS}.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16


def load_mnist(directory):
    """The training and the test set in `directory`, as a pair of `Dataset`.

    Images are uint8 (samples, 1, height, width), 28x28 for MNIST and Fashion-MNIST; both sets
    have the same `classes`. The four files have MNIST's names, `train-images-idx3-ubyte` and so
    on, plain or with .gz, also with '.' before `idx`. The files' source: LeCun et al. 1998.

    Raises `FileNotFoundError` naming every file that is missing, `FileFormatError` for one that
    is no IDX file of that kind, `DataError` if images and labels differ in number.
    """
    directory = Path(directory)
    paths = _find_files(directory)
    train_images, test_images = (_read_kind(paths[n], 3) for n in (TRAIN_IMAGES, TEST_IMAGES))
    train_labels, test_labels = (_read_kind(paths[n], 1) for n in (TRAIN_LABELS, TEST_LABELS))
    _check_counts(train_images, train_labels, paths[TRAIN_IMAGES], paths[TRAIN_LABELS])
    _check_counts(test_images, test_labels, paths[TEST_IMAGES], paths[TEST_LABELS])
    classes = 1 + max(int(labels.max(initial=0)) for labels in (train_labels, test_labels))
    name = directory.resolve().name
    return (
        Dataset(train_images, train_labels, name=f"{name} train".strip(), classes=classes),
        Dataset(test_images, test_labels, name=f"{name} test".strip(), classes=classes),
    )


def download_mnist(name="mnist", directory=None, *, base_url=None, hashes=None):
    """Fetch the four gzipped files of `name`, "mnist" or "fashion-mnist"; returns their directory.

    directory: where to put them (a `Path` is returned); the user's cache, `gpucnn/<name>` in it,
        if not given. Files that are there already and have the right hash are not fetched again.
    base_url: another http or https mirror of the same files.
    hashes: the file names with hashes as "md5:..." or "sha256:...", instead of the published.

    Raises `MissingDependencyError` without the package pooch, `ArgumentError`, and
    `DownloadError` if the server cannot be reached, refuses, or sends a corrupt file.
    """
    if name not in MIRRORS:
        raise ArgumentError(f"download_mnist: expected one of {', '.join(MIRRORS)}, got {name!r}")
    published_url, published_hashes = MIRRORS[name]
    base_url = published_url if base_url is None else base_url.rstrip("/") + "/"
    if not base_url.startswith(("http://", "https://")):
        raise ArgumentError(f"download_mnist: expected an http or https URL, got {base_url!r}")
    hashes = published_hashes if hashes is None else dict(hashes)
    if set(hashes) != set(published_hashes):
        raise ArgumentError(
            f"download_mnist: expected hashes of {', '.join(published_hashes)}, "
            f"got {', '.join(map(str, hashes)) or 'none'}"
        )
    pooch = _import_pooch()
    directory = Path(pooch.os_cache("gpucnn") / name if directory is None else directory)
    store = pooch.create(path=directory, base_url=base_url, registry=hashes)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS, chunk_size=CHUNK_BYTES)
    for file_name in published_hashes:
        _fetch(store, downloader, file_name)
    return directory


def _spellings(file_name):
    """The names under which a file is found, the standard one first."""
    names = (file_name, file_name.replace("-idx", ".idx"))
    return [spelling + ending for spelling in names for ending in ("", ".gz")]


def _find_files(directory):
    if not directory.is_dir():
        raise FileNotFoundError(f"load_mnist: expected a directory, found none at {directory}")
    found, missing = {}, []
    for file_name in FILES:
        present = [s for s in _spellings(file_name) if (directory / s).is_file()]
        if present:
            found[file_name] = directory / present[0]
        else:
            missing.append(" or ".join(_spellings(file_name)))
    if missing:
        raise FileNotFoundError(
            f"load_mnist: expected four files in {directory}, did not find: {'; '.join(missing)}"
        )
    return found


def _read_kind(path, rank):
    array = read_idx(path)
    if array.dtype != "uint8" or array.ndim != rank:
        raise FileFormatError(
            f"{path}: expected uint8 elements on {rank} axes, got {array.dtype} of shape "
            f"{array.shape}"
        )
    return array


def _check_counts(images, labels, images_path, labels_path):
    if len(images) != len(labels):
        raise DataError(
            f"load_mnist: expected as many labels as images, got {len(images)} images in "
            f"{images_path} and {len(labels)} labels in {labels_path}"
        )


def _import_pooch():
    try:
        import pooch
    except ImportError as error:
        raise MissingDependencyError(
            "download_mnist: expected the package pooch, which is not installed: "
            "pip install gpucnn[data]"
        ) from error
    return pooch


def _fetch(store, downloader, file_name):
    """Fetch one file; pooch keeps it only if its hash is right. ValueError is a wrong hash."""
    from requests.exceptions import RequestException

    url = store.base_url + file_name
    try:
        store.fetch(file_name, downloader=downloader)
    except RequestException as error:
        raise DownloadError(f"download_mnist: cannot fetch {url}: {error}") from None
    except ValueError as error:
        raise DownloadError(f"download_mnist: got a wrong file from {url}: {error}") from None
