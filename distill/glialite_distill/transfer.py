"""Transfer: which weights train on, from where they start, and how fast each of them moves.

Everything follows the networks' structure (encoder stages, decoder stages, heads), never the spelling of a name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from glialite_runtime.errors import ConfigError
from monai.networks.nets.mednext import MedNeXt
from torch import nn

__all__ = [
    "PARTS",
    "freeze_except",
    "parameter_groups",
    "reinitialise",
    "trainable_names",
    "upkern",
    "warmup_cosine",
]

PARTS: Final = ("all", "last-decoder", "shallow")
"""What can be trained on: everything; the decoder's last stage and every output head; the stem and the first encoder
stage."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """A U-shaped network by stage: the encoder downwards (stem with the first), the decoder upwards, the heads."""

    encoder: tuple[tuple[nn.Module, ...], ...]
    decoder: tuple[tuple[nn.Module, ...], ...]
    heads: tuple[nn.Module, ...]


def _layout(network: nn.Module) -> _Layout:
    if isinstance(network, PlainConvUNet | ResidualEncoderUNet):
        stem = getattr(network.encoder, "stem", None)
        first, *deeper = network.encoder.stages
        return _Layout(
            ((first,) if stem is None else (stem, first), *((stage,) for stage in deeper)),
            tuple(zip(network.decoder.transpconvs, network.decoder.stages, strict=True)),
            (network.decoder.seg_layers,),
        )
    if isinstance(network, MedNeXt):
        first, *deeper = network.enc_stages
        return _Layout(
            ((network.stem, first), *zip(network.down_blocks, (*deeper, network.bottleneck), strict=True)),
            tuple(zip(network.up_blocks, network.dec_stages, strict=True)),
            (network.out_0, *getattr(network, "out_blocks", ())),
        )
    raise ConfigError(
        f"the stages of a {type(network).__name__} are not known: parts and layer-wise rates are for nnU-Net's U-Nets "
        "and MedNeXt; finetune the whole network instead"
    )


def _names_of(network: nn.Module, modules: Iterable[nn.Module]) -> tuple[str, ...]:
    """Return the names of the modules' parameters, in the network's order."""
    chosen = {id(parameter) for module in modules for parameter in module.parameters()}
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in chosen)


def trainable_names(network: nn.Module, part: str) -> tuple[str, ...]:
    """Return the names of the parameters that train when a part is finetuned, in the network's order.

    Parameters
    ----------
    network : nn.Module
        One of nnU-Net's U-Nets (plain or residual encoder) or a MedNeXt, not compiled and not wrapped; any network for
        "all".
    part : str
        One of `PARTS`. A decoder stage is its upsampling and its convolutions.

    Raises
    ------
    ConfigError
        An unknown part, or a network whose stages are not known.

    Notes
    -----
    Source: Hashmi et al., arXiv:2411.15872 (last decoder block and deep-supervision heads); Amiri et al.,
    arXiv:2002.08438 (shallow layers).
    """
    if part not in PARTS:
        raise ConfigError(f"unknown part {part!r} to finetune; known: {', '.join(PARTS)}")
    if part == "all":
        return tuple(name for name, _ in network.named_parameters())
    layout = _layout(network)
    return _names_of(network, (*layout.decoder[-1], *layout.heads) if part == "last-decoder" else layout.encoder[0])


def _check_names(network: nn.Module, names: Sequence[str]) -> None:
    unknown = sorted(set(names) - {name for name, _ in network.named_parameters()})
    if unknown:
        raise ConfigError(f"a {type(network).__name__} has no parameters named {', '.join(unknown)}")


def freeze_except(network: nn.Module, names: Sequence[str]) -> None:
    """Let the named parameters train and no others, in place; unknown names are a `ConfigError`."""
    _check_names(network, names)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)


def reinitialise(network: nn.Module, names: Sequence[str], seed: int) -> None:
    """Give the named parameters, in place, the values of a freshly built network; the others stay bit-equal.

    The draw depends on the network and the seed alone, not on the device, and leaves torch's generators as they were.

    Raises
    ------
    ConfigError
        Unknown names.
    """
    _check_names(network, names)
    fresh = copy.deepcopy(network).cpu()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        if isinstance(network, PlainConvUNet | ResidualEncoderUNet):  # what nnU-Net does after building one
            fresh.apply(network.initialize)
    new = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in names:
                parameter.copy_(new[name])


def parameter_groups(network: nn.Module, rates: tuple[float, float], learning_rate: float) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups with learning rates by depth: early, and deeper.

    Parameters
    ----------
    network : nn.Module
        As for `trainable_names`. Frozen parameters are left out, and so are groups without any.
    rates : tuple of float
        Learning rate of the stem and the first encoder stage, and of everything deeper: the encoder's other stages,
        the decoder and the heads.
    learning_rate : float
        What the run's schedule starts from.

    Returns
    -------
    list of dict
        `params`; `lr`, the group's rate; `factor`, that rate over `learning_rate`: a schedule sets `lr` to its own
        value times `factor`.

    Raises
    ------
    ConfigError
        A rate that is not positive, or a network whose stages are not known.
    """
    if not all(math.isfinite(rate) and rate > 0 for rate in (*rates, learning_rate)):
        raise ConfigError(f"learning rates must be positive; found {rates} and {learning_rate}")
    layout = _layout(network)
    first, *deeper = layout.encoder
    rest = tuple(module for stage in (*deeper, *layout.decoder, layout.heads) for module in stage)
    parameters = dict(network.named_parameters())
    groups = []
    for rate, modules in zip(rates, (first, rest), strict=True):
        params = [parameters[name] for name in _names_of(network, modules) if parameters[name].requires_grad]
        if params:
            groups.append({"params": params, "lr": rate, "factor": rate / learning_rate})
    return groups


