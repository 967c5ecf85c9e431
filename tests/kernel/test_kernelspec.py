"""The kernelspecs: what the wheel ships is what the function writes, and Jupyter can use it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpec, _is_valid_kernel_name

from lis_kernel.kernel import kernelspec
from lis_kernel.kernel.settings import parse

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_the_shipped_specs_are_up_to_date(tmp_path: Path) -> None:
    kernelspec.write_shipped(tmp_path)
    assert files(ROOT / "kernelspecs") == files(tmp_path), "run `make kernelspecs`"
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"lis-python", "lis-docker", "lis-podman", "lis-attach", "lis-agent"}
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in names:
        assert f'"kernelspecs/{name}" = "share/jupyter/kernels/{name}"' in project


@pytest.mark.parametrize("backend", [*kernelspec.SHIPPED, "local"])
def test_a_spec_is_one_that_jupyter_reads(tmp_path: Path, backend: str) -> None:
    kernelspec.write(tmp_path, kernelspec.describe({"backend": backend}))
    spec = KernelSpec.from_resource_dir(str(tmp_path))
    assert _is_valid_kernel_name(kernelspec.default_name(backend))
    assert (spec.language, spec.interrupt_mode) == ("python", "message")
    assert spec.argv[:6] == ["python", "-m", "lis_kernel", "kernel", "-f", "{connection_file}"]
    assert not spec.metadata["debugger"]
    stanza = spec.metadata["kernel_provisioner"]
    assert stanza["provisioner_name"] == "lis-provisioner"
    assert parse(stanza["config"], "config")[0].backend == backend


def test_the_agents_spec_is_one_that_jupyter_reads(tmp_path: Path) -> None:
    described = kernelspec.describe_agent({"backend": "docker"}, model="local/x")
    kernelspec.write(tmp_path, described, "logos-agent")
    spec = KernelSpec.from_resource_dir(str(tmp_path))
    assert _is_valid_kernel_name(kernelspec.AGENT)
    assert (spec.language, spec.interrupt_mode) == ("markdown", "message")
    assert spec.display_name == "Agent (sandbox, Docker)"
    assert spec.argv[-4:] == ["--model", "local/x", "--config", '{"backend": "docker"}']


def test_argv_and_stanza_say_the_same(tmp_path: Path) -> None:
    """Also after jupyter_client filled argv's templates, which it finds by braces."""
    words = {
        "backend": "docker",
        "network": "allow=index",
        "mounts": ["/srv/{data}:/data:rw"],
        "limits": {"pids": 64},
    }
    spec = kernelspec.describe(words, python=sys.executable)
    filled = [re.sub(r"\{([A-Za-z0-9_]+)\}", r"<\1>", arg) for arg in spec["argv"]]
    at = filled.index("--config")
    assert filled[filled.index("--backend") + 1] == "docker"
    assert json.loads(spec["argv"][at + 1]) | {"backend": "docker"} == words
    assert spec["metadata"]["kernel_provisioner"]["config"] == words


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ({}, "Python 3 (sandbox)"),
        ({"backend": "docker"}, "Python 3 (sandbox, Docker)"),
        ({"network": "open"}, "Python 3 (sandbox, open network)"),
        ({"network": "allow=index"}, "Python 3 (sandbox, some network)"),
        ({"backend": "local"}, "Python 3 (NO sandbox)"),
    ],
)
def test_the_name_says_how_strong_the_box_is(words: dict, shown: str) -> None:
    assert kernelspec.describe(words)["display_name"] == shown


def test_logos_are_pictures_of_their_size(tmp_path: Path) -> None:
    kernelspec.write(tmp_path, kernelspec.describe({}))
    for size in (32, 64):
        data = (tmp_path / f"logo-{size}x{size}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert [int.from_bytes(data[at : at + 4], "big") for at in (16, 20)] == [size, size]
    assert b"<svg" in (tmp_path / "logo-svg.svg").read_bytes()
