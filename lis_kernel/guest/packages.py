"""A writable environment on top of the read-only image, so that `pip install` works in a sandbox.

`stack` is called by boot.py once the kernel's own modules are imported. It makes ~/.venv, an
environment whose packages come before the image's and whose pip leaves the image alone; python and
pip in cells are those of ~/.venv, and what they install is importable at once. It dies with the
sandbox. The kernel itself runs from the image, so no installed package can break its restart.
What would install system packages is answered with a sentence where that cannot be.
"""

import os
import shlex
import shutil
import site
import sys

VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
ALWAYS = ("apt", "apt-get", "aptitude")
"""Answered also where they are not installed: models ask for them anywhere."""
OTHERS = ("apk", "dnf", "microdnf", "pacman", "yum", "zypper")
# A package's file that is there can be installed by root without a network. What only looks, such
# as `apt list`, is left to the real one.
NO_SYSTEM = """#!/bin/sh
real={real}
refused=$([ "$real" ] || echo yes)
for word; do
    case $word in
        *.deb|*.rpm) [ -f "$word" ] && [ "$(id -u)" = 0 ] && [ "$real" ] && exec "$real" "$@" ;;
        install|reinstall|add|update|upgrade|*-upgrade|build-dep) refused=yes ;;
        remove|purge|autoremove|del|erase|download|source|-S*|-U|-R*) refused=yes ;;
    esac
done
[ "$refused" ] || exec "$real" "$@"
echo "${{0##*/}}: no system packages can be installed here:" {reason} >&2
exit 100
"""
SUDO = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        -u|-g) shift; shift ;;
        -*) shift ;;
        *=*) export "$1"; shift ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || exit 1
[ "$(id -u)" = 0 ] || echo "sudo: nobody can be root here; this runs as you are:" "$@" >&2
exec "$@"
"""
PIP = """#!/bin/sh
exec {python} -m pip "$@"
"""


def stack(home, no_system):
    """Make the environment below `home` unless it is there, and put it first in this process.

    `no_system` says why no system package can be installed; None where one can.
    """
    root = os.path.join(home, ".venv")
    packages = os.path.join(root, "lib", VERSION, "site-packages")
    image = os.path.join(sys.prefix, "lib", VERSION, "site-packages")
    try:
        if not os.path.exists(os.path.join(root, "pyvenv.cfg")):
            _make(root, packages, image, no_system)
    except OSError as error:  # left in a bad state by a cell: the image alone must do
        sys.stderr.write(f"no environment for packages: {error}\n")
        return
    known = len(sys.path)
    site.addsitedir(packages)
    added = sys.path[known:]
    del sys.path[known:]
    at = sys.path.index(image) if image in sys.path else len(sys.path)
    sys.path[at:at] = added
    sys.executable = os.path.join(root, "bin", "python")
    os.environ["VIRTUAL_ENV"] = root
    os.environ["PATH"] = os.path.join(root, "bin") + os.pathsep + os.environ.get("PATH", "")


def _make(root, packages, image, no_system):
    scripts = os.path.join(root, "bin")
    os.makedirs(scripts)
    os.makedirs(packages)
    base = os.path.realpath(sys.executable)
    python = os.path.join(scripts, "python")
    for name in ("python", "python3", VERSION):
        os.symlink(base, os.path.join(scripts, name))
    for name in ("pip", "pip3", VERSION.replace("python", "pip")):
        _write(os.path.join(scripts, name), PIP.format(python=python), 0o755)
    if no_system is not None:
        for name in ALWAYS + OTHERS:
            real = shutil.which(name)
            if real or name in ALWAYS:
                text = NO_SYSTEM.format(real=real or "", reason=shlex.quote(no_system))
                _write(os.path.join(scripts, name), text, 0o755)
    _write(os.path.join(scripts, "sudo"), SUDO, 0o755)
    _write(os.path.join(packages, "lis-image.pth"), image + "\n")
    settings = f"home = {os.path.dirname(base)}\ninclude-system-site-packages = false\n"
    _write(os.path.join(root, "pyvenv.cfg"), settings)


def _write(path, text, mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
