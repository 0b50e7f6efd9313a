"""Tests of the page in a browser: sorting, filtering, links, layout, and no errors on the console."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.report import build_report
from helpers.runs import write_faulty, write_known_effects
from moleflow.report.page import write

webdriver = pytest.importorskip("selenium.webdriver")
support = pytest.importorskip("selenium.webdriver.support.wait")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1500,2400",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_known_effects(root)
    write_faulty(root / "faulty")
    return write(build_report(root), root, "Experiments", "Subtitle")


@pytest.fixture
def browser(page: Path, tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    yield driver
    log = driver.get_log("browser")
    driver.quit()
    assert log == []


def column(browser: Any, number: int) -> list[str]:
    rows = browser.find_elements("css selector", "#table-leaderboard1 tbody tr")
    return [row.find_elements("tag name", "td")[number].text for row in rows if row.is_displayed()]


def test_sorting_filtering_choosing_and_links(browser: Any) -> None:
    assert column(browser, 0) == [str(i) for i in range(1, 11)]
    heads = browser.find_elements("css selector", "#table-leaderboard1 th button")
    heads[5].click()  # image_auroc, descending
    assert column(browser, 5)[0] == "0.9700"
    heads[5].click()
    assert column(browser, 5)[0] == "0.9000"

    search = browser.find_element("css selector", "#table-leaderboard1 input")
    search.send_keys("dia_blocks tail_weight")
    assert len(column(browser, 0)) == 1
    assert "1 of 10 rows" in browser.find_element("css selector", "#table-leaderboard1 .bar").text
    search.clear()
    search.send_keys(" ")
    assert len(column(browser, 0)) == 10

    chooser = browser.find_element("css selector", ".chooser")
    assert chooser.is_displayed()
    left = chooser.find_element("css selector", "[name=left]")
    left.find_element("css selector", "option[value=C08]").click()
    difference = chooser.find_element("css selector", "tbody tr:first-child td:last-child").text
    assert difference == "▲ +0.3000"  # bottle: 0.3 with tail_weight=0, 0.6 with the best

    browser.find_element("css selector", "#table-leaderboard1 a[href='#C02']").click()
    wait = support.WebDriverWait(browser, 30)  # hashchange is an asynchronous event
    marked = wait.until(lambda browser: browser.find_elements("css selector", "#table-runs tr.marked"))
    assert len(marked) == 3  # seeds
    assert all("C02" in row.text for row in marked)


@pytest.mark.parametrize("section", ["summary", "leaderboard", "continual"])
def test_tables_fit_into_a_window(browser: Any, section: str) -> None:
    browser.set_window_size(1400, 1000)
    widths = "return [...document.querySelectorAll(arguments[0])].map((box) => [box.scrollWidth, box.clientWidth])"
    boxes = browser.execute_script(widths, f"#{section} .scroll")
    assert boxes
    assert all(content <= box for content, box in boxes)


def test_headers_are_aligned_with_their_columns(browser: Any) -> None:
    script = "return [...document.querySelectorAll('#categories th, #categories td')].map((cell) => "
    script += "[cell.closest('table').outerHTML.length, cell.cellIndex, "
    script += "getComputedStyle(cell.querySelector('button') || cell).textAlign])"
    by_column: dict[tuple[int, int], set[str]] = {}
    for table, column, side in browser.execute_script(script):
        by_column.setdefault((table, column), set()).add(side.replace("start", "left"))
    assert by_column
    assert all(len(sides) == 1 for sides in by_column.values())


def test_all_images_are_decoded(browser: Any, page: Path) -> None:
    images = browser.find_elements("tag name", "img")
    assert len(images) > 10
    browser.execute_script("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager'; })")
    wait = "const done = arguments[0]; Promise.all([...document.images].map((i) => i.decode()))"
    wait += ".then(() => done(true), () => done(false))"
    assert browser.execute_async_script(wait)
    artefacts = Path(os.environ.get("MOLEFLOW_ARTEFACTS", page.parent))
    artefacts.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(artefacts / "report.png"))
