"""Headless Chromium, driven over its DevTools protocol: pages, clicks, keys, files, screenshots."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
LIMIT_S = 60.0
_LEFT = ("navigated or closed", "context was destroyed", "Cannot find default execution context")
"""What is said when the page that was asked has just gone."""
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)
KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, "\t"),
    "Escape": (27, ""),
    " ": (32, " "),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}


def installed() -> str | None:
    """The browser's path."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class PageError(Exception):
    """JavaScript threw."""


class PageLeftError(PageError):
    """The tab went to another page while it was asked."""


@dataclass
class Page:
    """One tab; every request and everything that went wrong in it is remembered."""

    socket: ClientConnection
    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    _downloads: dict[str, str] = field(default_factory=dict)  # the file's name by the download's id
    _saved: set[str] = field(default_factory=set)  # names of files that are whole
    _next: int = 0

    def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol."""
        self._next += 1
        self.socket.send(json.dumps({"id": self._next, "method": method, "params": params}))
        until = time.monotonic() + LIMIT_S
        while True:
            message = json.loads(self.socket.recv(max(0.0, until - time.monotonic())))
            if message.get("id") == self._next:
                if "error" in message:
                    left = any(words in message["error"].get("message", "") for words in _LEFT)
                    raise (PageLeftError if left else PageError)(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(params["url"])
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.faults.append(params["entry"]["text"])
            case "Page.downloadWillBegin":
                self._downloads[params["guid"]] = params["suggestedFilename"]
            case "Page.downloadProgress" if params["state"] == "completed":
                self._saved.add(self._downloads[params["guid"]])
            case _:
                pass

    def js(self, expression: str) -> Any:
        """The value of an expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise PageError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression: str, limit_s: float = LIMIT_S) -> Any:
        """The expression's value once it is true; it may become so on the page that the tab is going to."""
        until = time.monotonic() + limit_s
        while not (value := self._now(expression)):
            if time.monotonic() > until:
                shown = self.js("document.querySelector('main').innerText")
                raise AssertionError(f"never true: {expression}; the page shows:\n{shown}\n{self.faults}")
            time.sleep(0.05)
        return value

    def _now(self, expression: str) -> Any:
        try:
            return self.js(expression)
        except PageLeftError:
            return None

    def go(self, url: str) -> None:
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({selector!r}).innerText"))

    def click(self, selector: str) -> None:
        """A real click in the middle of the first element that fits."""
        found = f"document.querySelector({selector!r})"
        self.js(f"{found}.scrollIntoView({{block: 'center'}})")
        x, y, width, height = self.js(f"Object.values({found}.getClientRects()[0].toJSON()).slice(0, 4)")
        at = {"x": x + width / 2, "y": y + height / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, **at, button="left", clickCount=1)

    def key(self, name: str, modifiers: int = 0) -> None:
        """One key pressed and let go."""
        code, text = KEYS.get(name, (ord(name.upper()) if len(name) == 1 else 0, name))
        params = {"key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **params)
        self.call("Input.dispatchKeyEvent", type="keyUp", **params)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def choose(self, selector: str, path: Path) -> None:
        """Give a file input a file."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def look(
        self, width: int, height: int, *, dark: bool = False, calm: bool = False, phone: bool = False
    ) -> None:
        """The window's size in CSS pixels, and what its user prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        self.call("Emulation.setEmulatedMedia", features=features)

    def shot(self, path: Path) -> Path:
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def downloads(self, folder: Path) -> None:
        """Where downloads go."""
        folder.mkdir(exist_ok=True)
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def saved(self, path: Path) -> str:
        """The text of a download, once it is whole: its name is there before its bytes are."""
        until = time.monotonic() + LIMIT_S
        while path.name not in self._saved:
            assert time.monotonic() < until, f"{path.name} was not saved, but {sorted(self._saved)}"
            time.sleep(0.05)
            self.js("true")  # events come with answers
        return path.read_text()


@dataclass
class Browser:
    """A running Chromium."""

    port: int

    @contextmanager
    def page(self, *, permissions: Sequence[str] = ()) -> Iterator[Page]:
        """A fresh tab with storage of its own."""
        with _connected(self._endpoint()) as control:
            browser = Page(control)
            context = browser.call("Target.createBrowserContext")["browserContextId"]
            if permissions:
                browser.call(
                    "Browser.grantPermissions", permissions=list(permissions), browserContextId=context
                )
            target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)[
                "targetId"
            ]
            url = f"ws://127.0.0.1:{self.port}/devtools/page/{target}"
            with _connected(url) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
                    page.call(f"{domain}.enable")
                yield page
            browser.call("Target.disposeBrowserContext", browserContextId=context)

    def _endpoint(self) -> str:
        import httpx

        told = httpx.get(f"http://127.0.0.1:{self.port}/json/version", timeout=LIMIT_S)
        return str(told.json()["webSocketDebuggerUrl"])


def _connected(url: str) -> ClientConnection:
    """Without pings: while nobody reads the events that have come, an answer would not be seen in time."""
    return connect(url, max_size=None, open_timeout=LIMIT_S, ping_interval=None)


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Browser]:
    """Start Chromium with a profile in ``folder``; end it and its children."""
    executable = installed()
    assert executable is not None
    folder.mkdir(parents=True, exist_ok=True)
    profile = folder / "profile"
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            [executable, *_FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield Browser(_port(profile / "DevToolsActivePort", process.poll))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(told: Path, ended: Callable[[], int | None]) -> int:
    until = time.monotonic() + LIMIT_S
    while not (told.exists() and "\n" in (text := told.read_text())):
        assert ended() is None, "Chromium ended"
        assert time.monotonic() < until, "Chromium does not start"
        time.sleep(0.05)
    return int(text.split()[0])
