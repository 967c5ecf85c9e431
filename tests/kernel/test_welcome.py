"""A subscription that the kernel overheard: the session asks again instead of giving up."""

from __future__ import annotations

import pytest

from lis_kernel.config import Limits, SandboxConfig
from lis_kernel.errors import KernelDied
from lis_kernel.kernel import session as sessions
from lis_kernel.kernel.session import KernelSession
from lis_kernel.kernel.wire import Channel
from lis_kernel.sandbox.local import LocalSandbox


@pytest.mark.parametrize("overheard", [0, 1, 2])
async def test_an_overheard_subscription_is_made_again(
    runtime, monkeypatch: pytest.MonkeyPatch, overheard: int
) -> None:
    asked = 0
    subscribe = Channel.subscribe

    def deaf(channel: Channel, again: bool = False) -> None:
        nonlocal asked
        asked += 1
        if asked > overheard:
            subscribe(channel, again)

    monkeypatch.setattr(Channel, "subscribe", deaf)
    monkeypatch.setattr(sessions, "AGAIN_SECONDS", 0.2)
    sandbox = LocalSandbox(SandboxConfig(backend="local"), Limits())
    session = KernelSession(sandbox, Limits(), "pass")
    try:
        await sandbox.start()
        await session.start()
        result = await session.execute("print('heard')")
        assert [output["text"] for output in result.outputs] == ["heard\n"]
        assert asked == overheard + 1
    finally:
        await session.close()
        await sandbox.stop()


async def test_a_kernel_that_ends_meanwhile_is_told_at_once(
    runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Channel, "subscribe", lambda *_, **__: None)
    monkeypatch.setattr(sessions, "AGAIN_SECONDS", 0.2)
    sandbox = LocalSandbox(SandboxConfig(backend="local"), Limits())
    launch = sandbox.launch_kernel

    async def launch_and_end():
        process = await launch()
        process.kill()
        return process

    monkeypatch.setattr(sandbox, "launch_kernel", launch_and_end)
    session = KernelSession(sandbox, Limits(), "pass")
    try:
        await sandbox.start()
        with pytest.raises((KernelDied, sessions.StartTimeout)):
            await session.start()
    finally:
        await session.close()
        await sandbox.stop()
