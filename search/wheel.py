"""This package as it runs here, packed as a wheel for the machines of a cluster."""

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from email import message_from_string
from pathlib import Path

PACKAGES = ("search", "analysis", "trainables")
_SOURCES = Path(__file__).parent.parent


def pack(folder: Path) -> Path:
    """Write a wheel of what runs here, installed or a checkout, without its dependencies.

    Ray tells wheels apart by their names, and installs one together with all that it requires. So
    the version names the content, and nothing is required: the machines have the dependencies.

    Args:
        folder: where to.

    Returns:
        Path of the wheel.
    """
    files = {
        path.relative_to(_SOURCES).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in sorted((_SOURCES / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = importlib.metadata.distribution("kdcurve")
    metadata = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""
    content = hashlib.sha256(metadata.encode())
    for name, data in files.items():
        content.update(f"{name} {len(data)} ".encode() + data)
    version = _stamped(importlib.metadata.version("kdcurve"), content.hexdigest()[:12])
    info = f"kdcurve-{version}.dist-info"
    files[f"{info}/METADATA"] = _without_requirements(metadata, version).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nkdcurve = search.cli:main\n"
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    wheel = folder / f"kdcurve-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return wheel


def _stamped(version: str, content: str) -> str:
    """A version with a local label that names the content."""
    public, _, local = version.partition("+")
    return f"{public}+{local}.{content}" if local else f"{public}+{content}"


def _without_requirements(metadata: str, version: str) -> str:
    message = message_from_string(metadata)
    for name in ("Requires-Dist", "Provides-Extra"):
        del message[name]
    message.replace_header("Version", version)
    return message.as_string()


def _record(files: dict[str, bytes], own: str) -> bytes:
    """The list of a wheel's files with their checksums."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.writerow((name, f"sha256={digest}", len(data)))
    lines.writerow((own, "", ""))
    return text.getvalue().encode()
