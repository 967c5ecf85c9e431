"""Compiles the image's packages with the sandbox's own Python: `python compile.py BOOT.json`.

Run in place of `boot.py` when an image is made for a root file system of the user's. The image is
read-only here, so what is compiled goes to `output`, to be taken out; then the byte on `ready` is
written as by a kernel.
"""

import compileall
import json
import os
import platform
import subprocess
import sys

OUTPUT = "/testbed/output"


def main(path):
    with open(path) as file:
        boot = json.load(file)
    site = next(place for place in sys.path if place.endswith("site-packages"))
    sys.dont_write_bytecode = False
    sys.pycache_prefix = f"{OUTPUT}/pyc"
    sys.path.append(site)
    import ipykernel.kernelapp  # what cannot run must not pass as an image
    import zmq

    assert ipykernel.kernelapp and zmq
    compileall.compile_dir(site, quiet=2, workers=0)
    subprocess.run(
        [sys.executable, "-c", "import matplotlib.font_manager"],
        env={**os.environ, "MPLCONFIGDIR": f"{OUTPUT}/matplotlib"},
        capture_output=True,
        check=False,
    )
    with open(f"{OUTPUT}/version", "w") as file:
        file.write(platform.python_version())
    os.write(boot["ready_fd"], b"R")
    os.read(boot["owner_fd"], 1)


if __name__ == "__main__":
    main(sys.argv[1])
