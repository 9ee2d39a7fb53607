"""A small sweep, its numbers and every figure, from Python; in a notebook, the last line of a cell is shown by itself.

python results/gallery.py [FOLDER]    a few minutes on two cores; the second time, seconds
"""

import sys
from pathlib import Path

import clbench

METHODS = "finetune,lwf,ewc,joint"


def main(folder: Path, seeds: int = 5, epochs: int | None = None) -> list[Path]:
    """Run the sweep into a folder, draw what it says, and return the figures' files."""
    results = clbench.run(
        METHODS, seeds=seeds, epochs=epochs, eval_every=20, probe=True, out=folder / "runs", quiet=True
    )
    print(results.summary().query("metric == 'average_accuracy'")[["label", "n", "mean", "ci_low", "ci_high"]])
    print(*clbench.compare(results, "lwf", "finetune", metric="forgetting"), sep="\n")
    figures = {
        "what-is-forgotten": results.plot.accuracy_matrix(),  # R[i, j]: accuracy on task j after task i
        "each-task": results.plot.accuracy_by_task(),
        "at-task-switches": results.plot.within_task_curves(),  # the stability gap, from eval_every
        "average": results.plot.average_accuracy(),
        "forgetting": results.plot.forgetting(),
        "stability-against-plasticity": results.plot.stability_plasticity(),
        "differences": results.plot.differences(),  # to fine-tuning, seed by seed
        "each-class": results.plot.class_accuracy(),
        "what-classes-are-taken-for": results.plot.confusion(),
        "features": results.plot.probe(),  # what a linear classifier still finds in them, from probe=True
        "cost": results.plot.accuracy_cost(),
    }
    paths = []
    for name, axes in figures.items():
        figure = axes.flat[0].figure if hasattr(axes, "flat") else axes.figure
        figure.savefig(path := folder / f"{name}.pdf")
        paths.append(path)
    return paths


if __name__ == "__main__":
    for made in main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/gallery")):
        print(made)
