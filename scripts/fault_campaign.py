"""Does to real runs what may befall them, many times over, and says what survived.

    python scripts/fault_campaign.py            # all of it, under 30 minutes on two CPU cores
    python scripts/fault_campaign.py --quick    # as the test suite does

The faults are the tests marked `fault`, which try more than in the suite: 50 kills, more processes
and devices. A row of the table is a fault; a test that fails is one that was not survived, and its
first line says what was lost. Damaged and hostile files are those of scripts/fuzz.py. Needs the
extra `test`; filling disks and read-only folders need root. Exit status 1: something was lost.
"""

import argparse
import collections
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass
class Row:
    """One fault: how often it was tried and survived, what was lost, and remarks."""

    tried: int = 0
    survived: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def main() -> int:
    """Runs the tests of faults and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="try as often as the test suite does")
    parser.add_argument("--out", type=Path, default=Path("fault_campaign.json"))
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        run_tests(report, full=not options.quick)
        rows = read_report(report)
        if not options.quick:
            rows["damaged and hostile files"] = fuzz(Path(folder) / "findings")
    minutes = (time.monotonic() - begun) / 60
    print(table(rows))
    print(f"\n{minutes:.1f} minutes on {os.cpu_count()} cores")
    content = {
        "minutes": minutes,
        "quick": options.quick,
        "faults": {name: dataclasses.asdict(row) for name, row in rows.items()},
    }
    options.out.write_text(json.dumps(content, indent=2) + "\n")
    return int(not rows or any(row.lost for row in rows.values()))


def run_tests(report: Path, *, full: bool) -> None:
    """Runs the tests that are marked `fault`; their outcomes go to an XML file."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-m", "fault", "-q"),
            *("-o", "junit_family=xunit1", f"--junitxml={report}"),
        ],
        cwd=ROOT,
        env={**os.environ, "JAXBUSI_FAULTS": "full" if full else "quick"},
        check=False,  # the table says what failed
    )


def read_report(report: Path) -> dict[str, Row]:
    """Returns what the tests said, by fault."""
    rows: dict[str, Row] = collections.defaultdict(Row)
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        properties = {p.get("name"): p.get("value", "") for p in case.iter("property")}
        row = rows[properties["fault"] or ""]
        times = int(properties.get("tried") or 1)
        problems = [*case.iter("failure"), *case.iter("error")]
        skipped = case.find("skipped")
        if skipped is not None:
            row.notes.append(f"not tried: {skipped.get('message', '')}")
            continue
        row.tried += times
        if problems:
            said = problems[0].get("message", "").partition("\n")[0]
            row.lost.append(f"{case.get('name')}: {said}")
        else:
            row.survived += times
        if "note" in properties:
            row.notes.append(properties["note"])
    return dict(rows)


def fuzz(findings: Path) -> Row:
    """Feeds every reader with 20,000 damaged files."""
    ended = subprocess.run(
        [sys.executable, "scripts/fuzz.py", "--out", str(findings)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,  # 1 with findings
    )
    last = re.search(r"^\| all \| (\d+) \|.*\| (\d+) \|$", ended.stdout, re.MULTILINE)
    if last is None:
        return Row(lost=[f"scripts/fuzz.py did not end: {ended.stderr[-300:]}"])
    tried, bad = map(int, last.groups())
    lost = [f"{bad} findings; python scripts/fuzz.py keeps them"] if bad else []
    return Row(tried, tried - bad, lost)


def table(rows: dict[str, Row]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| fault | tried | survived | lost | |", "| --- | --- | --- | --- | --- |"]
    for name, row in rows.items():
        lost = "; ".join(row.lost) or "nothing"
        notes = "; ".join(dict.fromkeys(row.notes))
        lines.append(f"| {name} | {row.tried} | {row.survived} | {lost} | {notes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
