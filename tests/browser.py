"""A page in a real headless browser: its document once scripts have run, and its complaints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ABSENT = "no chromium here: apt-get install chromium"
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--enable-logging=stderr", "--virtual-time-budget=5000",
)  # fmt: skip


def dump(page: Path, anchor: str = "") -> tuple[str, list[str]]:
    """The document after its scripts, and the lines of the console."""
    assert CHROMIUM is not None
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *_OPTIONS, profile, "--dump-dom", f"{page.as_uri()}{anchor}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def ask(page: Path, script: str) -> Any:
    """What a script, run in a copy of the page once it is loaded, returns."""
    probe = f"""<script>addEventListener("load", () => {{
      const answer = JSON.stringify((() => {{ {script} }})());
      document.body.innerHTML = ""; document.body.append(Object.assign(
        document.createElement("pre"), {{id: "answer", textContent: answer}}));
    }});</script></body>"""
    copy = page.with_name("probe.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    dom, console = dump(copy)
    assert not console, console
    (answer,) = re.findall(r'<pre id="answer">(.*?)</pre>', dom, flags=re.S)
    return json.loads(unescape(answer))
