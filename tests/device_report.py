"""What device.py has found, as a page in Markdown, and what of it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CLOSE = 1e-8  # how far a weight in float64 may be from the CPU's
YES_OR_NO = {
    "counts": "CPU and device in float64: accuracies, updates, images, passes, stored bytes are equal",
    "repeated": "the same run twice on the device is equal bit for bit",
    "captured": "a run of captured steps is equal bit for bit to one step by step",
    "resumed": "a run that goes on from a checkpoint on the device is equal bit for bit",
    "agrees": "our mean agrees with the published one",
    "shared": "a run that takes over its first task on the device is equal bit for bit",
}


def faults(content: dict[str, Any]) -> list[str]:
    """Return what is wrong, a line each."""
    found = []
    for part in content["parts"]:
        if part["ended"] != "ok":
            found.append(f"{part['part']}: {part['ended']} {part['last_line']}".rstrip())
    for result in content["results"]:
        what = f"{result['part']}, {result['label']}"
        if "error" in result:
            found.append(f"{what}: {' '.join(result['error'].split())}")
        if not result.get("float64", 0) <= CLOSE:
            found.append(f"{what}: in float64 a weight differs by {result['float64']:.1e}")
        if not result.get("beside", 0) <= CLOSE:
            found.append(f"{what}: in float64 a weight of runs side by side differs by {result['beside']:.1e}")
        found += [f"{what}: not so: {text}" for name, text in YES_OR_NO.items() if result.get(name) is False]
        found += [f"{what}: failed: {one}" for one in result.get("failed", [])]
    return found


def report(content: dict[str, Any]) -> str:
    """Return the page."""
    machine, parts = content["machine"], content["parts"]
    lines = ["# A device beside the CPU", "", "Written by `python tests/device.py`.", ""]
    lines += _table(["machine", ""], [[name.replace("_", " "), value] for name, value in machine.items()])
    wrong = faults(content)
    lines += ["", "## Faults", "", *([f"- {one}" for one in wrong] or ["None."])]
    lines += ["", "## Parts", ""]
    lines += _table(["part", "ended", "seconds"], [[p["part"], p["ended"], p["seconds"]] for p in parts])
    lines += [f"\nTests: {p['last_line'].strip('= ')}" for p in parts if p["last_line"]]
    for heading, section in SECTIONS:
        results = [r for r in content["results"] if r["part"] == heading.split()[-1].lower()]
        lines += ["", f"## {heading}", "", *section(results)] if results else []
    return "\n".join(lines) + "\n"


def _agreement(results: list[dict[str, Any]]) -> list[str]:
    rows: list[Sequence[Any]] = [
        ["cases; stopped by an error", f"{len(results)}; {sum('error' in r for r in results)}"]
    ]
    for name, text in (
        ("float64", "CPU and device in float64: largest difference of a weight"),
        ("float32", "CPU and device in float32: largest difference, relative to the largest weight"),
        ("beside", "runs side by side and alone, in float64: largest difference of a weight"),
    ):
        measured = [(r[name], r["label"]) for r in results if name in r]
        if measured:
            worst, label = max(measured)
            rows.append([text, f"{worst:.1e} ({label}), {len(measured)} cases"])
    for name, text in YES_OR_NO.items():
        said = [r[name] for r in results if name in r]
        rows += [[text, f"{sum(said)} of {len(said)}"]] if said else []
    return _table(["question", "answer"], rows)


def _speed(results: list[dict[str, Any]]) -> list[str]:
    """Return steps per second: the median of the repeats, the lowest and the highest in brackets."""
    places = list(dict.fromkeys(r["where"] for r in results))
    rows = []
    for label in dict.fromkeys(r["label"] for r in results):
        of = {r["where"]: r for r in results if r["label"] == label}
        rates = [of[place]["steps_per_second"] if place in of else None for place in places]
        texts = [_rate(of[place]) if place in of else "" for place in places]
        ratio = f"{rates[0] / rates[1]:.2f}" if len(rates) == 2 and rates[0] and rates[1] else ""
        rows.append([label, next(iter(of.values()))["data"], *texts, ratio])
    names = ["one CPU core" if place == "cpu" else place for place in places]
    ratio = "ratio" if len(places) == 2 else ""
    text = "Steps of training per second, what a method does after a task included: median (lowest to highest), steps."
    return [text, "", *_table(["network, method", "data", *names, ratio], rows)]


def _rate(result: dict[str, Any]) -> str:
    spread = f"{result['lowest']:,} to {result['highest']:,}"
    return f"{result['steps_per_second']:,} ({spread}), {result['steps']:,}"


def _command(results: list[dict[str, Any]]) -> list[str]:
    rows = [[r["label"], r["records"], len(r["failed"]), r["seconds"]] for r in results]
    return _table(["all methods on split-digits", "records", "failed", "seconds"], rows)


def _published(results: list[dict[str, Any]]) -> list[str]:
    rows = [[r["label"], r["ours"], r["theirs"], r["seconds"]] for r in results if "ours" in r]
    return _table(["row", "ours", "theirs", "seconds"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines]


SECTIONS = (("Agreement", _agreement), ("Speed", _speed), ("The command", _command), ("Published", _published))
