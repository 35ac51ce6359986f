"""A page in a real browser: results of its scripts, and errors."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBE = """
<script>
(async () => {
  const found = {};
  const until = async (ready) => {
    for (let turn = 0; turn < 200 && !ready(); turn += 1) {
      await new Promise((go) => setTimeout(go, 25));
    }
  };
  try { %s } catch (error) { found.failed = String(error); }
  const note = document.createElement("pre");
  note.id = "found";
  note.textContent = JSON.stringify(found);
  document.body.append(note);
})();
</script>
"""


def browser() -> str:
    """Return a headless browser's command, or skip."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium is installed: apt-get install chromium")


def visit(page: Path, script: str) -> tuple[dict[str, Any], list[str]]:
    """Open a copy of a page with a script at its end.

    Args:
        page: the file.
        script: JavaScript; it may wait with ``await until(() => ...)`` and fills ``found``.

    Returns:
        ``found``, and every line that the page wrote to the console.
    """
    probed = page.with_name(f"probed-{page.name}")
    probed.write_text(page.read_text().replace("</body>", PROBE % script + "</body>"))
    home = page.with_name("browser")
    command = [
        browser(),
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--enable-logging=stderr", "--v=0", f"--user-data-dir={home}"),
        *("--virtual-time-budget=20000", "--window-size=1366,768", "--dump-dom"),
        probed.as_uri(),
    ]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment
    )
    note = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert note, f"the page ended no script: {done.stderr[-2000:]}"
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return json.loads(html.unescape(note[1])), complaints
