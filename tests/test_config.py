"""Settings: sizes in words, and errors that name what the user wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lis_kernel as lis
from lis_kernel.config import Limits, SandboxConfig, amount, checked, size
from lis_kernel.errors import ConfigError
from lis_kernel.sandbox import fitting


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *[("4096", 4096), ("2G", 2 << 30), ("2g", 2 << 30), ("2 GiB", 2 << 30), ("2GB", 2 << 30)],
        *[("512M", 512 << 20), ("1.5k", 1536), (" 1T ", 1 << 40), ("7b", 7)],
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "2X", "1,5G", "2 G 3", "0x10", "٣G", "nan"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size(text)


@given(st.integers(0, 1 << 50))
def test_a_size_in_words_can_be_read_again(count: int) -> None:
    read = size(amount(count).removesuffix("ytes"))
    assert abs(read - count) <= count * 0.05


def test_limits_take_sizes_in_words() -> None:
    assert checked(Limits, {"memory_bytes": "512M"}).memory_bytes == 512 << 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"memory_bytes": "2X"}, "--memory_bytes: '2X' is no size: write e.g. 512M or 2G."),
        ({"memory_bytes": 5}, "--memory_bytes: 5 bytes is too little. At least 64 MiB."),
        ({"memory_bytes": None}, "--memory_bytes: None: "),
        ({"pids": 1}, "--pids: 1: "),
        ({"cpus": float("inf")}, "--cpus: inf: "),
        ({"pid": 1}, "--pid: unknown setting. Known: cell_seconds, "),
    ],
)
def test_errors_name_the_setting_as_it_was_written(words: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(Limits, words, lambda name: f"--{name}")
    assert str(caught.value).startswith(said)


ALL = {"image": "x", "rootfs": "/", "runtime": "x", "root": True, "mounts": ("/tmp:/data",)}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("backend", fitting.BACKENDS)
def test_a_setting_that_would_be_ignored_is_refused(backend: str, name: str) -> None:
    config = checked(SandboxConfig, {"backend": backend, name: ALL[name]})
    if backend in fitting.FITS[name]:
        fitting.check(config, backend)
        return
    with pytest.raises(ConfigError) as caught:
        fitting.check(config, backend)
    assert caught.value.field == name
    assert all(fit in str(caught.value) for fit in fitting.FITS[name])


def test_a_backend_of_another_package_decides_for_itself() -> None:
    fitting.check(checked(SandboxConfig, {"backend": "mine", **ALL}), "mine")


def test_every_setting_of_the_sandbox_is_known_to_the_check() -> None:
    assert set(SandboxConfig.model_fields) == {"backend", "network", *fitting.FITS}


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"runtime": "runsc"}, "runtime"),
        ({"backend": "docker", "rootfs": "/"}, "rootfs"),
        ({"mounts": ["/nowhere:/data"]}, "mounts"),
        ({"temperature": "hot"}, "model.temperature"),
        ({"temprature": 1}, "model.temprature"),
        ({"tools": "all"}, "tools"),
    ],
)
def test_run_names_what_is_wrong_and_starts_nothing(tmp_path, settings, field) -> None:
    script = tmp_path / "script.json"
    script.write_text("[]")
    with pytest.raises(ConfigError) as caught:
        lis.run("t", model=f"scripted:{script}", out=tmp_path / "runs", **settings)
    assert caught.value.field == field
    assert not (tmp_path / "runs").exists()
