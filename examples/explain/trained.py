"""A trained network: its curves, filters, feature maps and errors.

They are drawn from what `python -m examples.train` left in a folder: the figures of each epoch, the weights of the
epoch that the validation images chose, and the labels that they predict for the test images.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from examples import data, figures
from examples.explain.lesson import ArgumentError, Drawing, Lesson, build
from examples.train import load_images

RUN = Path("runs/mnist-cnn3/seed-0")
ALT = {
    "curves": "Loss and accuracy of the training and the validation images by epoch",
    "feature_maps": "Feature maps of one test image, a row for each convolution",
    "misclassified": "Misclassified test images, with their true and their predicted labels",
    "confused": "Images of the classes most often taken for one another, a row for each pair",
    "confusion": "How often each class was predicted for each true class",
}


def lesson(run: Path = RUN) -> Lesson:
    """`run` is the folder of one seed."""
    try:
        metrics = json.loads((run / "metrics.json").read_text())
        weights = load_file(run / "model.safetensors")
    except OSError as error:
        wanted = f"{str(run)!r} has no finished run of examples.train, as {RUN} may have"
        raise ArgumentError("run", f"{wanted} ({error.strerror})") from None
    args, recipe, network, sizes = (metrics[key] for key in ("args", "recipe", "network", "images"))
    folder = None if args["data_dir"] is None else Path(args["data_dir"])
    try:
        images = load_images(recipe["data"], folder, args["limit"], args["device"])
    except data.DataError as error:
        raise ArgumentError("run", f"the images of {str(run)!r} are not to be had: {error}") from None
    labels, predictions = images.test_labels, torch.tensor(metrics["test_predictions"])
    if len(predictions) != len(labels) or (predictions == labels).double().mean().item() != metrics["test_accuracy"]:
        raise ArgumentError("run", f"{str(run)!r} was tested on other images than those from {images.source}")
    model, _ = build(network)
    model.load_state_dict(weights)
    pairs = (f"{a} and {b} ({count})" for a, b, count in figures.confused(labels, predictions, images.classes))
    lines = [
        f"{network}: {metrics['test_accuracy']:.2%} of {sizes['test']:,} test images (reported: {recipe['reported']})",
        f"trained on {sizes['train']:,} images, {len(metrics['epochs'])} epochs, with the weights of epoch "
        f"{metrics['best_epoch']}, in {metrics['seconds']:.0f} s on {metrics['device']}",
        f"most often taken for one another: {', '.join(pairs)}",
    ]
    drawings = [
        Drawing(f"trained-{drawn}", ALT.get(drawn, f"All weights of convolution {drawn.rpartition('-')[2]}"), figure)
        for drawn, figure in figures.drawings(model, images, metrics).items()
    ]
    return Lesson("trained", f"A trained {network}", "\n".join(lines), tuple(drawings))
