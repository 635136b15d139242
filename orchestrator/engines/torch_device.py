"""The torch device that an engine is to run on."""

from __future__ import annotations

import torch

from orchestrator.errors import ConfigurationError, ModelLoadError


def device_of(name: str, model: str) -> torch.device:
    """The torch device called ``name``.

    Raises:
        ConfigurationError: there is no such kind of device.
        ModelLoadError: it is not in this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"There is no torch device {name!r}.", fix="use cpu, cuda or cuda:<number>.", model=model
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelLoadError(
            f"The device {name} is not there: torch sees {torch.cuda.device_count()} CUDA devices.",
            fix="set the device to cpu, or repair the driver.",
            model=model,
        )
    return device
