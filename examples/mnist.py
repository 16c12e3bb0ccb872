"""A convolutional network learns handwritten digits, on layers whose every kernel is written in Triton.

    python -m examples.mnist

Runs on a GPU, or in a minute or two on a CPU, where Triton's interpreter executes the kernels. train.py beside it does
the same for more networks, with options, checkpoints and figures.
"""

import sys

import torch

import tritonconv.nn as nn
from examples import data

TARGET = 0.97

torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
digits = data.load("mnist")
if device.type == "cpu":
    digits = digits.subset(4000, 1000)
digits = digits.to(device)
print(f"{len(digits.train_labels):,} digits to train on, {len(digits.test_labels):,} to test, from {digits.source}")

model = nn.Sequential(  # torch's layers by another name: a convolution, its ReLU and its pooling run as one kernel
    nn.Conv2d(1, 32, 3, padding="same"),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, 3, padding="same"),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(64 * 7 * 7, 10),
).to(device)

epochs, batch_size = 5, 64
steps = -(-len(digits.train_labels) // batch_size)
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.006, total_steps=epochs * steps)

for epoch in range(epochs):
    for batch in torch.randperm(len(digits.train_labels), device=device).split(batch_size):
        scores = model(digits.train_images[batch] / 255)
        loss = nn.functional.cross_entropy(scores, digits.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        right = [model(images / 255).argmax(1) for images in digits.test_images.split(500)]
    accuracy = (torch.cat(right) == digits.test_labels).double().mean().item()
    print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {accuracy:.2%} of the test digits")

sys.exit(accuracy < TARGET)
