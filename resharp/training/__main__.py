"""``python -m resharp.training TRAIN VALID --out FOLDER``: train the built-in model's network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import torch

from resharp.training.degrade import Degradation
from resharp.training.train import LOSSES, TrainingConfig, TrainingRun


@click.command()
@click.argument("train", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("valid", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--steps", default=TrainingConfig.steps, show_default=True)
@click.option("--features", default=TrainingConfig.features, show_default=True)
@click.option("--convolutions", default=TrainingConfig.convolutions, show_default=True)
@click.option("--batch", default=TrainingConfig.batch, show_default=True)
@click.option("--patch", default=TrainingConfig.patch, show_default=True)
@click.option("--decay", default=TrainingConfig.decay, show_default=True)
@click.option("--bfloat16/--float32", default=TrainingConfig.bfloat16, show_default=True)
@click.option(
    "--loss", type=click.Choice(sorted(LOSSES)), default=TrainingConfig.loss, show_default=True
)
@click.option(
    "--clean",
    default=Degradation.clean,
    show_default=True,
    help="Fraction of samples that are only downscaled.",
)
@click.option("--noise", default=Degradation.noise, show_default=True, help="Probability of noise.")
@click.option("--jpeg", default=Degradation.jpeg, show_default=True, help="Probability of JPEG.")
@click.option("--sigma", nargs=2, default=Degradation.noise_sigma, show_default=True)
@click.option("--quality", nargs=2, default=Degradation.jpeg_quality, show_default=True)
@click.option("--seed", default=TrainingConfig.seed, show_default=True)
@click.option("--every", default=500, show_default=True, help="Steps between validations.")
@click.option("--until", type=int, help="Stop at this step, to resume with other options.")
@click.option("--threads", default=0, help="Number of CPU threads (0: torch's default).")
def main(
    train: Path,
    valid: Path,
    out: Path,
    every: int,
    until: int | None,
    threads: int,
    clean: float,
    noise: float,
    jpeg: float,
    sigma: tuple[float, float],
    quality: tuple[int, int],
    **options: Any,
) -> None:
    """Train on the images in TRAIN and validate on those in VALID; resume a run in OUT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if threads:
        torch.set_num_threads(threads)
    degradation = Degradation(
        clean=clean, noise=noise, jpeg=jpeg, noise_sigma=sigma, jpeg_quality=quality
    )
    run = TrainingRun(out, TrainingConfig(degradation=degradation, **options), train, valid)
    run.resume()
    run.run(every=every, until=until)


if __name__ == "__main__":
    main()
