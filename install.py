"""The webui runs this at every start. There is nothing to install; what is too old is said in one line."""

import os
import sys

PYTHON = (3, 10)
WEBUI = (1, 10)
"""The oldest that this extension is made for."""


def webui_version(folder):
    """Of the newest release that the webui's change log tells of, `(1, 10, 1)` say; None where it tells of none."""
    try:
        with open(os.path.join(folder, "CHANGELOG.md"), encoding="utf-8") as file:
            for line in file:
                if line.startswith("## "):
                    return tuple(int(number) for number in line[3:].strip().lstrip("v").split("-")[0].split("."))
    except (OSError, ValueError):
        pass
    return None


def too_old(python, webui):
    """One line, or nothing."""
    found = (("Python", python, PYTHON), ("the webui", webui, WEBUI))
    told = [
        f"{name} {text(oldest)} or newer, and this is {text(version)}"
        for name, version, oldest in found
        if version is not None and tuple(version[:2]) < oldest
    ]
    return "DemoFusion needs {}.".format("; ".join(told)) if told else ""


def text(version):
    return ".".join(str(number) for number in version)


if __name__ == "__main__":
    # the webui puts its own folder first, and runs this in it
    place = os.environ.get("PYTHONPATH", "").split(os.pathsep)[0] or os.getcwd()
    line = too_old(sys.version_info[:3], webui_version(place))
    if line:
        print(line)
