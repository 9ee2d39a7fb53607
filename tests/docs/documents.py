"""What stands in the documents: code blocks, the files they hold, commands, headings and links."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

# commands and blocks that are not run, by how they begin, with the reason
NOT_RUN = {
    "python3 -m venv": "installs gigabytes; CI does it",
    "pip install": "installs packages",
    ".venv/bin/pytest": "the whole suite, this test among it",
    "dask ": "needs the machines of a cluster; tests/execution runs sweeps on Dask and Ray",
    "CUDA_VISIBLE_DEVICES=0 dask ": "needs a cluster with GPUs",
    "clbench run --methods all --seeds 10 --backend": "needs a cluster",
    "clbench run --methods finetune,lwf --seeds 2 --device cuda": "needs a GPU",
    "clbench run --methods joint --seeds 1 --threads 2": "needs two cores",
    "clbench run --sequence avalanche:": "downloads a data set",
    "clbench run --model torchvision:resnet18@weights=IMAGENET1K_V1": "downloads weights",
    "clbench run --model timm:vit_tiny_patch16_224@pretrained=true": "downloads weights",
    "clbench run --sequence torchvision:": "downloads a data set",
    "clbench run --sequence split-cifar100@": "downloads a data set",
    "clbench verify agem2019-split-cifar100": "needs a file of CIFAR-100; tests/sequences/test_own.py reads it",
    "clbench verify erace2022-online-cifar100": "needs a file of CIFAR-100; tests/sequences/test_own.py reads it",
    "clbench run --methods core --sequence folder:~/photos": "needs a folder of photographs; docs/data.md makes one",
    "python results/reference.py": "takes hours; tests/results has its parts",
    "python results/beside_avalanche.py": "takes hours; tests/results has its parts",
    "# sweep.py": "needs SLURM",
    "tensorboard ": "goes on until it is stopped",
    "clbench --install-completion": "changes the settings of the shell",
}
# commands that are planned with --dry-run, as they take minutes or more
PLANNED = ("--data-root ~/data", "--preset note", "clbench verify")


@dataclass(frozen=True)
class Block:
    """A block of code in a document; one that begins with a comment such as `# pull.py` is a file."""

    document: str
    language: str
    text: str

    @property
    def file(self) -> str | None:
        match = re.match(r"# (\S+\.(?:py|toml))\n", self.text)
        return match[1] if match else None

    @property
    def commands(self) -> list[str]:
        if self.language:
            return []
        lines = [re.sub(r"  +#.*", "", line).strip() for line in self.text.splitlines()]
        return [part.strip() for line in lines if not reason(line) for part in line.split("&&")]


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```$", text_of(document), flags=re.DOTALL | re.MULTILINE)
    return [Block(document, language, textwrap.dedent(text)) for _, language, text in found]


def files() -> dict[str, str]:
    """Return the content of every file that stands in a document, by its path."""
    return {block.file: block.text for document in DOCUMENTS for block in blocks(document) if block.file}


def reason(text: str) -> str | None:
    """Return why a command or block is not run, None if it is."""
    return next((why for start, why in NOT_RUN.items() if text.startswith(start)), None)


def is_planned(command: str) -> bool:
    return any(part in command for part in PLANNED)


def anchors(document: str) -> set[str]:
    """Return the anchors of a document's headings, as they are made of them on the web."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text_of(document), flags=re.DOTALL), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: str) -> list[str]:
    """Return the targets of a document's links and figures that are not on the web."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text_of(document), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if not target.startswith("http")]
