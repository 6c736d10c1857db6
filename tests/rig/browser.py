"""Headless Chromium (Debian: chromium, chromium-driver), which shows what a page looks like and does."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """Yield a browser whose window has that many CSS pixels."""
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for word in (*_QUIET, f"--user-data-dir={profile}"):
            options.add_argument(word)
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            # A window cannot be narrower than 500; a phone's screen is emulated.
            screen = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
            driver.set_page_load_timeout(60)
            yield driver
        finally:
            driver.quit()


def keep_screenshot(driver: webdriver.Chrome, name: str) -> Path:
    """Write what is shown to .cache/screenshots, where it stays to be looked at."""
    directory = Path(__file__).parents[2] / ".cache" / "screenshots"
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.png"
    assert driver.save_screenshot(str(file))
    return file
