"""The demonstration protocol, the command and the page, on a method made for the test."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from geocore import demo as protocol
from geocore.cli import app
from geocore.demo import Claim, DemoResult, Figure, Row
from geocore.demo._text import format_number, table_numbers

CODE = """
from geocore.demo import Claim, DemoResult, Figure, Row

def demo(*, seed=0, device="cpu", quick=True, progress=None):
    import torch
    value = torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()
    progress(0.5, "halfway <b>")
    def draw():
        from matplotlib import pyplot as plt
        figure, axes = plt.subplots()
        axes.plot([0, value])
        return figure
    return DemoResult(method="sample-method", title="Sample & method", claim="A <claim> in one sentence.", paper="Somebody, 2024",
        columns=["accuracy"], rows=[Row("ours", [value], kind="ours"), Row("plain", [None], note="a note"),
            Row("their table", [0.5], kind="paper")],
        claims=[Claim("value is at least 0", value >= 0, f"{value:.3f}"), Claim("seed is below 10", seed < 10, str(seed))],
        figures=[Figure("Curve", draw, "caption")], notes=["Read me."], config={"steps": 3}, units="fraction")

def broken(**options):
    raise RuntimeError("out of cheese")

def wrong(**options):
    return 3
"""


@pytest.fixture
def sample(tmp_path, monkeypatch):
    def install(attribute="demo"):
        info = tmp_path / "sample_method-1.2.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", "Name: sample-method", "Version: 1.2", "Summary: A sample.", "Project-URL: Paper, arXiv:1"]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(f"[geocore.demos]\nsample-method = sample_method_demo:{attribute}\n")
        (tmp_path / "sample_method_demo.py").write_text(CODE)
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_result_checks_itself():
    with pytest.raises(ValueError, match="row 'a' must have 2 values"):
        DemoResult("m", "M", "c", "p", columns=["x", "y"], rows=[Row("a", [1.0])], claims=[Claim("t", True, "")])
    with pytest.raises(ValueError, match="at least one checked statement"):
        DemoResult("m", "M", "c", "p", columns=[], rows=[], claims=[])
    with pytest.raises(ValueError, match="kind must be one of"):
        Row("a", [], kind="other")
    mixed = DemoResult("m", "M", "c", "p", columns=[], rows=[], claims=[Claim("a", True, ""), Claim("b", False, "")])
    assert not mixed.met
    assert Figure("t", lambda: None).caption == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (95.36, "95.4"), (0.0, "0.0"), (1.234, "1.23"), (0.01234, "0.0123"), (12345.6, "12,346"), (float("inf"), "inf")],
)
def test_numbers_are_short(value, text):
    assert format_number(value) == text


def test_percentages_share_their_decimals():
    claim = [Claim("t", True, "")]
    percent = DemoResult("m", "M", "c", "p", columns=["a", "b"], rows=[Row("r", [9.826, 97.1]), Row("s", [None, 10.0])], claims=claim)
    assert table_numbers(percent) == [["9.8", "97.1"], ["–", "10.0"]]
    mixed = DemoResult("m", "M", "c", "p", columns=["a", "b"], rows=[Row("r", [0.001234, 97.1])], claims=claim)
    assert table_numbers(mixed) == [["0.00123", "97.1"]]


def test_list_and_info(sample):
    sample()
    listed = run("list")
    assert listed.exit_code == 0
    assert "sample-method" in listed.stdout
    assert "A sample." in listed.stdout
    entries = json.loads(run("list", "--json", "-").stdout)
    assert {"name": "sample-method", "version": "1.2", "summary": "A sample.", "paper": "arXiv:1"} in entries
    facts = json.loads(run("info", "--json", "-").stdout)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["methods"]["sample-method"] == "1.2"
    assert facts["kernels"]["reason"]
    assert "kernels" in run("info").stdout


def test_demo_prints_json_and_page(sample, tmp_path):
    sample()
    done = run("demo", "sample_method", "--seed", "3", "--json", str(tmp_path / "out" / "d.json"), "--html", str(tmp_path / "page"))
    assert done.exit_code == 0, done.output
    assert "met" in done.stdout
    (record,) = json.loads((tmp_path / "out" / "d.json").read_text())
    expected = torch.rand(1, generator=torch.Generator().manual_seed(3)).item()
    assert record["rows"][0]["values"] == [expected]
    assert record["seed"] == 3
    assert record["met"] is True
    assert record["versions"]["sample-method"] == "1.2"
    page = (tmp_path / "page" / "index.html").read_text()
    assert format_number(expected) in page
    assert "A &lt;claim&gt; in one sentence." in page
    assert "the paper&#x27;s figure" in page or "the paper's figure" in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"(src|href|srcset)=[\"']?(https?:)?//", page), "the page must need no network"


def test_unmet_claim_is_shown_and_fails(sample):
    sample()
    done = run("demo", "sample-method", "--seed", "11")
    assert done.exit_code == 1
    assert "NOT met" in done.stdout


def test_failing_demo_does_not_hide_others(sample, tmp_path):
    sample("broken")
    done = run("demo", "sample-method", "--json", "-", "--html", str(tmp_path))
    assert done.exit_code == 1
    assert "out of cheese" in done.output
    assert "did not finish" in (tmp_path / "index.html").read_text()


def test_wrong_return_type_is_named(sample):
    sample("wrong")
    with pytest.raises(TypeError, match="must return a geocore.demo.DemoResult, got int"):
        protocol.run_demo(protocol.find_method("sample-method"))


def test_missing_attribute_is_named(sample):
    sample("nothing")
    with pytest.raises(RuntimeError, match=r"demo of sample-method 1\.2 cannot be imported"):
        protocol.find_method("sample-method").load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "--all"),
        (["demo", "no-such-method"], "no-such-method"),
        (["demo", "--all", "sample-method"], "--all"),
        (["demo", "sample-method", "--device", "abacus"], "abacus"),
    ],
)
def test_usage_errors(sample, arguments, message):
    sample()
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.output
