import os

import arada.reporting


def test_a_page_is_the_newest_if_it_is_from_a_later_second_than_the_metrics(tmp_path):
    page, metrics = tmp_path / "report/index.html", tmp_path / "evaluation.json"
    page.parent.mkdir()
    page.write_text("")
    assert arada.reporting.newest(tmp_path) is None
    metrics.write_text("{}")
    os.utime(metrics, (1000.5, 1000.5))
    for written, expected in ((1000.9, None), (1001.0, page), (999.0, None)):
        os.utime(page, (written, written))
        assert arada.reporting.newest(tmp_path) == expected, written
