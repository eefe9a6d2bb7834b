"""MODEL_CARD.md: what an exported model is for, what it was made of, and how far it was measured.

After Mitchell et al., "Model Cards for Model Reporting" (arXiv:1810.03993). Every number comes out
of the run's own files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbusi.data import splits
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import baselines, page, present
from jaxbusi.evaluation.markdown import literal
from jaxbusi.evaluation.report import PROTOCOLS, SCORES, part_words
from jaxbusi.export.evidence import Evidence
from jaxbusi.export.program import Program
from jaxbusi.models.fusion import model_name
from jaxbusi.workdir import evaluate_again

_KINDS = {"images": "images", "tta": "images, mean of their views", "copies": "copies"}


def model_card(
    evidence: Evidence, program: Program, about: Mapping[str, Any], difference: float
) -> str:
    """Returns the text of the card, Markdown.

    Args:
      evidence: the run's files.
      program: what was exported.
      about: of `preprocessing.describe`.
      difference: the largest that was found between the exported model and the run.

    Raises:
      UserError: results.json or config.json is not one of ours.
    """
    try:
        sections = (
            _head(evidence, about),
            _model(evidence, program, about, difference),
            _data(evidence),
            _protocol(evidence),
            *(_results(evidence, part) for part in evidence.results["parts"]),
            _near_copies(evidence),
            _limits(evidence),
            _origin(evidence, about),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{evidence.workdir}/results.json or config.json is not as this version writes them "
            f"({type(error).__name__}: {error}); {evaluate_again(evidence.workdir)}"
        ) from error
    # What the bytes of file names cannot say in UTF-8 must not stop the card.
    text = "\n\n".join("\n".join(section) for section in sections) + "\n"
    return text.encode("utf-8", "replace").decode("utf-8")


def _head(evidence: Evidence, about: Mapping[str, Any]) -> list[str]:
    config = evidence.config["config"]
    model = model_name(config["model"]["branches"], config["model"]["vit"])
    lines = [
        f"# Model card: {literal(evidence.workdir.absolute().name)}",
        "",
        f"{model}, which gives a breast ultrasound image the probabilities of "
        f"{', '.join(about['output']['classes'])}.",
        "",
    ]
    if not config["data"]["root"]:
        lines += [
            "**Synthetic images.** This model was trained and tested on pictures that a program "
            "drew. Its numbers say that the software works, and nothing about patients.",
            "",
        ]
    return [
        *lines,
        "## Intended use",
        "",
        "For research only: to repeat, compare and study results on sets of breast ultrasound "
        "images. Not a medical device, not tested for clinical use. No decision about a patient "
        "may rest on it.",
        "",
        "Not for other organs or other kinds of images: it answers them all the same, with one of "
        "its classes.",
    ]


def _model(
    evidence: Evidence, program: Program, about: Mapping[str, Any], difference: float
) -> list[str]:
    origins = evidence.config.get("origins", {})
    side = program.image_size
    starts = [
        f"* {branch}: from {literal(origins[branch]['format'])}, sha256 "
        f"`{literal(origins[branch]['sha256'])}`"
        if branch in origins
        else f"* {branch}: from random weights"
        for branch in evidence.config["config"]["model"]["branches"]
    ]
    parameters = sum(
        array.size for name, array in program.weights.items() if name.startswith("params/")
    )
    files = ", ".join(f"`{name}`" for name in about["files"].values())
    return [
        "## Model",
        "",
        f"{parameters:,} parameters; images of {side} × {side} pixels, RGB. Its branches began",
        "",
        *starts,
        "",
        f"Files: {files}. `preprocessing.json` says what lies between an image file and the "
        f"model: above all, it is resized straight to {side} × {side} pixels and handed over as "
        "bytes; the model normalises it. Before it was written, the exported model was run: its "
        f"probabilities are those of the run to {difference:.1e}.",
    ]


def _data(evidence: Evidence) -> list[str]:
    data = evidence.config["config"]["data"]
    name = Path(data["root"]).name or f"{data['phantoms']} synthetic images"
    counts = splits.part_counts(evidence.split)
    grouped = {row.image for row in evidence.split if row.group}
    images = {row.image for row in evidence.split}
    lines = [
        "## Data",
        "",
        f"{literal(name)}: {len(images)} images, of which {len(grouped)} are in groups of near-"
        f"copies, or of one patient's where groups were given ({_groups(evidence)} groups).",
        "",
        f"| images (copies) | {' | '.join(CLASSES)} | all |",
        "| --- |" + " --- |" * (len(CLASSES) + 1),
    ]
    for part, by_class in counts.items():
        cells = [f"{images} ({copies})" for images, copies in by_class.values()]
        total = [sum(column) for column in zip(*by_class.values(), strict=True)]
        lines.append(f"| {part} | {' | '.join(cells)} | {total[0]} ({total[1]}) |")
    if data["external"]:
        lines += ["", f"External images: {literal(Path(data['external']).name)}."]
    return lines


def _groups(evidence: Evidence) -> int:
    return len({row.group for row in evidence.split if row.group})


def _protocol(evidence: Evidence) -> list[str]:
    protocol, chosen = evidence.results["protocol"], evidence.results["checkpoint"]
    config = evidence.config["config"]
    return [
        f"## Protocol: {literal(protocol)}",
        "",
        PROTOCOLS[protocol],
        "",
        f"Trained for up to {config['num_epochs']:g} epochs with seed {config['seed']}. The "
        f"weights are those of step {chosen['step']}, the {literal(chosen['chosen'])} checkpoint.",
    ]


def _results(evidence: Evidence, part: str) -> list[str]:
    found = evidence.results["parts"][part]
    kinds = {"images": found["images"]}
    if found["copies"] != found["images"]:
        kinds |= {"tta": found["tta"], "copies": found["copies"]}
    described = part_words(part, evidence.results["protocol"])
    headings = [f"{rows['count']} {_KINDS[kind]}" for kind, rows in kinds.items()]
    lines = [
        f"## Results: {literal(part)} part",
        "",
        f"{described[:1].upper()}{described[1:]}. With 95 % intervals; † where it is the exact "
        "binomial one, as the bootstrap had no spread.",
        "",
        f"| | {' | '.join(headings)} |",
        "| --- |" + " --- |" * len(kinds),
    ]
    for key, label, _ in SCORES:
        mean = "" if key == "accuracy" else ", mean of classes"
        cells = [_score(rows, key) for rows in kinds.values()]
        lines.append(f"| {label}{mean} | {' | '.join(cells)} |")
    for name in CLASSES:
        for key, label, _ in SCORES[1:]:
            cells = [_score(rows, key, name) for rows in kinds.values()]
            lines.append(f"| {name}: {label} | {' | '.join(cells)} |")
    brier = _interval(found["calibration"]["brier"], "brier")
    error = _interval(found["calibration"]["ece"], "ece")
    lines += ["", f"Brier score {brier}, expected calibration error {error}, on the images."]
    if words := present.sentence(found, found["images"]["count"]):
        lines += ["", words]
    lines += ["", *_confusion(found["images"]["confusion"])]
    return lines + _rules(found)


def _confusion(matrix: Sequence[Sequence[int]]) -> list[str]:
    """Rows are the truth."""
    return [
        f"| images that are … were called | {' | '.join(CLASSES)} |",
        "| --- |" + " --- |" * len(CLASSES),
        *(
            f"| {name} | {' | '.join(f'{count:d}' for count in row)} |"
            for name, row in zip(CLASSES, matrix, strict=True)
        ),
    ]


def _rules(found: Mapping[str, Any]) -> list[str]:
    """What knows nothing of tissue gets right."""
    scored = [
        f"{words} {_interval(found['baselines'][rule]['accuracy'], 'accuracy')}"
        for rule, words in baselines.NAMES.items()
        if rule in found["baselines"]
    ]
    if not scored:
        return []
    return ["", f"Accuracy of rules that know nothing of tissue: {'; '.join(scored)}."]


def _score(rows: Mapping[str, Any], key: str, name: str = "") -> str:
    """A cell of the table: of a class, or where `name` is empty of all."""
    value, full = rows[key], key
    if name:
        value, full = rows["per_class"][name][key], f"per_class.{name}.{key}"
    return _interval(value, key) + (" †" if full in rows["exact"] else "")


def _interval(value: Mapping[str, Any], key: str) -> str:
    """'83.3 % (77.0 to 88.9 %)'."""
    if value["value"] is None:
        return "not defined"
    return f"{page.score(value['value'], key)} ({page.score_range(value, key)})"


def _near_copies(evidence: Evidence) -> list[str]:
    lines = ["## Near-copies of training images", ""]
    leakage = evidence.results["leakage"]
    itself = ", or are in it themselves" if evidence.results["protocol"] == "leaky" else ""
    for part, found in leakage.items():
        count, images = found["near_copy_in_training"], found["images"]
        lines.append(
            f"* {count} of {images} {literal(part)} images ({page.percent(count / images)}) have a "
            f"near-copy in the training part{itself}."
        )
    if any(found["near_copy_in_training"] for found in leakage.values()):
        meaning = (
            "A near-copy is the same view again: cropped, scaled, mirrored or with other marks. A "
            "model that remembers the one recognises the other, so that these scores are higher "
            "than they would be on new patients; by how much, only a run with "
            "`--config.data.protocol=clean` or a second hospital's images can say."
        )
    else:
        meaning = "No score here profits from them."
    return [
        *lines,
        "",
        f"{meaning} They were looked for by the pictures alone, unless groups or patients were "
        "given: two different views of one lesion are not found so.",
    ]


def _limits(evidence: Evidence) -> list[str]:
    sizes = " and ".join(
        f"{found['images']['count']} {part} images"
        for part, found in evidence.results["parts"].items()
    )
    return [
        "## Limits",
        "",
        f"* The intervals say how far a number may be off because only {sizes} were looked at. "
        "They do not cover another hospital, device, operator or population, nor another split or "
        "training run.",
        "* Shares of benign, malignant and normal images are those of the set; precision depends "
        "on them.",
        "* The probabilities are those of the model itself, without a temperature. They need not "
        "be right as often as they say.",
        "* Burnt-in text, calipers, image size or the device may give a class away; nothing here "
        "shows that the model looked at the lesion.",
        "* No group of patients (age, density of the breast, origin) was looked at separately: the "
        "set does not name them.",
    ]


def _origin(evidence: Evidence, about: Mapping[str, Any]) -> list[str]:
    fingerprint = {**about["fingerprint"]}
    files = fingerprint.pop("files_sha256")
    versions = {**evidence.config["versions"]}
    devices = evidence.config["devices"]
    return [
        "## Where it comes from",
        "",
        *(f"* {key}: `{value}`" for key, value in fingerprint.items()),
        *(f"* sha256 of {name}: `{value}`" for name, value in files.items()),
        f"* trained with {', '.join(f'{name} {literal(v)}' for name, v in versions.items())}, on "
        f"{devices['count']} × {literal(devices['kind'])} ({literal(devices['platform'])})",
        "",
        "The command of the run:",
        "",
        *(f"    {line}" for line in page.command_text(evidence.config["command"]).splitlines()),
    ]
