"""An authoriser as a shared server may have one: it lets people look at runs, not touch them."""

from __future__ import annotations

from typing import Any

from jupyter_server.auth import Authorizer


class Lookers(Authorizer):
    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "lis" or action == "read"


class Nobody(Authorizer):
    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        return resource != "lis"