def warmup_cosine(initial: float, epoch: int, epochs: int, warmup_epochs: int) -> float:
    """Return the learning rate of an epoch: a straight climb to `initial`, then half a cosine down to 0.

    Parameters
    ----------
    initial : float
        The highest rate, that of epoch `warmup_epochs`.
    epoch, epochs : int
        Epoch from 0 and number of epochs of the run; from `epochs` on the result is 0.
    warmup_epochs : int
        Epochs of the climb, which starts at ``initial / (warmup_epochs + 1)``, not at 0: no epoch is idle. 0 is the
        cosine alone; a run that is shorter than its climb ends on it.

    Notes
    -----
    Source: Loshchilov, Hutter, arXiv:1608.03983 (cosine, without restarts); Goyal et al., arXiv:1706.02677 (warm-up).
    """
    if epoch >= epochs:
        return 0.0
    if epoch < warmup_epochs:
        return initial * (epoch + 1) / (warmup_epochs + 1)
    return initial * 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (epochs - warmup_epochs)))


def upkern(small: Mapping[str, torch.Tensor], large: nn.Module) -> dict[str, torch.Tensor]:
    """Return weights for a network with larger kernels, made from those of its twin with smaller ones.

    Parameters
    ----------
    small : mapping of str to Tensor
        `state_dict` of the trained network; it is not changed.
    large : nn.Module
        The network to be initialised: the same tensors, but for the edges of its depthwise kernels
        (channels, 1, z, y, x).

    Returns
    -------
    dict of str to Tensor
        For `large.load_state_dict`: depthwise kernels interpolated trilinearly to the new edges (values are not
        rescaled), every other tensor bit-equal.

    Raises
    ------
    ConfigError
        The two differ in anything else; every problem is listed.

    Notes
    -----
    Source: Roy et al., MedNeXt, arXiv:2303.09975, UpKern.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in large.state_dict().items()}
    problems = [f"{name} is missing in the trained network" for name in wanted.keys() - small.keys()]
    problems += [f"{name} is not part of the network with larger kernels" for name in small.keys() - wanted.keys()]
    weights = {}
    for name in wanted.keys() & small.keys():
        found, shape = tuple(small[name].shape), wanted[name]
        if found == shape:
            weights[name] = small[name].clone()
        elif len(found) == len(shape) == 5 and found[:2] == shape[:2] and shape[1] == 1:
            weights[name] = nn.functional.interpolate(small[name], size=shape[2:], mode="trilinear")
        else:
            problems.append(f"{name} is {found}, {shape} is needed: only depthwise kernels may differ in size")
    if problems:
        raise ConfigError("\n  ".join(["the weights do not fit:", *sorted(problems)]))
    return {name: weights[name] for name in wanted}
