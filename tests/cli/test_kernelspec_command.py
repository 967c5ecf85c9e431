"""`lis kernelspec`: install, list, remove, as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def lis(tmp_path: Path):
    """Runs `lis kernelspec …` in an empty home, where PREFIX is `tmp_path/prefix`."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lis_kernel", "kernelspec", *arguments],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "COLUMNS": "100",
                "HOME": str(tmp_path),
                "JUPYTER_NO_CONFIG": "1",
                "JUPYTER_DATA_DIR": str(tmp_path / "data"),
                "JUPYTER_PATH": str(tmp_path / "prefix" / "share" / "jupyter"),
            },
            timeout=60,
            check=False,
        )

    return run


def spec_of(folder: Path) -> dict:
    return json.loads((folder / "kernel.json").read_text("utf-8"))


def test_install_list_remove(lis, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    folder = prefix / "share" / "jupyter" / "kernels" / "lis-python"
    for _ in range(2):  # a second time replaces it
        done = lis("install", "--prefix", str(prefix))
        assert done.stdout == f"Python 3 (sandbox): {folder}\n", done.stderr
    spec = spec_of(folder)
    assert spec["argv"][0] == sys.executable
    assert spec["metadata"]["kernel_provisioner"]["config"] == {"backend": "zygote"}
    assert (folder / "logo-64x64.png").exists()

    (mine,) = [s for s in json.loads(lis("list", "--json").stdout) if s["folder"] == str(folder)]
    assert mine["name"] == "lis-python"
    assert "lis-python" in lis("list").stdout
    assert lis("remove", "lis-python").stdout == f"removed {folder}\n"
    assert not folder.exists()


def test_every_setting_reaches_both_doors(lis, tmp_path: Path) -> None:
    done = lis(
        *("install", "--user", "--name", "mine", "--display-name", "Mine", "--backend", "docker"),
        *("--network", "open", "--mount", f"{tmp_path}:/data", "--config", '{"limits":{"pids":9}}'),
    )
    assert done.returncode == 0, done.stderr
    spec = spec_of(tmp_path / "data" / "kernels" / "mine")
    config = {
        "backend": "docker",
        "network": "open",
        "mounts": [f"{tmp_path}:/data"],
        "limits": {"pids": 9},
    }
    assert spec["display_name"] == "Mine"
    assert spec["metadata"]["kernel_provisioner"]["config"] == config
    assert json.loads(spec["argv"][-1]) | {"backend": "docker"} == config


def test_one_that_is_hidden_by_another_is_told(lis, tmp_path: Path) -> None:
    first, second = tmp_path / "prefix", tmp_path / "other"
    assert lis("install", "--prefix", str(first), "--name", "mine").stderr == ""
    done = lis("install", "--prefix", str(second), "--name", "mine")
    hiding = first / "share" / "jupyter" / "kernels" / "mine"
    assert f"note: from here Jupyter takes {hiding}; give yours another --name" in done.stderr


def test_argv_only_asks_for_no_provisioner(lis, tmp_path: Path) -> None:
    lis("install", "--user", "--argv-only")
    spec = spec_of(tmp_path / "data" / "kernels" / "lis-python")
    assert spec["metadata"] == {"debugger": False}
    listed = json.loads(lis("list", "--json").stdout)
    assert "lis-python" in [entry["name"] for entry in listed]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "nowhere"], "error: --backend: unknown 'nowhere'. Known:"),
        (["--config", "{"], "error: --config: is not JSON"),
        (["--config", "[]"], "error: --config: is not a JSON object"),
        (["--config", '{"netwrok": 1}'], "error: --config.netwrok: unknown setting. Known:"),
        (["--mount", "/nowhere:/data"], "error: --mount: /nowhere does not exist"),
        (["--mount", "/tmp:/proc/x"], "error: --mount: /proc/x belongs to the sandbox itself"),
        (
            ["--backend", "local", "--mount", "/tmp:/x"],
            "--mount: the backend local does not",
        ),
        (["--config", '{"limits":{"memory_bytes":"1M"}}'], "1 MiB is too little. At least 64 MiB"),
        (["--user", "--sys-prefix"], "exclude each other"),
        (["--user", "--name", "a b"], "error: --name:"),
        (["--prefix", "/proc/none"], "error: --prefix:"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_installed(lis, tmp_path, arguments, said) -> None:
    done = lis("install", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "data").exists()


def test_kernels_of_others_are_not_removed(lis, tmp_path: Path) -> None:
    theirs = tmp_path / "data" / "kernels" / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "kernel.json").write_text('{"argv": ["x"], "display_name": "X", "language": "x"}')
    done = lis("remove", "theirs")
    assert done.returncode == 2
    assert "no sandboxed kernel 'theirs'" in done.stderr
    assert theirs.exists()


def test_the_launcher_is_hidden_from_help_and_says_what_is_wrong(tmp_path: Path) -> None:
    lis = [sys.executable, "-m", "lis_kernel"]
    shown = subprocess.run([*lis, "--help"], capture_output=True, text=True, check=True).stdout
    assert "kernelspec" in shown
    assert "Be a Jupyter kernel" not in shown
    file = tmp_path / "c.json"
    for text, said in (("{", "no connection file"), ('{"key": "k"}', "does not say shell_port")):
        file.write_text(text)
        done = subprocess.run(
            [*lis, "kernel", "-f", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr


def test_an_agents_kernel(lis, tmp_path: Path) -> None:
    where = ("install", "--agent", "--prefix", str(tmp_path / "prefix"))
    done = lis(*where, "--model", "local/qwen2.5-coder-0.5b", "--config", '{"budget":{"turns":9}}')
    folder = tmp_path / "prefix" / "share" / "jupyter" / "kernels" / "lis-agent"
    assert done.stdout == f"Agent (sandbox): {folder}\n", done.stderr
    spec = spec_of(folder)
    assert spec["argv"][:5] == [sys.executable, "-P", "-m", "lis_kernel", "agent-kernel"]
    assert spec["argv"][-4:-1] == ["--model", "local/qwen2.5-coder-0.5b", "--config"]
    assert json.loads(spec["argv"][-1]) == {"budget": {"turns": 9}}
    assert spec["language"] == "markdown" and (folder / "logo-svg.svg").exists()
    assert "lis-agent" in lis("list").stdout
    for wrong, said in (
        (("--model", "nope"), "names no provider"),
        (("--config", '{"budgt":{}}'), "--config.budgt"),
        (("--config", '{"budget":{"turns":"many"}}'), "--config.budget.turns"),
    ):
        assert said in lis(*where, *wrong).stderr
    alone = lis("install", "--model", "local/x")
    assert alone.returncode == 2 and "Use it with --agent" in alone.stderr
    assert lis("remove", "lis-agent").stdout == f"removed {folder}\n"
