"""What data sets with torchvision loaders share: files looked for, fetched and verified."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trainables.config import ImageDataset
from trainables.sources.common import DataError, root_of


def require(config: ImageDataset, title: str, files: Iterable[Path]) -> None:
    """See that files are there.

    Raises:
        DataError: one is not, and `download` does not allow to fetch it.
    """
    missing = [path for path in files if not path.is_file()]
    if missing and not config.download:
        raise DataError(
            f"no {title} in {root_of(config)} (no {missing[0].name}); put its files "
            "there, or say `download: true`"
        )


def construct(
    config: ImageDataset, title: str, make: Callable[[], Any], md5s: dict[Path, str]
) -> Any:
    """Let torchvision read a data set, one process of a machine at a time if it may download.

    Args:
        config: of the data set.
        title: of the data set, for messages.
        make: constructs torchvision's data set.
        md5s: of the files that it verifies.

    Raises:
        DataError: files are missing, damaged, or cannot be fetched.
    """
    from filelock import FileLock  # noqa: PLC0415  (see `common`)
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415

    require(config, title, md5s)
    root = root_of(config)
    try:
        if not config.download:
            return make()
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            return make()
    except Exception as error:
        for path, md5 in md5s.items():
            if path.is_file() and not check_integrity(str(path), md5):
                raise DataError(
                    f"{path} is damaged: its MD5 sum is not {md5}, that of the published file"
                ) from error
        # urllib and torchvision raise all sorts; a file that is whole may still be unreadable.
        action = "fetch" if config.download else "read"
        raise DataError(f"cannot {action} {title} in {root}: {error}") from error
