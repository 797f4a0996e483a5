"""The evaluation driver, run end to end on a domain that joins by name."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from gen3d import domains
from gen3d import io as gen3d_io
from gen3d.domains.base import Domain, Metric
from gen3d.errors import Gen3dError
from gen3d.evaluate import evaluate, format_table


@dataclass(frozen=True)
class CoinConfig:
    """A coin has nothing to configure."""


@dataclass(frozen=True)
class Bounded(Metric):
    """A metric that brings an interval along."""

    interval: tuple[float, float] | None = None


class CoinDomain(Domain):
    """Coins show "heads" or "tails"; None is a coin that rolled away."""

    name: ClassVar[str] = "coin"
    Config: ClassVar[type] = CoinConfig
    extension: ClassVar[str] = ".txt"

    def __init__(self, config: CoinConfig) -> None:
        self.config = config

    def metrics(
        self, samples: Sequence[Any], reference: Any, *, workers: int | None, progress: bool, edge: float = 0
    ) -> list[Metric]:
        heads = 100 * list(samples).count("heads") / len(samples)
        return [
            Bounded("heads", heads, "% of all coins", "higher", "Bernoulli 1713", (heads - 1, heads + 1)),
            Metric("distance", abs(len(samples) - len(reference)), "difference in number", "lower"),
            Metric("undefined", None, "never known", 50),
            Metric("unbounded", float("inf"), "too large to say", "lower"),
            Metric("edge", float(edge), "an option", "lower"),
        ]

    def valid(self, sample: Any) -> bool:
        return sample is not None

    def save(self, objects: Sequence[Any], path: Path) -> None:
        path.write_text("\n".join(map(str, objects)))


@pytest.fixture(autouse=True)
def coin(monkeypatch):
    entry = domains.Entry(f"{__name__}:CoinDomain", f"{__name__}:CoinConfig")
    monkeypatch.setitem(domains.TABLE, "coin", entry)


COINS = ["heads", "tails", None, "heads"]


def test_report_holds_values_definitions_and_setting():
    report = evaluate("coin", COINS, ["heads"], checks={"edge": 3}, progress=False)
    assert report["n_samples"] == 4
    assert report["n_failed"] == 1
    assert report["n_reference"] == 1
    assert report["checks"] == {"edge": 3}
    assert report["metrics"]["heads"] == {
        "value": 50.0,
        "definition": "% of all coins",
        "better": "higher",
        "citation": "Bernoulli 1713",
        "interval": (49.0, 51.0),
    }
    assert report["metrics"]["edge"]["value"] == 3
    assert report["metrics"]["undefined"]["value"] is None
    assert report["seconds"] >= 0
    assert {"gen3d", "python", "numpy", "torch"} <= set(report["versions"])


def test_json_says_the_same_and_is_strict(tmp_path):
    report = evaluate("coin", COINS, ["heads"], out=tmp_path, progress=False)
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(text, parse_constant=refuse)
    assert written["metrics"]["heads"]["interval"] == [49, 51]
    assert written["metrics"]["unbounded"]["value"] is None
    assert written["seconds"] == report["seconds"]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_out_may_name_the_file(tmp_path):
    evaluate("coin", COINS, ["heads"], out=tmp_path / "deep" / "run7.json", progress=False)
    assert json.loads((tmp_path / "deep" / "run7.json").read_text())["domain"] == "coin"


def test_limit_takes_the_first_samples():
    report = evaluate("coin", COINS, ["heads"], limit=2, progress=False)
    assert report["n_samples"] == 2
    assert report["n_failed"] == 0
    assert report["metrics"]["heads"]["value"] == 50


def test_table_is_printed_and_aligned(capsys):
    report = evaluate("coin", COINS, ["heads"], progress=False)
    printed = capsys.readouterr().out.rstrip("\n")
    assert printed == format_table(report)
    head, *rows = printed.splitlines()
    assert "4 samples, 1 of them failed" in head
    assert [row.split()[0] for row in rows] == ["metric", *report["metrics"]]
    starts = {
        row.index(d)
        for row, d in zip(rows[1:], ("% of", "difference", "never", "too", "an option"), strict=True)
    }
    assert len(starts) == 1
    assert "49 to 51" in rows[1]
    assert rows[3].split()[1:3] == ["-", "50"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dice", COINS, []), "unknown domain 'dice'"),
        (("coin", [], []), "no samples"),
        (("coin", "missing.sdf", []), "missing.sdf"),
        (("coin", "samples.qqq", []), "unknown extension '.qqq'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(Gen3dError, match=message):
        evaluate(*arguments, progress=False)


def test_an_unknown_check_is_named_with_the_known_ones():
    with pytest.raises(Gen3dError, match=r"unknown check 'edges'; allowed: edge$"):
        evaluate("coin", COINS, [], checks={"edges": 1}, progress=False)


def test_limit_below_one_is_refused():
    with pytest.raises(Gen3dError, match="limit is 0"):
        evaluate("coin", COINS, [], limit=0, progress=False)


def test_what_was_drawn_and_not_kept_counts_as_failed(tmp_path):
    path = tmp_path / "molecules.sdf"
    methane = gen3d_io.read(Path(__file__).parents[1] / "data" / "tiny" / "qm9.sdf")[:2]
    gen3d_io.write(methane, path)
    beside = tmp_path / "samples.json"
    for record, failed in (
        ({"file": path.name, "counts": {"drawn": 5}}, 3),
        ({"file": "others.sdf", "counts": {"drawn": 5}}, 0),
        ({"file": path.name}, 0),
    ):
        beside.write_text(json.dumps(record))
        report = evaluate("molecule", path, methane, workers=0, progress=False)
        assert (report["n_samples"], report["n_failed"]) == (2 + failed, failed)
        assert report["metrics"]["validity"]["value"] == pytest.approx(100 * 2 / (2 + failed))


def test_what_cannot_be_read_counts_as_failed(tmp_path):
    path = tmp_path / "molecules.sdf"
    methane = gen3d_io.read(Path(__file__).parents[1] / "data" / "tiny" / "qm9.sdf")[:1]
    gen3d_io.write(methane, path)
    path.write_text(path.read_text() + 3 * "broken\n\n\nx\n$$$$\n")
    with pytest.warns(UserWarning, match="3 "):
        report = evaluate("molecule", path, methane, workers=0, progress=False)
    assert (report["n_samples"], report["n_failed"]) == (4, 3)
    assert report["metrics"]["validity"]["value"] == 25
    (tmp_path / "samples.json").write_text(json.dumps({"file": path.name, "counts": {"drawn": 4}}))
    with pytest.warns(UserWarning, match="3 "):
        assert evaluate("molecule", path, methane, workers=0, progress=False)["n_samples"] == 4


def test_shards_in_one_folder_are_evaluated_together(tmp_path):
    molecules = gen3d_io.read(Path(__file__).parents[1] / "data" / "tiny" / "qm9.sdf")[:4]
    for part, chosen in enumerate((molecules[:3], molecules[3:])):
        gen3d_io.write(chosen, tmp_path / f"{part}.sdf")
        record = {"file": f"{part}.sdf", "counts": {"drawn": 5}}
        (tmp_path / f"samples.{part}-of-2.json").write_text(json.dumps(record))
    report = evaluate("molecule", tmp_path, molecules, workers=0, progress=False)
    assert (report["n_samples"], report["n_failed"]) == (10, 6)
    report = evaluate("molecule", tmp_path, molecules, workers=0, limit=5, progress=False)
    assert (report["n_samples"], report["n_failed"]) == (5, 3)
