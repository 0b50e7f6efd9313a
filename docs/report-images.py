"""Images of docs/dashboards.md: parts of the report's page at three widths, light and dark.

    python docs/report-images.py report/index.html

It needs selenium, Chromium and its driver, and writes report-WIDTH-SCHEME.png beside this file.
"""

import base64
import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver

# width and height in pixels, color scheme, section
_IMAGES = (
    (1400, 1000, "light", "overview"),
    (1400, 1000, "dark", "effects"),
    (1000, 900, "light", "benchmark"),
    (1000, 900, "dark", "decisions"),
    (420, 1000, "light", "overview"),
    (420, 1000, "dark", "continual"),
)
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


def main(page: Path, out: Path) -> None:
    """Write the images of a page into a folder."""
    options = webdriver.ChromeOptions()
    for flag in _FLAGS:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    for width, height, scheme, section in _IMAGES:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        driver.get("about:blank")
        driver.get(page.resolve().as_uri())
        driver.execute_script("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
        time.sleep(5)  # all sections are laid out
        if section != "overview":
            driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
            time.sleep(1)
        png = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
        image = Image.open(io.BytesIO(png)).convert("RGB")
        if section != "overview":  # it has photographs
            image = image.quantize(dither=Image.Dither.NONE)
        image.save(out / f"report-{width}-{scheme}.png", optimize=True)
    driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)
