"""The page `/lis/runs`: a static shell, which `static/runs.js` fills from the REST.

It runs no script but that file: the policy that is sent with it allows no other, so that no text
of a model could become one.
"""

from __future__ import annotations

from html import escape
from string import Template

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

from lis_kernel.server.extension import STATIC, LisServer

__all__ = ["PageHandler", "ToPageHandler"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'none'; base-uri 'none'"
)


class PageHandler(JupyterHandler):
    """GET: the page."""

    auth_resource = "lis"

    def initialize(self, lis: LisServer) -> None:
        self.lis = lis

    @property
    def content_security_policy(self) -> str:
        return f"{super().content_security_policy}; {POLICY}"

    @web.authenticated
    @authorized
    async def get(self) -> None:
        base = self.lis.base_url
        words = {
            "base": base,
            "static": url_path_join(base, "lis/static"),
            "xsrf": self.xsrf_token.decode("ascii"),
            "root": str(self.lis.root),
            "runs": str(self.lis.runs),
        }
        page = Template((STATIC / "runs.html").read_text("utf-8"))
        self.set_header("Cache-Control", "no-store")
        self.finish(page.substitute({name: escape(word) for name, word in words.items()}))


class ToPageHandler(JupyterHandler):
    """GET `/lis`: the page's address."""

    auth_resource = "lis"

    def initialize(self, lis: LisServer) -> None:
        self.lis = lis

    @web.authenticated
    @authorized
    async def get(self) -> None:
        self.redirect(url_path_join(self.lis.base_url, "lis/runs"))
