"""The page in a real browser: sorted and filtered by clicks, no error on the console."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import write_faulty, write_known_effects
from moleflow.report.__main__ import main

webdriver = pytest.importorskip("selenium.webdriver")
waiting = pytest.importorskip("selenium.webdriver.support.wait")
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
    write_known_effects(root / "runs")
    write_faulty(root / "runs" / "faulty")
    assert main([str(root / "runs"), "-o", str(root / "out")]) == 0
    return root / "out" / "index.html"


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


def test_sort_filter_choose_and_follow_a_link(browser: Any) -> None:
    assert column(browser, 0) == [str(i) for i in range(1, 11)]
    heads = browser.find_elements("css selector", "#table-leaderboard1 th button")
    heads[5].click()  # image_auroc, the best first
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
    gain = chooser.find_element("css selector", "tbody tr:first-child td:last-child").text
    assert gain == "▲ +0.3000"  # bottle: 0.3 with tail weight 0, 0.6 with the best

    browser.find_element("css selector", "#table-leaderboard1 a[href='#C02']").click()
    wait = waiting.WebDriverWait(browser, 30)  # the page hears of a new place when it is idle
    marked = wait.until(lambda browser: browser.find_elements("css selector", "#table-runs tr.marked"))
    assert len(marked) == 3  # its three seeds
    assert all("C02" in row.text for row in marked)


@pytest.mark.parametrize("section", ["summary", "leaderboard", "continual"])
def test_tables_fit_into_a_usual_window(browser: Any, section: str) -> None:
    browser.set_window_size(1400, 1000)
    widths = "return [...document.querySelectorAll(arguments[0])].map((box) => [box.scrollWidth, box.clientWidth])"
    boxes = browser.execute_script(widths, f"#{section} .scroll")
    assert boxes
    assert all(needed <= there for needed, there in boxes)


def test_numbers_stand_below_their_headers(browser: Any) -> None:
    sides = "return [...document.querySelectorAll('#categories th, #categories td')].map((cell) => "
    sides += "[cell.closest('table').outerHTML.length, cell.cellIndex, "
    sides += "getComputedStyle(cell.querySelector('button') || cell).textAlign])"
    by_column: dict[tuple[int, int], set[str]] = {}
    for table, column, side in browser.execute_script(sides):
        by_column.setdefault((table, column), set()).add(side.replace("start", "left"))
    assert by_column
    assert all(len(found) == 1 for found in by_column.values())


def test_every_image_is_drawn_and_kept_as_a_screenshot(browser: Any, page: Path) -> None:
    images = browser.find_elements("tag name", "img")
    assert len(images) > 10
    browser.execute_script("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager'; })")
    wait = "const done = arguments[0]; Promise.all([...document.images].map((i) => i.decode()))"
    wait += ".then(() => done(true), () => done(false))"
    assert browser.execute_async_script(wait)
    artefacts = Path(os.environ.get("MOLEFLOW_ARTEFACTS", page.parent))
    artefacts.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(artefacts / "report.png"))
