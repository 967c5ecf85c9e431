"""JupyterLab's part of the package, as files: no browser is needed for these."""

from __future__ import annotations

import json
import re
import tomllib

from lab_venv import ROOT

FOLDER = ROOT / "lis_kernel" / "labextension"
PACKAGE = json.loads((FOLDER / "package.json").read_text("utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_it_has_the_packages_name_and_version() -> None:
    assert PACKAGE["version"] == PROJECT["project"]["version"]
    installed = json.loads((FOLDER / "install.json").read_text("utf-8"))
    assert PACKAGE["name"] == installed["packageName"] == PROJECT["project"]["name"]


def test_the_wheel_installs_it_where_jupyter_looks() -> None:
    places = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    name = PACKAGE["name"]
    assert places["lis_kernel/labextension"] == f"share/jupyter/labextensions/{name}"
    script = (FOLDER / PACKAGE["jupyterlab"]["_build"]["load"]).read_text("utf-8")
    assert f"['{name}'] = {{" in script


def test_every_tag_that_it_styles_is_one_of_ours() -> None:
    style = (FOLDER / "static" / "style.css").read_text("utf-8")
    package = "".join(path.read_text("utf-8") for path in (ROOT / "lis_kernel").rglob("*.py"))
    for tag in set(re.findall(r"\[data-lis~='([\w-]+)'\]", style)):
        assert f'"lis-{tag}"' in package or tag in ("system", "example", "task"), tag
