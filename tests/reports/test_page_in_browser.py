"""Tests of the page in a browser: sorting, filtering, links, copies, layout, and no errors on the console."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.report import build_report
from helpers.runs import CATEGORIES, write_faulty, write_known_effects, write_run
from moleflow.reports.document import Section
from moleflow.reports.metrics import DECISION_METRICS
from moleflow.reports.page import write

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
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_known_effects(root)
    forgetting = {  # with so many tasks that the rows of the matrix can be filtered
        "tasks": [[c] for c in CATEGORIES * 2], "pixel_ap": [[0.4] * i + [0.9] for i in range(6)],
    }  # fmt: skip
    write_run(
        root, "forgetting", {"model._target_": "finetune"}, 0.3, forgetting={"pixel_ap": 0.4}, task_matrix=forgetting
    )
    for path in root.rglob("metrics.json"):  # as of newer runs: more columns
        decisions = dict.fromkeys(DECISION_METRICS, 0.5)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"decisions": decisions, "pro_5": 0.5}))
    write_faulty(root / "faulty")
    return root


@pytest.fixture(scope="module")
def sections(root: Path) -> list[Section]:
    return build_report(root)


@pytest.fixture(scope="module")
def page(root: Path, sections: list[Section]) -> Path:
    return write(sections, root, "Experiments", "Subtitle")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: Any, page: Path) -> Iterator[Any]:
    driver.get("about:blank")  # a new hash alone would not load the page again
    driver.get(page.as_uri())
    yield driver
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert driver.get_log("browser") == []


def column(browser: Any, number: int) -> list[str]:
    rows = browser.find_elements("css selector", "#table-leaderboard1 tbody tr")
    return [row.find_elements("css selector", "td, th")[number].text for row in rows if row.is_displayed()]


def emulate(browser: Any, width: int, scheme: str = "light") -> None:
    """Set the width of the window in pixels, and the color scheme."""
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.execute_script(
        "document.querySelectorAll('section').forEach((s) => { s.style.contentVisibility = 'visible'; })"
    )


def test_sorting_filtering_and_links(browser: Any) -> None:
    assert column(browser, 0) == [str(i) for i in range(1, 12)]
    heads = browser.find_elements("css selector", "#table-leaderboard1 th button")
    heads[5].click()  # image_auroc, descending
    assert column(browser, 5)[0] == "0.9700"
    assert browser.find_element("id", "status").get_attribute("textContent") == "sorted by image_auroc, descending"
    heads[5].click()
    assert column(browser, 5)[0] == "0.9000"

    search = browser.find_element("css selector", "#table-leaderboard1 input")
    search.send_keys("dia_blocks tail_weight")
    assert len(column(browser, 0)) == 1
    assert "1 of 11 rows" in browser.find_element("css selector", "#table-leaderboard1 .bar").text
    search.clear()
    search.send_keys(" ")
    assert len(column(browser, 0)) == 11

    link = browser.find_elements("css selector", "#table-leaderboard1 tbody tr a")
    repeated = next(a for a in link if len(a.get_attribute("href").rpartition("#")[2]) == 8)  # of several seeds
    name = repeated.text
    repeated.click()
    wait = support.WebDriverWait(browser, 30)  # hashchange is an asynchronous event
    marked = wait.until(lambda browser: browser.find_elements("css selector", "#table-runs tr.marked"))
    assert len(marked) == 3  # seeds
    assert all(name in row.text for row in marked)


def test_any_two_configurations_can_be_compared(browser: Any, sections: list[Section]) -> None:
    widget = browser.find_element("css selector", "[data-widget=compare]")
    widget.find_element("tag name", "summary").send_keys("\n")  # by keyboard: images above may still move the widget
    left = widget.find_element("css selector", "[name=left]")
    option = next(o for o in left.find_elements("tag name", "option") if o.text.startswith("loss.tail_weight=0.0 ("))
    option.click()
    difference = widget.find_element("css selector", "tbody tr:first-child td:last-child").text
    assert difference == "▲ +0.3000"  # bottle: 0.3 with tail_weight=0, 0.6 with the best


def test_the_benchmark_of_a_selection_can_be_copied(browser: Any, page: Path) -> None:
    widget = browser.find_element("css selector", "[data-widget=benchmark]")
    widget.find_element("tag name", "summary").send_keys("\n")  # by keyboard: images above may still move the widget
    widget.find_element("css selector", "[name=metric] option[value=image_auroc]").click()
    widget.find_element("css selector", "[name=shown] option[value=all]").click()
    heads = widget.find_elements("css selector", "thead th")
    assert len(heads) == 12
    text = browser.execute_script("return textOf(document.querySelector('[data-widget=benchmark] table'), 'csv')")
    assert text.splitlines()[-1].startswith("mean,90.00,95.00,")
    table = "document.querySelector('#table-benchmark1_pixel_ap table')"
    body = browser.execute_script(f"return textOf({table}, 'latex')").split(r"\midrule")[1:]
    expected = (page.parent / "tables" / "benchmark1_pixel_ap.tex").read_text().split(r"\midrule")[1:]
    assert [part.split(r"\bottomrule")[0] for part in body] == [part.split(r"\bottomrule")[0] for part in expected]
    markdown = browser.execute_script(f"return textOf({table}, 'markdown')").splitlines()
    assert markdown[2].startswith("| bottle | **60.00** | <u>42.00 ± 0.20</u> |")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1000, 1400])
def test_the_page_has_no_horizontal_scroll(browser: Any, width: int, scheme: str) -> None:
    emulate(browser, width, scheme)
    for widget in browser.find_elements("css selector", "details"):
        browser.execute_script("arguments[0].open = true", widget)
    script = """
        const boxes = ".scroll, figure > div, .skip";
        const outside = [...document.querySelectorAll("body *")].filter((e) => !e.closest(boxes)
            && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
        const [ink, paper] = ["color", "backgroundColor"].map((name) => getComputedStyle(document.body)[name]);
        const { scrollWidth, clientWidth } = document.documentElement;
        return [scrollWidth - clientWidth, outside.map((e) => e.outerHTML.slice(0, 99)), ink, paper]"""
    excess, outside, ink, paper = browser.execute_script(script)
    assert (excess, outside) == (0, [])
    assert (brightness(ink) < brightness(paper)) == (scheme == "light")


def brightness(color: str) -> int:
    """Return the sum of the channels of a CSS color."""
    return sum(int(channel) for channel in color[color.index("(") + 1 : -1].split(",")[:3])


@pytest.mark.parametrize("section", ["overview", "benchmark", "leaderboard", "ablation", "target", "ranges"])
def test_tables_fit_into_a_window(browser: Any, section: str) -> None:
    emulate(browser, 1400)
    widths = "return [...document.querySelectorAll(arguments[0])].map((box) => [box.scrollWidth, box.clientWidth])"
    boxes = browser.execute_script(widths, f"#{section} .table .scroll")
    assert all(content <= box for content, box in boxes)


def test_tables_are_accessible(browser: Any) -> None:
    script = """
        return [...document.querySelectorAll("main .scroll")].map((box) => [
            box.tabIndex,
            [...box.querySelectorAll("thead th")].every((head) => head.scope === "col"),
            [...box.querySelectorAll("tbody tr")].every((row) => row.cells[0].scope === "row"),
            [...box.querySelectorAll("tr")].every((row) => {
                const stops = [...row.querySelectorAll("a[href]")].filter((link) => link.tabIndex === 0);
                return stops.length === new Set(stops.map((link) => link.href)).size;
            }),
        ])"""
    tables = browser.execute_script(script)
    assert len(tables) > 15
    assert all(values == [0, True, True, True] for values in tables)
    open_widgets = "document.querySelectorAll('details').forEach((widget) => { widget.open = true; })"
    browser.execute_script(open_widgets)
    wait = support.WebDriverWait(browser, 60)  # sections are laid out one after another
    names = wait.until(lambda browser: len(names := names_of_tables(browser)) == len(tables) and names)
    assert all(names)
    assert len(set(names)) == len(names)
    assert browser.execute_script("return [...document.images].every((image) => image.alt)")
    sort = browser.find_element("css selector", "#table-leaderboard1 th:nth-child(5) button")
    sort.send_keys("\n")
    assert sort.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def names_of_tables(browser: Any) -> list[str]:
    """Return the names of the tables in the accessibility tree, which has drawn sections only."""
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    tables = [n for n in nodes if not n["ignored"] and n["role"]["value"] == "table"]
    return [table["name"]["value"] for table in tables]


def test_copying_keeps_the_focus(browser: Any) -> None:
    button = browser.find_element("css selector", "#table-leaderboard1 .bar button")
    button.send_keys("\n")
    assert browser.switch_to.active_element == button
    assert browser.find_element("id", "status").get_attribute("textContent") == "CSV copied"


def test_the_printed_page_has_whole_tables(browser: Any) -> None:
    emulate(browser, 800)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    script = """
        const hidden = [...document.querySelectorAll("nav, .bar, .widget")].map((e) => e.offsetHeight);
        const cut = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollHeight > e.clientHeight + 1);
        return [Math.max(...hidden), cut.filter((e) => getComputedStyle(e).overflowY !== "visible").length]"""
    result = browser.execute_script(script)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert result == [0, 0]


def test_headers_are_aligned_with_their_columns(browser: Any) -> None:
    script = "return [...document.querySelectorAll('#categories .table th, #categories .table td')].map((cell) => "
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
