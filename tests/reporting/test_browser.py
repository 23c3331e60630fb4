"""The page in a real browser: nothing fails to load, tables sort, figures are seen. Skipped without Chromium."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Requests that a page should not make fail, and tell the console.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=5000",
)
# Leaves what the expression gives as JSON in the document, and every error before that.
PROBE = """<script>
addEventListener("load", () => {{
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify((() => {{ {body} }})());
  document.body.append(found);
}});
</script>"""


@pytest.fixture(scope="module")
def chromium():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip(f"NO BROWSER ({', '.join(BROWSERS)}): the page was not opened; apt-get install chromium")
    return found


@pytest.fixture
def browse(chromium, tmp_path):
    """`browse(page, body, width)` opens the page and returns what a function of this body gives, and the console."""

    def browse(page, body="", width=1100):
        if body:
            # The page's own policy would not let the probe run.
            page = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
            page = page.replace("</body>", PROBE.format(body=body) + "</body>")
        file = tmp_path / "page.html"
        file.write_text(page)
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [chromium, *FLAGS, profile, f"--window-size={width},900", "--dump-dom", file.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        found = re.search('<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
        console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
        return json.loads(html.unescape(found[1])) if found else None, console

    return browse


def test_the_console_is_silent(page, browse):
    _, console = browse(page)
    assert console == []
    # It would not be: what is loaded, and a script that is not the page's, are refused aloud.
    broken = page.replace("</body>", '<img src="https://example.org/x.png"><script>alert(1)</script></body>')
    assert len(browse(broken)[1]) == 2


def test_tables_sort(page, browse):
    body = """
    const table = document.querySelector("#results table"), heading = table.tHead.rows[0].cells[2];
    const rows = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
    const found = [[null, rows()]];
    for (let i = 0; i < 3; i++) {
      heading.querySelector("button").click();
      found.push([heading.getAttribute("aria-sort"), rows()]);
    }
    table.tHead.rows[0].cells[0].querySelector("button").click();
    found.push([table.querySelectorAll("[aria-sort]").length, rows()]);
    return found;"""
    written, ascending = ["Vanilla", "AR-AdaLS"], ["AR-AdaLS", "Vanilla"]  # ECE 5.00 and 2.50
    assert browse(page, body)[0] == [
        [None, written],
        ["ascending", ascending],
        ["descending", written],
        [None, written],
        [1, ascending],  # by name
    ]


def test_what_was_not_run_sorts_last(page, browse):
    numbers = ["", 10, 9, "", -1.5]
    rows = "".join(f'<tr><th>{i}</th><td data-number="{x}"></td></tr>' for i, x in enumerate(numbers))
    rows += "<tr><th>5</th><td>text</td></tr>"
    page = re.sub('(?s)(<section id="results">.*?<tbody>).*?(</tbody>)', rf"\1{rows}\2", page, count=1)
    body = """
    const table = document.querySelector("#results table"), button = table.tHead.rows[0].cells[1].firstChild;
    const rows = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent);
    return [0, 1].map(() => { button.click(); return rows(); });
    """
    assert browse(page, body)[0] == [["4", "2", "1", "5", "0", "3"], ["1", "2", "4", "5", "0", "3"]]


def test_a_figure_can_be_kept(page, browse):
    body = """
    const saved = [];
    window.Blob = class { constructor(parts, options) { saved.push(parts[0], options.type); } };
    URL.createObjectURL = () => "blob:";
    HTMLAnchorElement.prototype.click = function () { saved.push(this.download); };
    document.querySelector("#figure_1 figure > button").click();
    const svg = new DOMParser().parseFromString(saved[0], "image/svg+xml").documentElement;
    return [saved.slice(1), svg.tagName, svg.querySelector("title").textContent, svg.querySelectorAll("text").length];
    """
    saved, tag, title, texts = browse(page, body)[0]
    assert (saved, tag, title) == (["image/svg+xml", "figure_1_vanilla.svg"], "svg", "Vanilla")
    assert texts > 5


@pytest.mark.parametrize("width", [1100, 500])
def test_figures_are_seen_and_nothing_overflows(page, browse, width):
    body = """
    const size = e => { const box = e.getBoundingClientRect(); return [box.width, box.height, box.right]; };
    return {
      width: document.documentElement.clientWidth,
      page: document.documentElement.scrollWidth,
      svg: [...document.querySelectorAll("figure > svg")].map(size),
      text: [...document.querySelectorAll("figure > svg text")].map(e => e.getBoundingClientRect().height),
      images: [...document.images].map(e => [...size(e), e.naturalWidth]),
      buttons: document.querySelectorAll("figure > button").length,
    };"""
    found = browse(page, body, width)[0]
    assert found["page"] <= found["width"] <= width
    assert len(found["svg"]) == found["buttons"] == page.count('role="img"') > 0
    assert all(w > 300 and h > 200 and right <= found["width"] for w, h, right in found["svg"])
    assert min(found["text"]) >= 8  # pixels of a line, to be read without a lens
    assert len(found["images"]) == 12
    assert all(w >= 20 and h >= 20 and right <= found["width"] and own for w, h, right, own in found["images"])


@pytest.mark.parametrize("width", [1200, 500])
def test_a_table_that_is_wider_than_the_page_says_so(page, browse, width):
    body = """
    return [...document.querySelectorAll(".scroll")].map(box => [
      box.closest("section").id,
      box.scrollWidth > box.clientWidth + 1,
      box.previousElementSibling.textContent.includes("more columns"),
      box.classList.contains("more-right"),
    ]);"""
    names, wide, said, shadow = zip(*browse(page, body, width)[0], strict=True)
    assert wide == said == shadow
    # The main table fits a wide screen; those of intervals do not.
    assert wide[names.index("results")] == (width == 500)


def test_hostile_names_do_nothing_even_without_the_policy(workdir, evaluation, browse):
    import arada.reporting

    hostile = '"><img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>'
    evaluation["experiment"]["dataset"] = evaluation["experiment"]["commit"] = hostile
    evaluation["methods"][hostile] = evaluation["methods"].pop("ar_adals")
    (workdir / "evaluation.json").write_text(json.dumps(evaluation))
    page = arada.reporting.write_report(workdir).read_text()
    found, console = browse(page, "return [window.harmed ?? 0, document.title]")
    assert found == [0, f"{hostile}, resnet_v2-11 — calibration report"]
    assert console == []
